// A size drawn as a strip: one slot a position, as wide as its block has teacher layers.

const MANY_LAYERS = 48;

export class Strip {
  /**
   * @param {HTMLElement} root an empty element with role="img"
   * @param {number[][]} blocks the teacher layers of each position
   */
  constructor(root, blocks) {
    this.root = root;
    this.slots = blocks.map((block, index) => {
      const slot = document.createElement("span");
      slot.className = "slot";
      slot.dataset.position = index + 1;
      slot.style.flexGrow = block.length;
      slot.append(...block.map(() => document.createElement("i")));
      return slot;
    });
    root.classList.toggle("dense", blocks.flat().length > MANY_LAYERS);
    root.replaceChildren(...this.slots);
  }

  /** @param {number[]} patched positions of teacher blocks, counted from 1 */
  show(patched) {
    const isPatched = new Set(patched);
    this.slots.forEach((slot, index) => slot.classList.toggle("teacher", isPatched.has(index + 1)));
    const positions = this.slots.map((_, index) => index + 1);
    this.root.ariaLabel = `Of ${positions.length} positions, ${named(positions.filter((one) => !isPatched.has(one)), "student layer")}; ${named(patched, "teacher block")}.`;
  }
}

function named(positions, noun) {
  if (positions.length === 0) return `no ${noun}s`;
  return `${noun}${positions.length === 1 ? "" : "s"} at ${runs(positions).join(", ")}`;
}

/** [1, 2, 3, 7] as ["1 to 3", "7"]. */
function runs(positions) {
  const found = [];
  for (const position of positions) {
    const last = found.at(-1);
    if (last && last[1] === position - 1) last[1] = position;
    else found.push([position, position]);
  }
  return found.map(([first, last]) => (first === last ? `${first}` : `${first} to ${last}`));
}

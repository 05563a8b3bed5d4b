// A size to be chosen: by a slider over the ladder, or by the milliseconds that a token may take.

import { bytes, figures, millions, milliseconds, percent } from "./numbers.js";
import { Strip } from "./strip.js";

export class Lane {
  /**
   * @param {string} letter A or B
   * @param {import("./family.js").Family} family
   * @param {number} index where in the ladder it begins
   * @param {() => void} onChange
   */
  constructor(letter, family, index, onChange) {
    this.letter = letter;
    this.family = family;
    this.onChange = onChange;
    this.root = document.getElementById("lane-template").content.cloneNode(true).firstElementChild;
    this.root.ariaLabel = `Size ${letter}`;
    this.root.querySelector(".badge").textContent = letter;
    this.slider = this.part("size").querySelector("input");
    this.slider.max = family.sizes.length - 1;
    this.slider.value = index;
    this.slider.addEventListener("input", () => this.changed());
    this.bound = this.part("latency").querySelector("input");
    this.strip = new Strip(this.root.querySelector(".strip"), family.blocks);
    if (family.isCalibrated) this.offerLatency();
    this.show();
  }

  /** The size that is chosen, or that will likely answer a latency budget. */
  get size() {
    return this.isTimed ? this.family.likelyFor(this.bound.valueAsNumber) : this.family.sizes[this.slider.valueAsNumber];
  }

  /** What a request says of its size. */
  get ask() {
    return this.isTimed ? { budget: { tpot_ms: this.bound.valueAsNumber } } : { variant: this.size.id };
  }

  get isTimed() {
    return this.root.querySelector("input[value=latency]").checked;
  }

  /** Choose a size of the ladder. */
  choose(index) {
    this.root.querySelector("input[value=size]").checked = true;
    this.slider.value = index;
    this.changed();
  }

  /** Show what is known now. */
  show() {
    const { family, size, isTimed } = this;
    this.part("size").hidden = isTimed;
    this.part("latency").hidden = !isTimed;
    this.field("bound").textContent = milliseconds(this.bound.valueAsNumber || 0);
    const inWords = `${millions(size.parameters)} parameters, ${size.layers} of ${family.teacherLayers} layers`;
    this.slider.setAttribute("aria-valuetext", inWords);
    this.bound.setAttribute("aria-valuetext", `${milliseconds(this.bound.valueAsNumber || 0)} a token, likely ${inWords}`);
    this.strip.show(size.patched);
    const predicted = family.predictedMs(size);
    const latency = predicted ?? family.measuredMs.get(size.id);
    this.field("parameters").textContent = millions(size.parameters);
    this.field("id").textContent = size.id;
    this.field("share").textContent = percent(size.fraction);
    this.field("layers").textContent = `${size.layers} of ${family.teacherLayers}`;
    this.field("memory").textContent = bytes(size.bytes);
    this.field("latency-name").textContent = predicted === undefined && latency !== undefined ? "Measured latency" : "Predicted latency";
    this.field("latency").textContent = latency === undefined ? "not calibrated" : `${milliseconds(latency)} a token`;
    this.field("perplexity").textContent = size.quality ? figures(size.quality.perplexity) : "not measured";
    this.field("kl").textContent = typeof size.quality?.kl === "number" ? `${size.quality.kl.toFixed(2)} nats` : "not measured";
  }

  offerLatency() {
    const kind = this.part("kind");
    kind.hidden = false;
    for (const radio of kind.querySelectorAll("input")) {
      radio.name = `choose-${this.letter}`;
      radio.addEventListener("change", () => this.changed());
    }
    const times = this.family.sizes.map((size) => this.family.predictedMs(size));
    this.bound.min = Math.floor(Math.min(...times));
    this.bound.max = Math.ceil(1.25 * Math.max(...times));
    this.bound.value = this.family.predictedMs(this.family.sizes[this.slider.valueAsNumber]) * 1.1;
    this.bound.addEventListener("input", () => this.changed());
  }

  changed() {
    this.show();
    this.onChange();
  }

  part(name) {
    return this.root.querySelector(`[data-part="${name}"]`);
  }

  field(name) {
    return this.root.querySelector(`[data-field="${name}"]`);
  }
}

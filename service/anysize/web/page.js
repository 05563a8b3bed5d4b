// The page: what its parts tell each other.

import { Answer } from "./answer.js";
import { Curve } from "./curve.js";
import { Family } from "./family.js";
import { KeyForm } from "./key.js";
import { Lane } from "./lane.js";
import { Load } from "./load.js";
import { Prompt } from "./prompt.js";
import { fetchVariants, ServiceError } from "./service.js";
import { fillTable } from "./table.js";

const FIRST_SIZE = 0.6;
const NO_KEY = 401;

class Page {
  /** @param {Family} family */
  constructor(family) {
    this.family = family;
    document.getElementById("family-name").textContent = family.name;
    const last = family.sizes.length - 1;
    this.lanes = [
      new Lane("A", family, Math.round(last * FIRST_SIZE), () => this.choose(0)),
      new Lane("B", family, last, () => this.choose(1)),
    ];
    this.answers = [new Answer("A"), new Answer("B")];
    document.getElementById("lanes").replaceChildren(...this.lanes.map((lane) => lane.root));
    document.getElementById("answers").replaceChildren(...this.answers.map((answer) => answer.root));
    this.curve = new Curve(family, (index) => this.lanes[this.chosen].choose(index));
    this.table = document.getElementById("table");
    fillTable(this.table, family);
    this.prompt = new Prompt({ start: () => this.run(), stop: () => this.stop(), clear: () => this.clear() });
    this.announcer = document.getElementById("announcer");
    this.toggle = document.getElementById("compare");
    this.toggle.addEventListener("change", () => this.compare());
    this.compare();
    this.load = new Load(family, () => this.redraw());
  }

  /** How many sizes are asked. */
  get count() {
    return this.toggle.checked ? 2 : 1;
  }

  /** A lane has changed; the curve's next pick is for it. */
  choose(lane) {
    this.chosen = lane;
    this.mark();
  }

  compare() {
    this.lanes[1].root.hidden = this.count < 2;
    this.answers[1].root.hidden = this.count < 2;
    document.body.classList.toggle("comparing", this.count > 1);
    this.choose(this.count - 1);
  }

  mark() {
    const lanes = this.lanes.slice(0, this.count);
    this.curve.mark(new Map(lanes.map((lane) => [lane.letter, this.family.indexOf(lane.size.id)])));
  }

  /** Show what is known of the sizes now, if that has changed. */
  redraw() {
    const now = JSON.stringify([this.family.sizes, [...this.family.measuredMs]]);
    if (now === this.drawn) return;
    this.drawn = now;
    this.lanes.forEach((lane) => lane.show());
    this.mark();
    this.curve.draw();
    fillTable(this.table, this.family);
  }

  async run() {
    const { asked, options, count } = { asked: this.prompt.asked, options: this.prompt.options, count: this.count };
    this.controller = new AbortController();
    this.prompt.isRunning = true;
    this.announcer.textContent = "Answering";
    try {
      const runs = this.lanes.slice(0, count).map((lane, index) => this.answers[index].run(asked, { ...options, ...lane.ask }, this.controller.signal));
      this.announcer.textContent = (await Promise.all(runs)).join(" ");
    } finally {
      this.prompt.isRunning = false;
    }
    await this.refresh();
  }

  /** Read what the answer has changed: counts, and predictions that learn from what is measured. */
  async refresh() {
    try {
      this.family.update(await fetchVariants());
    } catch (error) {
      if (!(error instanceof ServiceError)) throw error;
    }
    this.load.poll();
  }

  stop() {
    this.controller?.abort();
  }

  clear() {
    this.stop();
    this.answers.forEach((answer) => answer.clear());
  }
}

/** Begin, once the service says what it serves. */
async function begin() {
  const family = new Family(await fetchVariants());
  new Page(family);
  document.body.dataset.ready = "";
}

function giveUp(error) {
  if (!(error instanceof ServiceError)) throw error;
  const place = document.getElementById("unavailable");
  place.textContent = `${error.message} Load this page again once it does.`;
  place.hidden = false;
}

try {
  await begin();
} catch (error) {
  if (error.status === NO_KEY) new KeyForm(begin, giveUp).ask();
  else giveUp(error);
}

// The family that is served: its sizes, smallest first, and what is known of each.

import { counted, figures, millions, milliseconds, percent } from "./numbers.js";

export class Family {
  /** @param listed the answer of `GET /variants` */
  constructor(listed) {
    this.name = listed.family;
    this.blocks = listed.blocks;
    this.teacherLayers = listed.blocks.flat().length;
    this.update(listed);
    /** Mean milliseconds between tokens that the service has measured, by id of the size. */
    this.measuredMs = new Map();
  }

  /** Take what is predicted now; the ladder itself never changes. */
  update(listed) {
    this.sizes = listed.variants;
  }

  get isCalibrated() {
    return this.sizes.every((size) => size.predicted_tpot_ms);
  }

  get isMeasured() {
    return this.sizes.some((size) => size.quality);
  }

  /** Where in the ladder a size is, or -1. */
  indexOf(id) {
    return this.sizes.findIndex((size) => size.id === id);
  }

  /** Milliseconds between tokens that are predicted for a request alone, if any are. */
  predictedMs(size) {
    return size.predicted_tpot_ms?.["1"];
  }

  /** The largest size that is predicted to keep a bound, or the smallest. */
  likelyFor(tpotMs) {
    return this.sizes.findLast((size) => this.predictedMs(size) <= tpotMs) ?? this.sizes[0];
  }

  /** What is known of a size, in words. */
  facts(size) {
    const facts = [`${millions(size.parameters)} parameters`, percent(size.fraction), `${size.layers} of ${counted(this.teacherLayers, "layer")}`];
    if (size.quality) facts.push(`perplexity ${figures(size.quality.perplexity)}`);
    const predicted = this.predictedMs(size);
    const measured = this.measuredMs.get(size.id);
    if (predicted !== undefined) facts.push(`${milliseconds(predicted)} a token predicted`);
    if (measured !== undefined) facts.push(`${milliseconds(measured)} a token measured`);
    return facts;
  }
}

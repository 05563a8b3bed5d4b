// Prometheus text: the samples of one scrape.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

export class Scrape {
  /** @param {string} text as `GET /metrics` answers */
  constructor(text) {
    this.samples = new Map();
    for (const line of text.split("\n")) {
      const found = SAMPLE.exec(line);
      if (!found) continue;
      const [, name, labels = "", value] = found;
      if (!this.samples.has(name)) this.samples.set(name, []);
      this.samples.get(name).push({ labels: Object.fromEntries([...labels.matchAll(LABEL)].map((one) => [one[1], one[2]])), value: Number(value) });
    }
  }

  /** The sum over all labels; 0 where there is none. */
  total(name) {
    return (this.samples.get(name) ?? []).reduce((sum, { value }) => sum + value, 0);
  }

  /** Sums by the values of one label. */
  by(name, label) {
    const sums = new Map();
    for (const { labels, value } of this.samples.get(name) ?? []) {
      sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
    }
    return sums;
  }
}

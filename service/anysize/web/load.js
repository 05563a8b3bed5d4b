// What the service is doing: read from its metrics every two seconds while somebody can see it.

import { Gauge } from "./gauge.js";
import { Scrape } from "./prometheus.js";
import { fetchMetrics, ServiceError } from "./service.js";

const EVERY_MS = 2000;
const NOT_HERE = 404;

export class Load {
  /**
   * @param {import("./family.js").Family} family told what a token takes
   * @param {() => void} onMeasured called once it has been
   */
  constructor(family, onMeasured) {
    this.family = family;
    this.onMeasured = onMeasured;
    this.health = document.getElementById("health");
    this.running = new Gauge("Running", (value) => value.toFixed(0));
    this.waiting = new Gauge("Waiting", (value) => value.toFixed(0));
    this.speed = new Gauge("Tokens a second", (value) => value.toFixed(value < 10 ? 1 : 0));
    document.getElementById("gauges").replaceChildren(this.running.root, this.waiting.root, this.speed.root);
    this.rows = new Map([...family.sizes.map((size) => size.id).reverse(), "other"].map((id) => [id, row(id)]));
    document.querySelector("#served tbody").replaceChildren(...this.rows.values());
    this.before = null;
    document.addEventListener("visibilitychange", () => this.poll());
    this.poll();
  }

  /** Read now, and again and again while the page is visible. */
  async poll() {
    clearTimeout(this.timer);
    if (document.hidden || this.isReading || this.isApart) return;
    this.isReading = true;
    try {
      this.show(new Scrape(await fetchMetrics()), performance.now());
      this.sayHealth("answering", true);
    } catch (error) {
      if (!(error instanceof ServiceError)) throw error;
      if (error.status === NOT_HERE) return this.leave();
      this.before = null;
      this.sayHealth("not answering", false);
    } finally {
      this.isReading = false;
      if (!this.isApart) this.timer = setTimeout(() => this.poll(), EVERY_MS);
    }
  }

  /** Metrics are served on a port of their own, which is not for this page. */
  leave() {
    this.isApart = true;
    document.getElementById("live").hidden = true;
    document.getElementById("metrics-link").hidden = true;
    this.sayHealth("answering", true);
  }

  show(scrape, now_ms) {
    this.running.push(scrape.total("anysize_num_requests_running"));
    this.waiting.push(scrape.total("anysize_num_requests_waiting"));
    // Counted by the step, where the counter of generated tokens moves only as a request ends.
    const tokens = scrape.total("anysize_batch_current_size_sum");
    if (this.before && now_ms > this.before.now_ms) {
      this.speed.push((1000 * Math.max(0, tokens - this.before.tokens)) / (now_ms - this.before.now_ms));
    }
    this.before = { tokens, now_ms };
    this.showServed(scrape.by("anysize_request_success_total", "variant"));
    this.measure(scrape);
  }

  showServed(answers) {
    const most = Math.max(1, ...answers.values());
    for (const [id, tr] of this.rows) {
      const count = answers.get(id) ?? 0;
      tr.hidden = id === "other" && count === 0;
      tr.querySelector(".count").textContent = count;
      tr.querySelector("i").style.width = `${(100 * count) / most}%`;
      const index = this.family.indexOf(id);
      tr.querySelector("i").style.setProperty("--teacher-share", index < 0 ? "50%" : `${share(this.family, index)}%`);
    }
  }

  measure(scrape) {
    const counts = scrape.by("anysize_inter_token_latency_seconds_count", "variant");
    const sums = scrape.by("anysize_inter_token_latency_seconds_sum", "variant");
    for (const [id, count] of counts) {
      if (count > 0) this.family.measuredMs.set(id, (1000 * sums.get(id)) / count);
    }
    this.onMeasured();
  }

  sayHealth(text, isWell) {
    if (this.health.textContent !== text) this.health.textContent = text;
    this.health.classList.toggle("well", isWell);
  }
}

/** How much of a size is teacher, in per cent of the way from the smallest to the largest. */
export function share(family, index) {
  const { layers } = family.sizes[index];
  const [least, most] = [family.sizes[0].layers, family.sizes.at(-1).layers];
  return most === least ? 100 : Math.round((100 * (layers - least)) / (most - least));
}

function row(id) {
  const tr = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = id;
  const cell = document.createElement("td");
  const bar = document.createElement("span");
  bar.className = "bar";
  bar.append(document.createElement("i"));
  const count = document.createElement("span");
  count.className = "count";
  cell.append(bar, count);
  tr.append(name, cell);
  return tr;
}

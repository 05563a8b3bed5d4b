// The family's sizes against their quality and their latency: two panels over one axis of parameters.

import { share } from "./load.js";
import { millions } from "./numbers.js";
import { linear, logarithmic } from "./scale.js";

const LEFT = 44;
const RIGHT = 18;
const QUALITY = { top: 46, bottom: 180 };
const LATENCY = { top: 226, bottom: 330 };
const HEIGHT = 372;

export class Curve {
  /**
   * @param {import("./family.js").Family} family
   * @param {(index: number) => void} onPick
   */
  constructor(family, onPick) {
    this.family = family;
    this.onPick = onPick;
    this.root = document.getElementById("curve");
    this.tip = html("div", "tip");
    this.tip.ariaHidden = "true";
    this.tip.hidden = true;
    this.svg = svg("svg", { role: "group" });
    this.svg.ariaLabel = "Sizes by parameters, perplexity and milliseconds a token. Arrow keys go from size to size, Enter chooses one.";
    this.root.replaceChildren(this.svg, this.tip);
    this.marks = new Map();
    this.focused = family.sizes.length - 1;
    this.svg.addEventListener("pointermove", (event) => this.point(this.nearest(event)));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("click", (event) => onPick(this.nearest(event)));
    this.svg.addEventListener("keydown", (event) => this.press(event));
    this.sayWhatIsMissing();
    new ResizeObserver(() => this.draw()).observe(this.root);
  }

  /** Mark the sizes that are chosen. @param {Map<string, number>} marks index in the ladder by letter */
  mark(marks) {
    this.marks = marks;
    this.drawMarks();
  }

  /** Draw everything, in the width there is. */
  draw() {
    const { family } = this;
    const width = this.root.clientWidth;
    if (width === 0) return;
    const parameters = family.sizes.map((size) => size.parameters);
    this.x = linear([Math.min(...parameters), Math.max(...parameters)], [LEFT + 12, width - RIGHT]);
    this.quality = this.scaleOf(logarithmic, this.qualities(), QUALITY);
    this.latency = this.scaleOf(linear, [...this.latencies(), 0], LATENCY);
    const hadFocus = this.svg.contains(document.activeElement);
    for (const [name, value] of Object.entries({ viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT })) this.svg.setAttribute(name, value);
    this.layer = svg("g", { class: "marks" });
    this.points = family.sizes.map((size, index) => this.pointOf(size, index));
    this.svg.replaceChildren(
      ...this.axes(width),
      this.line(this.quality, (size) => size.quality?.perplexity),
      this.line(this.latency, (size) => family.predictedMs(size)),
      this.layer,
      ...this.points,
    );
    this.drawMarks();
    if (hadFocus) this.points[this.focused].focus();
  }

  axes(width) {
    const parts = [
      text(0, 14, "Perplexity, on a logarithmic scale: lower is better", "title"),
      text(0, LATENCY.top - 24, `Milliseconds a token, ${this.family.isCalibrated ? "line: predicted, " : ""}◇ measured`, "title"),
    ];
    for (const [scale, panel] of [[this.quality, QUALITY], [this.latency, LATENCY]]) {
      parts.push(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT + 8, y1: panel.bottom, y2: panel.bottom }));
      for (const tick of scale?.ticks(4) ?? []) {
        parts.push(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT + 8, y1: scale(tick), y2: scale(tick) }));
        parts.push(text(LEFT - 8, scale(tick) + 4, String(Number(tick.toPrecision(3))), "tick end"));
      }
    }
    for (const tick of this.x.ticks(4)) parts.push(text(this.x(tick), LATENCY.bottom + 18, millions(tick).replace(/\.0+ /, " "), "tick middle"));
    parts.push(text(width - RIGHT + 8, HEIGHT - 3, "parameters", "tick end"));
    return parts;
  }

  line(scale, valueOf) {
    const places = this.family.sizes.filter((size) => valueOf(size) !== undefined).map((size) => `${this.x(size.parameters).toFixed(1)},${scale(valueOf(size)).toFixed(1)}`);
    return svg("path", { class: "line", d: places.length ? `M${places.join("L")}` : "" });
  }

  pointOf(size, index) {
    const x = this.x(size.parameters);
    const group = svg("g", { class: "point", role: "button", tabindex: index === this.focused ? 0 : -1 });
    group.ariaLabel = `${size.id}: ${this.family.facts(size).join(", ")}`;
    group.dataset.size = size.id;
    group.style.setProperty("--teacher-share", `${share(this.family, index)}%`);
    group.append(svg("line", { class: "guide", x1: x, x2: x, y1: QUALITY.top - 14, y2: LATENCY.bottom }));
    const predicted = this.family.predictedMs(size);
    const measured = this.family.measuredMs.get(size.id);
    if (size.quality) group.append(svg("circle", { cx: x, cy: this.quality(size.quality.perplexity), r: 4.5 }));
    if (predicted !== undefined) group.append(svg("circle", { cx: x, cy: this.latency(predicted), r: 3.5 }));
    if (measured !== undefined) group.append(svg("path", { class: "measured", d: `M${x},${this.latency(measured) - 6}l6,6l-6,6l-6,-6z` }));
    group.addEventListener("focus", () => this.point(index));
    group.addEventListener("blur", () => this.point(null));
    return group;
  }

  drawMarks() {
    if (!this.layer) return;
    const letters = new Map();
    for (const [letter, index] of this.marks) letters.set(index, [...(letters.get(index) ?? []), letter]);
    this.points.forEach((group, index) => group.setAttribute("aria-pressed", letters.has(index)));
    this.layer.replaceChildren(...[...letters].flatMap(([index, names]) => this.markOf(this.family.sizes[index], names)));
  }

  markOf(size, names) {
    const x = this.x(size.parameters);
    const parts = [svg("line", { class: "chosen", x1: x, x2: x, y1: QUALITY.top - 10, y2: LATENCY.bottom })];
    if (size.quality) parts.push(svg("circle", { class: "ring", cx: x, cy: this.quality(size.quality.perplexity), r: 9 }));
    const ms = this.family.predictedMs(size) ?? this.family.measuredMs.get(size.id);
    if (ms !== undefined) parts.push(svg("circle", { class: "ring", cx: x, cy: this.latency(ms), r: 9 }));
    return [...parts, text(x, QUALITY.top - 14, names.join(" "), "letter middle")];
  }

  /** Show the tooltip of one size, or none. */
  point(index) {
    this.points.forEach((group, one) => group.classList.toggle("pointed", one === index));
    this.tip.hidden = index === null;
    if (index === null) return;
    const size = this.family.sizes[index];
    const heading = Object.assign(html("b"), { textContent: size.id });
    this.tip.replaceChildren(heading, ...this.family.facts(size).map((fact) => Object.assign(html("span"), { textContent: fact })));
    const isRight = this.x(size.parameters) > this.root.clientWidth / 2;
    this.tip.style.left = `${this.x(size.parameters) + (isRight ? -14 : 14)}px`;
    this.tip.classList.toggle("left", isRight);
  }

  press(event) {
    const last = this.points.length - 1;
    const to = { ArrowRight: this.focused + 1, ArrowLeft: this.focused - 1, Home: 0, End: last }[event.key];
    if (to !== undefined) {
      this.points[this.focused].setAttribute("tabindex", -1);
      this.focused = Math.min(last, Math.max(0, to));
      this.points[this.focused].setAttribute("tabindex", 0);
      this.points[this.focused].focus();
    } else if (event.key === "Enter" || event.key === " ") {
      this.onPick(this.focused);
    } else {
      return;
    }
    event.preventDefault();
  }

  nearest(event) {
    const at = event.clientX - this.svg.getBoundingClientRect().left;
    const distances = this.family.sizes.map((size) => Math.abs(this.x(size.parameters) - at));
    return distances.indexOf(Math.min(...distances));
  }

  scaleOf(kind, values, { top, bottom }) {
    const known = values.filter((value) => value !== undefined);
    if (known.length === 0) return null;
    return kind([Math.min(...known), Math.max(...known) || 1], [bottom - 10 * (kind === logarithmic), top]);
  }

  qualities() {
    return this.family.sizes.map((size) => size.quality?.perplexity);
  }

  latencies() {
    return this.family.sizes.flatMap((size) => [this.family.predictedMs(size), this.family.measuredMs.get(size.id)]);
  }

  sayWhatIsMissing() {
    const { family } = this;
    const datasets = new Set(family.sizes.flatMap((size) => size.quality?.dataset ?? []));
    document.getElementById("curve-note").textContent = datasets.size ? `Perplexity on ${[...datasets].join(", ")}.` : "No quality was measured of this family.";
    document.getElementById("calibrate-note").hidden = family.isCalibrated;
  }
}

function svg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function html(name, className = "") {
  return Object.assign(document.createElement(name), { className });
}

function text(x, y, content, className) {
  const element = svg("text", { x, y, class: className });
  element.textContent = content;
  return element;
}

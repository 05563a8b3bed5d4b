// A number that moves: its last value, and a line of those before it.

const KEPT = 60;
const WIDTH = 120;
const HEIGHT = 32;

export class Gauge {
  /**
   * @param {string} name
   * @param {(value: number) => string} worded
   */
  constructor(name, worded) {
    this.name = name;
    this.worded = worded;
    this.values = [];
    this.root = document.getElementById("gauge-template").content.cloneNode(true).firstElementChild;
    this.root.querySelector("h3").textContent = name;
    this.picture = this.root.querySelector("svg");
    this.picture.ariaLabel = `${name}: nothing read yet`;
  }

  push(value) {
    this.values = [...this.values, value].slice(-KEPT);
    const top = Math.max(1, ...this.values);
    const points = this.values.map((one, index) => [
      WIDTH - (this.values.length - 1 - index) * (WIDTH / (KEPT - 1)),
      HEIGHT - 2 - (one / top) * (HEIGHT - 4),
    ]);
    const line = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");
    this.picture.querySelector(".line").setAttribute("d", `M${line}`);
    this.picture.querySelector(".area").setAttribute("d", `M${points[0][0].toFixed(1)},${HEIGHT}L${line}L${WIDTH},${HEIGHT}Z`);
    this.picture.ariaLabel = `${this.name}, the last two minutes: at most ${this.worded(Math.max(...this.values))}`;
    this.root.querySelector(".reading").textContent = this.worded(value);
  }
}

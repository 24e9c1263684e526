// A line over the last two minutes of values, named for screen readers.
const MOST = 120;

export class Chart {
  constructor(svg, unit) {
    this.svg = svg;
    this.unit = unit;
    this.line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    svg.append(this.line);
    this.clear();
  }
  clear() {
    this.values = [];
    this.draw();
  }
  add(value) {
    this.values = [...this.values, value].slice(-MOST);
    this.draw();
  }
  draw() {
    const top = Math.max(1, ...this.values);
    const points = this.values.map((value, index) => `${(300 * index) / (MOST - 1)},${57 - (54 * value) / top}`);
    this.line.setAttribute("points", points.join(" "));
    const last = this.values.at(-1);
    const label = last === undefined ? "no values yet" : `now ${last.toFixed(1)}, at most ${Math.max(...this.values).toFixed(1)}`;
    this.svg.setAttribute("aria-label", `${this.unit}: ${label}`);
  }
}

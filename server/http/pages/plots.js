// Numbers of /metrics, and small plots of how they change.

const POINTS = 150;
const WIDTH = 300;
const HEIGHT = 110;
const SVG = "http://www.w3.org/2000/svg";

// "name{labels}" to value.
export function parseMetrics(text) {
  const series = new Map();
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const cut = line.lastIndexOf(" ");
    series.set(line.slice(0, cut), Number(line.slice(cut + 1)));
  }
  return series;
}

export function sumOf(series, name) {
  let sum = 0;
  for (const [key, value] of series) {
    if (key === name || key.startsWith(name + "{")) sum += value;
  }
  return sum;
}

// Of what a histogram took in between two scrapes; null where that is nothing.
export function quantile(before, after, name, share) {
  const bounds = [];
  for (const [key, value] of after) {
    if (!key.startsWith(name + "_bucket{le=\"")) continue;
    const le = key.slice(name.length + 12, -2);
    bounds.push([le === "+Inf" ? Infinity : Number(le), value - (before.get(key) ?? 0)]);
  }
  bounds.sort((a, b) => a[0] - b[0]);
  const all = bounds.length === 0 ? 0 : bounds[bounds.length - 1][1];
  if (all <= 0) return null;
  let low = 0, below = 0;
  for (const [bound, count] of bounds) {
    if (count >= share * all) {
      if (bound === Infinity || count === below) return low;
      return low + (bound - low) * (share * all - below) / (count - below);
    }
    low = bound;
    below = count;
  }
  return low;
}

export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

function svg(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// One figure with up to three lines over the last minutes.
export class Plot {
  constructor(parent, title, unit, names) {
    this.unit = unit;
    this.names = names;
    this.lines = names.map(() => []);
    const figure = document.createElement("figure");
    figure.className = "plot";
    this.drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", preserveAspectRatio: "none" });
    const caption = document.createElement("figcaption");
    const bold = document.createElement("b");
    bold.textContent = unit ? `${title}, ${unit}` : title;
    caption.append(bold);
    this.labels = names.map((name, i) => {
      const span = document.createElement("span");
      span.className = `c${i}`;
      caption.append(span);
      return span;
    });
    this.title = title;
    this.top = document.createElement("small");
    figure.append(caption, this.top, this.drawing);
    parent.append(figure);
  }

  push(values) {
    this.lines.forEach((line, i) => {
      line.push(values[i]);
      if (line.length > POINTS) line.shift();
    });
    this.draw();
  }

  draw() {
    const top = Math.max(1e-9, ...this.lines.flat().filter((value) => value !== null));
    const said = this.names.map((name, i) => {
      const text = `${name} ${short(this.lines[i].at(-1))}`.trim();
      this.labels[i].textContent = text;
      return text;
    });
    this.drawing.setAttribute("aria-label", `${this.title}: ${said.join(", ")} ${this.unit}`);
    const parts = [svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: 12, y2: 12 })];
    this.top.textContent = short(top);
    this.lines.forEach((line, i) => parts.push(svg("path", { class: `s${i}`, d: this.path(line, top) })));
    this.drawing.replaceChildren(...parts);
  }

  path(line, top) {
    let path = "", drawn = false;
    line.forEach((value, i) => {
      if (value === null) {
        drawn = false;
        return;
      }
      const x = WIDTH - (line.length - 1 - i) * WIDTH / (POINTS - 1);
      const y = HEIGHT - 2 - value / top * (HEIGHT - 14);
      // A lone point is a dash, so that it shows.
      path += drawn ? `L${x.toFixed(1)} ${y.toFixed(1)}` : `M${(x - 2).toFixed(1)} ${y.toFixed(1)}h2`;
      drawn = true;
    });
    return path;
  }
}

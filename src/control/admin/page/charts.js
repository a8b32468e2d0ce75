// Small charts over time, drawn as SVG. A chart is given points, and functions that read them.

import { clock } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 132;
const PAD = { top: 10, right: 8, bottom: 20, left: 52 };
// The shortest time that is shown, so that the first points do not jump about.
const SPAN_MIN_MS = 60000;
// A line is not drawn over a gap that is longer: nothing is known of what was there.
const GAP_MS = 5000;

function node(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function niceMax(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * unit).find((step) => step >= value * 1.05) ?? 10 * unit;
}

export class Chart {
  // series: [{ label, kind: "stable" | "canary" | "other", value(point), low?(point), high?(point) }]
  // limit: { value(), label }; log: an e-value's scale; format: a number in words;
  // max: the top of the scale; least: the lowest that it may be
  constructor({ title, series, format, limit = null, log = false, max = null, least = 0 }) {
    Object.assign(this, { title, series, format, limit, log, max, least, points: [], at: null });
    this.element = document.createElement("figure");
    this.element.className = "chart";
    const caption = document.createElement("figcaption");
    const name = document.createElement("span");
    name.className = "chart-title";
    name.textContent = title;
    this.legend = document.createElement("span");
    this.legend.className = "legend";
    caption.append(name, this.legend);
    this.values = series.map((one) => {
      const entry = document.createElement("span");
      entry.className = `key ${one.kind}`;
      const value = document.createElement("b");
      entry.append(`${one.label} `, value);
      this.legend.append(entry);
      return value;
    });
    this.svg = node("svg", { role: "img", tabindex: "0", height: HEIGHT });
    this.moment = document.createElement("span");
    this.moment.className = "moment";
    this.legend.append(this.moment);
    this.element.append(caption, this.svg);
    this.width = 0;
    new ResizeObserver(() => this.resize()).observe(this.element);
    this.svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.leave());
    this.svg.addEventListener("blur", () => this.leave());
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  resize() {
    const width = Math.floor(this.element.clientWidth);
    if (width === this.width || width === 0) return;
    this.width = width;
    this.draw();
  }

  update(points) {
    this.points = points;
    if (this.width) this.draw();
    else this.resize();
  }

  leave() {
    this.at = null;
    this.draw();
  }

  // Looks at the point that is nearest to `x` pixels.
  point(x) {
    const wanted = this.from + ((x - PAD.left) / this.inner) * (this.to - this.from);
    let nearest = null;
    this.points.forEach((one, index) => {
      const far = Math.abs(one.at - wanted);
      if (nearest === null || far < nearest.far) nearest = { far, index };
    });
    this.at = nearest ? this.points[nearest.index].at : null;
    this.draw();
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") this.leave();
    if (step === undefined || this.points.length === 0) return;
    event.preventDefault();
    const last = this.points.length - 1;
    const now = this.at === null ? last : this.points.findIndex((one) => one.at >= this.at);
    this.at = this.points[Math.max(0, Math.min(last, now + step))].at;
    this.draw();
  }

  scale() {
    const seen = this.points.flatMap((one) => this.series.flatMap((series) =>
      [series.value(one), series.high?.(one)])).filter((value) => Number.isFinite(value));
    const limit = this.limit?.value();
    if (this.log) {
      const most = Math.min(1e12, Math.max(limit * 5, ...seen, 10));
      const [low, high] = [-1, Math.log10(most) + 0.15];
      const place = (value) => (Math.log10(Math.max(0.1, Math.min(value, most))) - low) / (high - low);
      return { place, ticks: [1, ...(limit ? [] : [most])] };
    }
    // The band may be as wide as the whole at first: then it is cut off, and the lines stay readable.
    const lines = this.points.flatMap((one) => this.series.map((series) => series.value(one)));
    const most = Math.max(...lines.filter(Number.isFinite), limit ? limit * 2 : 0, this.least);
    const widest = Math.max(...seen, 0);
    const max = this.max ?? niceMax(Math.min(Math.max(most, widest), Math.max(most, limit ? limit * 4 : most * 3)));
    return { place: (value) => Math.min(value, max) / max, ticks: [0, max] };
  }

  draw() {
    const last = this.points.at(-1);
    this.inner = this.width - PAD.left - PAD.right;
    if (!(this.inner > 0)) return;
    this.to = last?.at ?? 0;
    this.from = Math.min(this.points[0]?.at ?? 0, this.to - SPAN_MIN_MS);
    const { place, ticks } = this.scale();
    const tall = HEIGHT - PAD.top - PAD.bottom;
    const x = (at) => PAD.left + ((at - this.from) / (this.to - this.from)) * this.inner;
    const y = (value) => PAD.top + (1 - place(value)) * tall;
    const parts = [];
    for (const tick of ticks) {
      parts.push(node("line", { class: "grid", x1: PAD.left, x2: this.width - PAD.right, y1: y(tick), y2: y(tick) }));
      parts.push(node("text", { class: "axis", x: PAD.left - 6, y: y(tick) + 4, "text-anchor": "end" }, this.format(tick)));
    }
    for (const one of this.series) parts.push(...this.trace(one, x, y));
    if (this.limit) {
      const height = y(this.limit.value());
      parts.push(node("line", { class: "limit", x1: PAD.left, x2: this.width - PAD.right, y1: height, y2: height }));
      const label = `${this.limit.label} ${this.format(this.limit.value())}`;
      const under = height < PAD.top + 12;
      parts.push(node("text", { class: "limit-text", x: PAD.left + 5, y: height + (under ? 13 : -4) }, label));
    }
    parts.push(...this.ends(x));
    const span = Math.round((this.to - this.from) / 1000);
    const long = span >= 120 ? `${Math.round(span / 60)} min ago` : `${span} s ago`;
    parts.push(node("text", { class: "axis", x: PAD.left, y: HEIGHT - 4 }, long));
    parts.push(node("text", { class: "axis", x: this.width - PAD.right, y: HEIGHT - 4, "text-anchor": "end" }, "now"));
    const looked = this.at === null ? last : this.points.find((one) => one.at >= this.at) ?? last;
    if (this.at !== null && looked) {
      parts.push(node("line", { class: "cursor", x1: x(looked.at), x2: x(looked.at), y1: PAD.top, y2: PAD.top + tall }));
    }
    this.moment.textContent = this.at !== null && looked ? `at ${clock(looked.at)}` : "";
    this.series.forEach((one, index) => {
      this.values[index].textContent = looked ? this.format(one.value(looked)) : "–";
    });
    this.svg.setAttribute("width", this.width);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    const told = this.series.map((one, index) => `${one.label} ${this.values[index].textContent}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title}: ${told}${this.at === null ? " now" : ` ${this.moment.textContent}`}. Arrow keys look back.`);
    this.svg.replaceChildren(...parts);
  }

  // The line of a series, and its band.
  trace(one, x, y) {
    const runs = [];
    let before = null;
    for (const point of this.points) {
      const value = one.value(point);
      if (!Number.isFinite(value)) {
        before = null;
        continue;
      }
      if (before === null || point.at - before > GAP_MS) runs.push([]);
      runs.at(-1).push(point);
      before = point.at;
    }
    const parts = [];
    for (const run of runs) {
      if (one.low) {
        const top = run.map((point) => `${x(point.at)},${y(one.high(point))}`);
        const bottom = run.map((point) => `${x(point.at)},${y(one.low(point))}`).reverse();
        parts.push(node("polygon", { class: `band ${one.kind}`, points: [...top, ...bottom].join(" ") }));
      }
      const line = run.map((point) => `${x(point.at)},${y(one.value(point))}`).join(" ");
      parts.push(node("polyline", { class: `line ${one.kind}`, points: line }));
    }
    const end = runs.at(-1)?.at(-1);
    if (end) parts.push(node("circle", { class: `tip ${one.kind}`, cx: x(end.at), cy: y(one.value(end)), r: 3 }));
    return parts;
  }

  // Where the rollout came into another state.
  ends(x) {
    const parts = [];
    this.points.forEach((one, index) => {
      const before = this.points[index - 1];
      if (!before || before.state === one.state) return;
      if (!["rolled_back", "aborted", "promoted"].includes(one.state)) return;
      const place = x(one.at);
      parts.push(node("line", { class: `end ${one.state}`, x1: place, x2: place, y1: PAD.top, y2: HEIGHT - PAD.bottom }));
    });
    return parts;
  }
}

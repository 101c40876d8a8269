// Charts as SVG: lines, steps, bands and points, a limit, and marks with links.

import { isNumber, numberTicks, readX, readY, timeTicks, xAxis, yAxis } from "./axes.js";
import { el } from "./dom.js";

const LEFT = 44, RIGHT = 12, BOTTOM = 20;
const MINUTE_MS = 60000, DAY_MS = 1440 * MINUTE_MS;

/** A chart in `parent` of the facts of figure.js. It redraws when its size changes. */
export class Chart {
  constructor(parent) {
    this.svg = el("svg", { class: "plot", role: "img" });
    // Beside the image: links inside an image do not work.
    this.flags = el("div", { class: "flags" });
    this.box = el("div", { class: "plot-box" }, this.svg, this.flags);
    parent.append(this.box);
    this.size = { width: 0, height: 0 };
    this.sizes = new ResizeObserver(([{ contentRect }]) => {
      this.size = contentRect;
      this.draw();
    });
    this.sizes.observe(this.svg);
  }

  show(facts) {
    this.facts = facts;
    this.draw();
  }

  close() { this.sizes.disconnect(); }

  draw() {
    // As observed: to ask for it lays out the page anew, for each figure.
    const { width, height } = this.size;
    if (!width || !this.facts) return;
    this.place(width, height);
    const { series, limit } = this.facts;
    const shown = this.clip(width, height);
    const parts = series.map((one) => [...this.shape(one)]);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...this.stretches(), ...this.grid(), shown, el("g", { "clip-path": `url(#${this.clipId})` },
      limit ? this.level(limit) : "", this.marks(), ...parts), ...this.beyond(), ...this.labels(), this.cursor = el("path", { class: "cursor" }));
    this.flags.replaceChildren(...this.links());
    this.onDraw?.();
  }

  /** Computes the scales at this size. */
  place(width, height) {
    const { series, x_range: range } = this.facts;
    this.xs = xAxis(series, range);
    this.ys = yAxis(series, this.facts);
    Object.assign(this, { width, height, floor: height - BOTTOM, top: this.facts.x_title || this.facts.y_title ? 20 : 14, left: LEFT, right: Math.max(width - RIGHT, LEFT) });
    const across = (width - LEFT - RIGHT) / (this.xs.to - this.xs.from);
    const up = (height - this.top - BOTTOM) / (this.ys.to - this.ys.from);
    this.atX = (value) => LEFT + (value - this.xs.from) * across;
    this.within = (value) => value >= this.xs.from && value <= this.xs.to;
    this.x = (x) => this.atX(this.xs.place(x));
    this.y = (value) => height - BOTTOM - (value - this.ys.from) * up;
  }

  /** Clips drawings to the area of the axes. */
  clip(width, height) {
    this.clipId ??= `clip-${Math.random().toString(36).slice(2)}`;
    return el("clipPath", { id: this.clipId },
      el("rect", { x: LEFT - 4, y: this.top - 8, width: Math.max(width - LEFT - RIGHT + 8, 0), height: Math.max(height - this.top - BOTTOM + 10, 0) }));
  }

  *grid() {
    const { width, height, xs, ys } = this;
    for (const value of numberTicks(ys, height > 160 ? 4 : 2)) {
      const y = this.y(value);
      yield el("path", { class: "gridline", d: `M${LEFT} ${y}H${width - RIGHT}` });
      yield el("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, readY(value));
    }
    const most = Math.max(Math.floor((width - LEFT) / (xs.kind === "time" && xs.to - xs.from > DAY_MS ? 95 : 66)), 2);
    const every = (xs.kind === "time" ? timeTicks : numberTicks)(xs, most);
    const isExact = xs.kind === "time" && every.some((value) => value % MINUTE_MS);
    for (const value of every) {
      const x = this.atX(value);
      if (x >= LEFT + 16 && x <= width - 22) yield el("text", { x, y: height - 4, "text-anchor": "middle" }, readX(xs, value, isExact));
    }
    const { x_title: across, y_title: up } = this.facts;
    if (across) yield el("text", { class: "axis-title", x: width - RIGHT, y: this.top - 5, "text-anchor": "end" }, `${across} →`);
    if (up) yield el("text", { class: "axis-title", x: LEFT + 2, y: this.top - 5 }, up);
  }

  /** The stretches of time, shaded, with a line above that tells their kinds apart without colour. */
  *stretches() {
    for (const { from, to, kind, text } of this.facts.stretches ?? []) {
      const left = Math.max(this.x(from), LEFT), right = Math.min(this.x(to), this.right);
      if (right <= left) continue;
      yield el("rect", { class: `shade ${kind}`, x: left, y: this.top, width: right - left, height: Math.max(this.floor - this.top, 0) }, el("title", {}, text));
      yield el("path", { class: `l shade-edge ${kind}`, d: `M${left} ${this.floor + 1.5}H${right}` });
    }
  }

  /** Marks at the top for values beyond the axis. */
  *beyond() {
    for (const one of this.facts.series.filter((each) => each.beyond)) {
      let last = -Infinity;
      for (let at = 0; at < one.x.length; at += 1) {
        const x = this.x(one.x[at]);
        const isBeyond = [one.y, one.upper].some((values) => values?.[at] > this.ys.to);
        if (!isBeyond || x - last < 9 || x < LEFT || x > this.right) continue;
        last = x;
        yield el("path", { class: `beyond ${one.colour ?? "blue"}`, d: `M${x - 4} ${this.top + 2}L${x} ${this.top - 5}L${x + 4} ${this.top + 2}Z` });
      }
    }
  }

  level({ value, isFloor }) {
    const { width } = this, y = this.y(value);
    return el("g", {},
      isFloor ? "" : el("rect", { class: "a red", x: LEFT, y: this.top, width: Math.max(width - LEFT - RIGHT, 0), height: Math.max(y - this.top, 0) }),
      el("path", { class: "l red limit", d: `M${LEFT} ${y}H${width - RIGHT}` }));
  }

  marks() {
    const lines = this.seenMarks().map(({ x }) => `M${this.x(x)} ${this.top}V${this.floor}`);
    return el("path", { class: "mark", d: lines.join("") });
  }

  seenMarks() {
    return (this.facts.marks ?? []).filter(({ x }) => this.within(this.xs.place(x)));
  }

  /** The flags of the marks. The figure's table has their links for the keyboard. */
  *links() {
    for (const { x, text, href } of this.seenMarks()) {
      const flag = el(href ? "a" : "span", { class: "flag", href, title: text, tabindex: href ? "-1" : null },
        el("span", { class: "hidden" }, text));
      flag.style.left = `${(100 * this.x(x)) / this.width}%`;
      yield flag;
    }
  }

  *shape(one) {
    const { kind, colour = "blue" } = one;
    if (one.lower && one.upper) {
      for (const run of runs(one.x, one.lower, one.upper)) {
        if (kind === "band" || kind === "line") yield el("path", { class: `a ${colour}`, d: this.between(one, run) });
        else yield el("path", { class: `l thin ${colour}`, d: run.map((at) => this.whisker(one, at)).join("") });
      }
    }
    if (!one.y) return;
    // Overlapping areas would look stacked.
    const isAlone = this.facts.series.filter((each) => each.kind === "step").length === 1;
    if (kind === "points") {
      for (const run of runs(one.x, one.y)) for (const at of run) yield this.dot(one, at);
      return;
    }
    for (const run of runs(one.x, one.y)) {
      const d = path(run.map((at) => [this.x(one.x[at]), this.y(one.y[at])]), kind === "step");
      if (kind === "step" && isAlone) {
        const last = this.x(one.x[run[run.length - 1]]), floor = this.y(Math.max(this.ys.from, 0));
        yield el("path", { class: `a ${colour}`, d: `${d}L${last} ${floor}L${this.x(one.x[run[0]])} ${floor}Z` });
      }
      yield el("path", { class: `l ${colour}${kind === "band" ? " dashed" : ""}`, d });
    }
  }

  between({ x, lower, upper }, run) {
    const high = run.map((at) => [this.x(x[at]), this.y(upper[at])]);
    const low = run.map((at) => [this.x(x[at]), this.y(lower[at])]).reverse();
    return `${path(high)}L${path(low).slice(1)}Z`;
  }

  whisker({ x, lower, upper }, at) { return `M${this.x(x[at])} ${this.y(lower[at])}V${this.y(upper[at])}`; }

  dot({ x, y, colour = "blue" }, at) { return el("circle", { class: `dot ${colour}`, cx: this.x(x[at]), cy: this.y(y[at]), r: 4 }); }

  /** The labels of points, moved away from each other, inside of the axes. */
  *labels() {
    const taken = [];
    for (const one of this.facts.series.filter((each) => each.labels)) {
      for (const [at, text] of one.labels.entries()) {
        if (!text || !isNumber(one.y[at])) continue;
        const x = this.x(one.x[at]), wide = 6.2 * text.length, isLeft = x + 8 + wide > this.width;
        const from = isLeft ? x - 8 - wide : x + 8;
        let y = this.y(one.y[at]) + 4;
        while (taken.some((box) => from < box.to && from + wide > box.from && Math.abs(y - box.y) < 12) && y < this.floor - 4) y += 12;
        taken.push({ from, to: from + wide, y });
        yield el("text", { class: "point-label", x: isLeft ? x - 8 : x + 8, y, "text-anchor": isLeft ? "end" : "start" }, text);
      }
    }
  }
}

/** The runs of indices at which all of these have values: a gap in the data is a gap in the line. */
function runs(x, ...values) {
  const found = [];
  let open = null;
  for (let at = 0; at < x.length; at += 1) {
    if (!values.every((each) => isNumber(each[at]))) { open = null; continue; }
    if (!open) { open = []; found.push(open); }
    open.push(at);
  }
  return found;
}

function path(points, step) {
  return points.map(([x, y], index) => {
    if (!index) return `M${x.toFixed(1)} ${y.toFixed(1)}`;
    return step ? `H${x.toFixed(1)}V${y.toFixed(1)}` : `L${x.toFixed(1)} ${y.toFixed(1)}`;
  }).join("");
}

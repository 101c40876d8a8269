// A chart over time: lines, a band, a limit, marks where decisions were applied, and a tip under the pointer.

import { clock, el } from "./dom.js";

const LEFT = 38, RIGHT = 10, TOP = 14, BOTTOM = 20;

/** A chart in `parent`. `lines`: [{key, kind, name, step, to}] where `to` is the key a band reaches up to. */
export class Chart {
  constructor(parent, { title, unit, lines, limit, format, short, ceiling }) {
    Object.assign(this, { lines, limit, format, unit, ceiling });
    this.svg = el("svg", { class: "plot", role: "img" });
    this.tip = el("div", { class: "tip", hidden: "" });
    const names = lines.map((line) => legend(line.kind, line.name, line.to));
    if (limit) names.push(legend("red", limit.name));
    const box = el("article", { class: `card chart${short ? " short" : ""}` },
      el("header", {}, el("h3", {}, title, " ", el("small", {}, unit)), el("div", { class: "legend" }, names)),
      this.svg, this.tip);
    parent.append(box);
    this.title = title;
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => { this.at = null; this.draw(); });
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  /** Show these samples ({at, ...}); `limit` is the level not to cross. */
  show(samples, limit) {
    this.samples = samples.map((sample) => ({ ...sample, t: Date.parse(sample.at) }));
    this.level = limit;
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth, height = this.svg.clientHeight;
    if (!width || !this.samples) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const samples = this.samples;
    const end = samples.length ? samples[samples.length - 1].t : Date.now();
    const begin = Math.min(samples.length ? samples[0].t : end, end - 60000);
    const keys = this.lines.flatMap((line) => (line.to ? [line.key, line.to] : [line.key]));
    const most = Math.max(...samples.flatMap((sample) => keys.map((key) => sample[key] ?? 0)), (this.level ?? 0) * 1.12, 0);
    const top = this.ceiling ?? nice(most * 1.06 || 1);
    this.x = (t) => LEFT + ((t - begin) / (end - begin)) * (width - LEFT - RIGHT);
    this.y = (value) => height - BOTTOM - (value / top) * (height - TOP - BOTTOM);
    const parts = [...this.axes(top, begin, end, width, height)];
    if (this.level) {
      const y = this.y(this.level);
      parts.push(el("rect", { class: "a red", x: LEFT, y: TOP, width: width - LEFT - RIGHT, height: Math.max(y - TOP, 0) }),
        el("path", { class: "l red", d: `M${LEFT} ${y}H${width - RIGHT}` }));
    }
    parts.push(...samples.filter((sample) => sample.reason.startsWith("apply.")).map((sample) => this.mark(sample, height)));
    for (const line of this.lines) parts.push(...this.line(line));
    if (this.at) parts.push(el("path", { class: "cursor", d: `M${this.x(this.at.t)} ${TOP}V${height - BOTTOM}` }));
    this.svg.replaceChildren(...parts);
    this.svg.setAttribute("aria-label", this.summary());
    this.showTip(width);
  }

  *axes(top, begin, end, width, height) {
    const steps = height > 160 ? 4 : 2;
    for (let index = 0; index <= steps; index += 1) {
      const value = (top * index) / steps, y = this.y(value);
      yield el("path", { class: "gridline", d: `M${LEFT} ${y}H${width - RIGHT}` });
      yield el("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, this.format(value));
    }
    const every = [15, 30, 60, 120, 300].find((s) => (end - begin) / 1000 / s <= width / 95) ?? 600;
    for (let t = Math.ceil(begin / (every * 1000)) * every * 1000; t <= end; t += every * 1000) {
      if (this.x(t) < LEFT + 18 || this.x(t) > width - 24) continue;
      yield el("text", { x: this.x(t), y: height - 4, "text-anchor": "middle" }, every < 60 ? clock(t) : clock(t).slice(0, 5));
    }
  }

  mark(sample, height) {
    const x = this.x(sample.t);
    return el("g", {}, el("path", { class: "mark", d: `M${x} ${TOP}V${height - BOTTOM}` }),
      el("path", { class: "flag", d: `M${x - 4.5} ${TOP - 9}h9l-4.5 7z` }));
  }

  *line({ key, kind, step, to }) {
    for (const run of runs(this.samples, key)) {
      const points = run.map((sample) => [this.x(sample.t), this.y(sample[key])]);
      const d = path(points, step);
      if (to) {
        const upper = run.map((sample) => [this.x(sample.t), this.y(sample[to] ?? sample[key])]);
        yield el("path", { class: `a ${kind}`, d: `${path(upper)}L${path(points.slice().reverse()).slice(1)}Z` });
      } else if (step) {
        const floor = this.y(0), [last] = points[points.length - 1];
        yield el("path", { class: `a ${kind}`, d: `${d}L${last} ${floor}L${points[0][0]} ${floor}Z` });
      }
      yield el("path", { class: `l ${kind}`, d });
      if (!to && run[run.length - 1] === this.samples[this.samples.length - 1]) {
        const [x, y] = points[points.length - 1];
        yield el("circle", { class: `dot ${kind}`, cx: x, cy: y, r: 3.5 });
      }
    }
  }

  point(event) {
    if (!this.samples?.length) return;
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    this.at = this.samples.reduce((best, sample) => (Math.abs(this.x(sample.t) - x) < Math.abs(this.x(best.t) - x) ? sample : best));
    this.draw();
  }

  showTip(width) {
    this.tip.hidden = !this.at;
    if (!this.at) return;
    const rows = this.lines.map((line) => {
      const upper = line.to ? ` – ${this.value(this.at[line.to])}` : "";
      return el("div", {}, `${line.name} ${this.value(this.at[line.key])}${upper} ${this.unit}`);
    });
    const why = this.at.reason.startsWith("apply.") ? [el("div", {}, `▾ ${this.at.reason}`)] : [];
    this.tip.replaceChildren(el("b", {}, clock(this.at.at)), ...rows, ...why);
    const x = this.x(this.at.t);
    this.tip.style.top = "44px";
    this.tip.style.left = x < width / 2 ? `${x + 26}px` : "auto";
    this.tip.style.right = x < width / 2 ? "auto" : `${width - x + 26}px`;
  }

  value(value) { return value === null || value === undefined ? "–" : this.format(value, true); }

  summary() {
    const last = this.samples[this.samples.length - 1];
    if (!last) return `${this.title}: nothing yet`;
    return `${this.title}: ${this.lines.map((line) => `${line.name} ${this.value(last[line.key])} ${this.unit}`).join(", ")}`;
  }
}

function legend(kind, name, band) {
  const shape = band ? [el("rect", { class: `a ${kind}`, width: 18, height: 10 })] : [];
  return el("span", {}, el("svg", { viewBox: "0 0 18 10", "aria-hidden": "true" }, shape, el("path", { class: `l ${kind}`, d: "M1 5H17" })), name);
}

/** Stretches of samples where `key` was seen: a gap in the data is a gap in the line. */
function runs(samples, key) {
  const found = [];
  let open = null;
  for (const sample of samples) {
    if (sample[key] === null || sample[key] === undefined) { open = null; continue; }
    if (!open) { open = []; found.push(open); }
    open.push(sample);
  }
  return found;
}

function path(points, step) {
  return points.map(([x, y], index) => {
    if (!index) return `M${x} ${y}`;
    return step ? `H${x}V${y}` : `L${x} ${y}`;
  }).join("");
}

/** The next round number, so that the axis does not jump with every sample. */
function nice(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10].find((step) => step * unit >= value) * unit;
}

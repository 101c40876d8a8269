// The readout of a chart: by the pointer, or by the arrow keys while the chart has the focus.

import { readX, readY } from "./axes.js";
import { el } from "./dom.js";

const NEAR_PX = 14;

/** Shows the values under the pointer; `say` announces the ones that the keyboard selects. */
export class HoverReadout {
  constructor(chart, say) {
    Object.assign(this, { chart, say, at: null });
    this.tip = el("div", { class: "tip", hidden: "" });
    chart.box.append(this.tip);
    chart.box.addEventListener("pointermove", (event) => this.point(event));
    chart.box.addEventListener("pointerleave", () => this.leave());
    chart.svg.addEventListener("keydown", (event) => this.press(event));
    chart.svg.addEventListener("blur", () => this.leave());
    chart.svg.addEventListener("click", () => { if (this.at?.href) location.hash = this.at.href; });
  }

  leave() {
    this.at = null;
    this.draw();
  }

  point(event) {
    if (!this.chart.xs) return;
    const box = this.chart.svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    this.at = this.nearPoint(x, y) ?? nearest(this.places(), x);
    this.draw();
  }

  press(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity }[event.key];
    if (!this.chart.xs || !step) return;
    this.step(step);
    event.preventDefault();
  }

  step(step) {
    const all = this.places();
    const now = this.at ? all.findIndex((one) => one.px >= this.at.px) : step > 0 ? -1 : all.length;
    this.at = all[Math.max(0, Math.min(all.length - 1, now + step))];
    this.draw();
    if (this.at) this.say(this.words().join(", "));
  }

  /** The positions with values, from left to right. */
  places() {
    const { chart } = this, found = new Map();
    for (const one of chart.facts.series) {
      for (const x of one.x) {
        const value = chart.xs.place(x);
        if (chart.within(value)) found.set(value, { value, px: chart.atX(value) });
      }
    }
    return [...found.values()].sort((a, b) => a.px - b.px);
  }

  /** The point near the pointer, if the chart has points. */
  nearPoint(x, y) {
    const { chart } = this;
    const all = chart.facts.series.filter((one) => one.kind === "points").flatMap((one) => one.x.map((_, index) => ({ one, index })))
      .filter(({ one, index }) => one.y[index] !== null)
      .map(({ one, index }) => ({ one, index, value: chart.xs.place(one.x[index]), px: chart.x(one.x[index]), py: chart.y(one.y[index]), href: one.href?.[index] }));
    const found = all.reduce((best, each) => (!best || away(each, x, y) < away(best, x, y) ? each : best), null);
    return found && away(found, x, y) < NEAR_PX ** 2 ? found : null;
  }

  /** The lines of the readout. */
  words() {
    const { chart, at } = this, head = readX(chart.xs, at.value, true);
    if (at.one) return [at.one.name, ...this.told(at.one, at.index, at.value)];
    const rows = chart.facts.series.flatMap((one) => {
      const index = this.indexAt(one, at.value);
      return index < 0 ? [] : [[one.name, ...this.told(one, index, null)].join(" ")];
    });
    const marks = (chart.facts.marks ?? []).filter((mark) => Math.abs(chart.x(mark.x) - at.px) < 3).map((mark) => `▾ ${mark.text}`);
    const within = (chart.facts.stretches ?? []).filter(({ from, to }) => chart.xs.place(from) <= at.value && at.value <= chart.xs.place(to)).map(({ text }) => `▒ ${text}`);
    return [chart.xs.kind === "number" && chart.facts.x_title ? `${chart.facts.x_title} ${head}` : head, ...rows, ...within, ...marks.slice(0, 3)];
  }

  told(one, index, x) {
    const unit = one.y?.[index] === Infinity ? "" : one.unit ?? this.chart.facts.unit ?? "";
    const value = one.y ? [readY(one.y[index])] : [];
    const ends = one.lower ? [one.lower, one.upper].map((each) => readY(each[index])).join(" to ") : "";
    const range = ends && one.y ? `(${ends})` : ends;
    const place = x === null ? [] : [`at ${readX(this.chart.xs, x)} ${this.chart.facts.x_title ?? ""}`.trim()];
    return [[...value, range, unit].filter(Boolean).join(" "), ...place, one.text?.[index] ?? ""].filter(Boolean);
  }

  /** The series' index at that x: the step in force, or the nearest value if it is close. */
  indexAt(one, value) {
    const { xs } = this.chart;
    let best = -1;
    for (let index = 0; index < one.x.length; index += 1) {
      const x = xs.place(one.x[index]);
      if (one.kind === "step" ? x <= value : best < 0 || Math.abs(x - value) < Math.abs(xs.place(one.x[best]) - value)) best = index;
    }
    if (best < 0 || one.kind === "step") return best;
    return Math.abs(xs.place(one.x[best]) - value) <= (xs.to - xs.from) * 0.015 ? best : -1;
  }

  draw() {
    const { chart } = this;
    // The axis may have moved since.
    if (this.at && !this.at.one) this.at = chart.within(this.at.value) ? { ...this.at, px: chart.atX(this.at.value) } : null;
    const { at } = this;
    this.tip.hidden = !at;
    chart.svg.classList.toggle("leads", Boolean(at?.href));
    chart.cursor?.setAttribute("d", at && !at.one ? `M${at.px} ${chart.top}V${chart.floor}` : "");
    if (!at) return;
    const [head, ...rows] = this.words();
    this.tip.replaceChildren(el("b", {}, head), ...rows.map((row) => el("div", {}, row)));
    const isLeft = at.px < chart.width / 2;
    this.tip.style.left = isLeft ? `${at.px + 14}px` : "auto";
    this.tip.style.right = isLeft ? "auto" : `${chart.width - at.px + 14}px`;
  }
}

const away = (one, x, y) => (one.px - x) ** 2 + (one.py - y) ** 2;
const nearest = (all, x) => all.reduce((best, one) => (!best || Math.abs(one.px - x) < Math.abs(best.px - x) ? one : best), null);

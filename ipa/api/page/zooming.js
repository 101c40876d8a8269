// Zooming into a time range of a chart, by dragging or by the keyboard.

import { readX } from "./axes.js";
import { el } from "./dom.js";

// A shorter drag counts as a click.
const DRAG_PX = 6;
const READING = new Set(["ArrowLeft", "ArrowRight", "PageUp", "PageDown", "Home", "End"]);

/** Calls `zoom` with [from, to] in milliseconds, or null to zoom out; `say` announces the keyboard's selection. */
export class Zooming {
  constructor(chart, pointing, { zoom, say }) {
    Object.assign(this, { chart, pointing, zoom, say, from: null, to: null });
    this.mark = el("div", { class: "stretch", hidden: "" });
    chart.box.append(this.mark);
    chart.box.classList.add("zooms");
    const { svg } = chart;
    svg.addEventListener("pointerdown", (event) => this.press(event));
    svg.addEventListener("pointermove", (event) => this.move(event));
    svg.addEventListener("pointerup", () => this.release());
    svg.addEventListener("pointercancel", () => this.clear());
    svg.addEventListener("dblclick", () => this.zoom(null));
    svg.addEventListener("blur", () => this.clear());
    pointing.onKey = (event, before) => this.key(event, before);
  }

  // Touch reads values instead.
  press(event) {
    if (event.button || event.pointerType === "touch" || this.chart.xs?.kind !== "time") return;
    this.chart.svg.setPointerCapture(event.pointerId);
    Object.assign(this, { isDragging: true, from: this.at(event), to: null });
  }

  move(event) {
    if (!this.isDragging) return;
    const to = this.at(event);
    if (this.to === null && Math.abs(this.chart.atX(to) - this.chart.atX(this.from)) < DRAG_PX) return;
    this.to = to;
    this.draw();
  }

  release() {
    if (!this.isDragging) return;
    this.pointing.leave();
    this.look();
  }

  at(event) { return this.chart.valueAt(event.clientX - this.chart.svg.getBoundingClientRect().left); }

  /** Handles a key that moved the readout from `before`. */
  key(event, before) {
    const { chart, pointing } = this;
    if (chart.xs?.kind !== "time") return;
    if (READING.has(event.key)) {
      if (this.isDragging) return;
      if (!event.shiftKey) return this.clear();
      this.from ??= (before ?? pointing.at)?.value ?? null;
      this.to = pointing.at?.value ?? null;
      this.draw();
      if (this.to !== null) this.say(`${readX(chart.xs, this.from, true)} to ${readX(chart.xs, this.to, true)} is marked, Enter shows it`);
      return;
    }
    const times = { "+": 0.5, "=": 0.5, "-": 2 }[event.key];
    if (times) this.scale(times);
    else if (event.key === "Enter" && this.to !== null) this.look();
    else if (event.key !== "Escape") return;
    else if (this.to !== null) this.clear();
    else this.zoom(null);
    event.preventDefault();
  }

  /** Scales the shown range by the factor, around the readout or the middle. */
  scale(times) {
    const { xs } = this.chart, middle = this.pointing.at?.value ?? (xs.from + xs.to) / 2;
    const shown = (xs.to - xs.from) * times, left = (middle - xs.from) * times;
    this.zoom([middle - left, middle - left + shown]);
  }

  look() {
    const { from, to } = this;
    this.clear();
    if (to !== null && from !== to) this.zoom([Math.min(from, to), Math.max(from, to)]);
  }

  clear() {
    Object.assign(this, { isDragging: false, from: null, to: null });
    this.draw();
  }

  draw() {
    const { chart, from, to } = this;
    this.mark.hidden = from === null || to === null;
    if (this.mark.hidden) return;
    const ends = [from, to].map((value) => Math.min(Math.max(chart.atX(value), chart.left), chart.right)).sort((a, b) => a - b);
    this.mark.style.left = `${ends[0]}px`;
    this.mark.style.width = `${ends[1] - ends[0]}px`;
  }
}

// A figure: a chart with its title, its export as CSV and PNG, a link to it, and itself as a table.

import { el } from "./dom.js";

/**
 * new Figure(parent, {id, title, unit, note}): appends an <article> to `parent`. `id` names it in permalinks and
 * file names, once in a view.
 *
 * show({series, ...options}) draws it, or draws it anew:
 *   series: [{
 *     name,               // also the column of the CSV, with its unit: "seen (rps)"
 *     unit,               // where it is another than the figure's
 *     kind,               // "line" | "step" | "band" | "points" | "bars"
 *     x: [...],           // numbers, ISO times (all series of a figure alike) or, for bars, words
 *     y: [...],           // numbers; null is a gap
 *     lower, upper: [..], // of a band, instead of y; with "points" or "line" an interval around y
 *     text: [...],        // what a point says when it is pointed at, after its numbers
 *     href: [...],        // where a click on a point goes
 *     colour,             // "blue" | "violet" | "teal" | "amber" | "red" | "grey"
 *   }]
 *   x_title, y_title      // the axes; y_title is the figure's unit unless it is said
 *   limit: {name, value}  // a level not to cross
 *   marks: [{x, text, href}] // upright lines, with a flag that may be followed
 *   y_max                 // the axis ends there; otherwise where the data does
 *   x_range: [from, to]   // what the axis shows; otherwise what there is
 */
export class Figure {
  constructor(parent, { id, title, unit = "", note = "" }) {
    Object.assign(this, { id, title, unit });
    this.plot = el("div", { class: "plot" });
    this.box = el("article", { class: "card chart", id: `figure-${id}` },
      el("header", {}, el("h3", {}, title, " ", el("small", {}, unit))), this.plot,
      note ? el("p", { class: "note" }, note) : "");
    parent.append(this.box);
  }

  show(facts) {
    this.facts = facts;
    this.plot.replaceChildren(...facts.series.map((one) => el("p", {}, `${one.name}: ${(one.y ?? one.upper).length} points`)));
  }

  /** Lets go of what it listens to. */
  close() {}
}

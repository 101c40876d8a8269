// A figure: a chart with title, export as CSV and PNG, link and table.

import { isTime, readY, yAxis } from "./axes.js";
import { Chart } from "./chart.js";
import { el, minus, when } from "./dom.js";
import { csv, png, save, tableOf } from "./export.js";
import { formatRoute, parseRoute } from "./router.js";
import { HoverReadout } from "./hover.js";

const MOST_ROWS = 500;
const TOLD_MS = 2500;
/** The names of shaded stretches of time. */
const STRETCHES = { broken: "SLO broken", blind: "not seen", held: "held" };

/**
 * new Figure(parent, {id, title, unit, note, short, file, query}): appends an <article> to `parent`. `id` names it
 * in permalinks and files, once in a view; `short` is a low one; `file` is what its files are called, else its id;
 * `query()` gives what a link to it says beside the view's own query, null for what it leaves out.
 *
 * show({series, ...options}) draws it, or draws it anew:
 *   series: [{
 *     name,               // also the column of the CSV, with its unit: "seen (rps)"
 *     unit,               // if it is another than the figure's
 *     kind,               // "line" | "step" | "band" | "points"
 *     x: [...],           // numbers, ISO times (all series of a figure alike)
 *     y: [...],           // numbers; null is a gap
 *     lower, upper: [..], // of a band, with y or without; with "points" or "line" an interval around y
 *     text: [...],        // what a point says when it is pointed at, after its numbers
 *     labels: [...],      // what stands beside a point
 *     href: [...],        // where a click on a point goes
 *     colour,             // "blue" | "violet" | "teal" | "amber" | "red" | "grey"
 *   }]
 *   x_title, y_title      // the axes; y_title is the figure's unit unless it is said
 *     beyond,             // true for predictions: absurd or infinite values are marks at the top, not the axis' end
 *   limit: {name, value, isFloor} // a level not to cross, from below unless it is a floor
 *   stretches: [{from, to, kind, text}] // times that are shaded: "broken", "blind" or "held"
 *   marks: [{x, text, href}] // upright lines, with a flag that may be followed
 *   y_min, y_max          // the axis begins and ends there; otherwise where the data does
 *   x_range: [from, to]   // what the axis shows; otherwise what there is
 *   empty                 // what is said if there is nothing to draw
 */
export class Figure {
  constructor(parent, { id, title, unit = "", note = "", short = false, file = "", query = () => ({}) }) {
    Object.assign(this, { id, title, unit, query, file: file || id });
    this.legend = el("div", { class: "legend" });
    this.said = el("span", { class: "hidden", "aria-live": "polite" });
    this.rows = el("div", { class: "as-table", hidden: "", tabindex: "0", role: "region", "aria-label": `${title} as a table` });
    this.nothing = el("p", { class: "empty", hidden: "" });
    this.toggle = this.tool("Table", "as a table", () => this.showTable(this.rows.hidden));
    this.toggle.setAttribute("aria-expanded", "false");
    this.link = this.tool("Link", "copy a link to", (event) => this.copyLink(event), "a");
    // The buttons are disabled before there is data.
    this.waiting = [this.toggle, this.tool("CSV", "keep the numbers of", () => this.saveCsv()), this.tool("PNG", "keep the picture of", () => this.savePng())];
    for (const button of this.waiting) button.disabled = true;
    const tools = el("div", { class: "tools" }, this.waiting, this.link);
    this.box = el("article", { class: `card chart${short ? " short" : ""}`, id: `figure-${id}`, tabindex: "-1" },
      el("header", {}, el("h3", {}, title, unit ? " " : "", unit ? el("small", {}, unit) : ""), this.legend, tools),
      this.nothing);
    this.chart = new Chart(this.box);
    this.chart.svg.setAttribute("tabindex", "0");
    this.pointing = new HoverReadout(this.chart, (text) => { this.said.textContent = text; });
    this.chart.onDraw = () => this.pointing.draw();
    this.box.append(this.rows, note ? el("p", { class: "note" }, note) : "", this.said);
    parent.append(this.box);
  }

  show(facts) {
    this.facts = { ...facts, unit: this.unit };
    for (const button of this.waiting) button.disabled = false;
    const isEmpty = !facts.series.some((one) => one.x.length);
    this.nothing.hidden = !isEmpty;
    this.nothing.textContent = isEmpty ? facts.empty ?? "Nothing to show yet." : "";
    this.chart.box.hidden = isEmpty;
    const names = facts.series.map((one) => [one.name, one.colour ?? "blue", one.kind]);
    if (facts.limit) names.push([facts.limit.name, "red", "limit"]);
    for (const kind of new Set((facts.stretches ?? []).map((each) => each.kind))) names.push([STRETCHES[kind], kind, "stretch"]);
    if (facts.series.some((one) => one.beyond)) names.push(...beyondKey(facts));
    if (this.told !== JSON.stringify(names)) this.legend.replaceChildren(...names.map((each) => key(...each)));
    this.told = JSON.stringify(names);
    this.names = names;
    this.chart.svg.setAttribute("aria-label", this.summary());
    this.link.href = this.address();
    this.chart.show(this.facts);
    if (!this.rows.hidden) this.fillTable();
    this.comeHere();
  }

  /** Removes its listeners. */
  close() { this.chart.close(); }

  tool(text, says, act, tag = "button") {
    const attributes = { type: tag === "button" ? "button" : null, class: "tool", href: tag === "a" ? "#" : null, title: `${says} this figure`, onclick: act };
    return el(tag, attributes, text, el("span", { class: "hidden" }, ` of ${this.title}`));
  }

  /** Scrolls to the figure and outlines it, once, if the link names it. */
  comeHere() {
    if (this.came || parseRoute(location.hash).query.get("figure") !== this.id) return;
    this.came = true;
    this.box.classList.add("linked");
    this.box.scrollIntoView({ block: "center" });
  }

  address() {
    const place = parseRoute(location.hash);
    return formatRoute({ ...place, query: { ...Object.fromEntries(place.query), ...this.query(), figure: this.id } });
  }

  async copyLink(event) {
    event.preventDefault();
    const address = this.address();
    this.link.href = address;
    history.replaceState(null, "", address);
    // Over plain HTTP a page may not use the clipboard; the address bar has the link.
    if (navigator.clipboard) await navigator.clipboard.writeText(location.href);
    this.tell(navigator.clipboard ? "The link is copied." : "The link is in the address bar.");
  }

  tell(text) {
    this.said.textContent = text;
    this.said.classList.remove("hidden");
    setTimeout(() => this.said.classList.add("hidden"), TOLD_MS);
  }

  saveCsv() {
    save(new Blob([csv(tableOf(this.facts, this.unit))], { type: "text/csv" }), `${this.file}.csv`);
  }

  async savePng() {
    const title = this.unit ? `${this.title} (${this.unit})` : this.title;
    save(await png(this.chart.svg, title, this.names), `${this.file}.png`);
  }

  showTable(isShown) {
    this.rows.hidden = !isShown;
    this.toggle.setAttribute("aria-expanded", String(isShown));
    if (isShown) this.fillTable();
  }

  fillTable() {
    const { head, rows } = tableOf(this.facts, this.unit);
    const shown = rows.slice(-MOST_ROWS);
    const links = new Map((this.facts.marks ?? []).map((mark) => [mark.text, mark.href]));
    const cell = (value) => (links.get(value) ? el("a", { href: links.get(value) }, value) : readable(value));
    this.rows.replaceChildren(
      rows.length > shown.length ? el("p", { class: "note" }, `The last ${MOST_ROWS} of ${rows.length} rows; the CSV has all.`) : "",
      el("table", {}, el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))),
        el("tbody", {}, shown.map((row) => el("tr", {}, row.map((value) => el("td", {}, cell(value))))))));
  }

  /** The text alternative of the chart: the last value of each series. */
  summary() {
    const { series, limit } = this.facts;
    const parts = series.map((one) => {
      const values = (one.y ?? one.upper).filter((value) => value !== null && value !== undefined);
      return `${one.name} ${values.length ? plainly(values[values.length - 1]) : "nothing"} ${one.unit ?? this.unit}`.trim();
    });
    if (limit) parts.push(`${limit.name} ${plainly(limit.value)} ${this.unit}`.trim());
    return `${this.title}, at last: ${parts.join(", ")}. Arrow keys read it.`;
  }
}

/** The key of marks at the top, if a value of a series is absurd or without bound. */
function beyondKey({ series, ...facts }) {
  const { to } = yAxis(series, facts);
  const one = series.find((each) => each.beyond && [each.y, each.upper].some((values) => values?.some((value) => value > to)));
  return one ? [[`${one.name} beyond the axis`, one.colour ?? "blue", "beyond"]] : [];
}

/** The value as text in a table; the CSV has every digit. */
function readable(value) {
  if (value === null || value === undefined) return "";
  if (value === Infinity) return readY(value);
  if (typeof value === "number") return minus(Number(value.toPrecision(4)));
  return isTime(value) ? when(value) : value;
}

const plainly = (value) => (value === Infinity ? readY(value) : minus(Number(value.toPrecision(3))));

function key(name, colour, kind) {
  const shape = kind === "points" ? el("circle", { class: `dot ${colour}`, cx: 9, cy: 5, r: 4 })
    : kind === "stretch" ? el("g", {}, el("rect", { class: `shade ${colour}`, width: 18, height: 10 }), el("path", { class: `l shade-edge ${colour}`, d: "M0 10H18" }))
    : kind === "beyond" ? el("path", { class: `beyond ${colour}`, d: "M5 9L9 1L13 9Z" })
    : el("path", { class: `l ${colour}${{ band: " dashed", limit: " limit" }[kind] ?? ""}`, d: "M1 5H17" });
  const band = kind === "band" ? el("rect", { class: `a ${colour}`, width: 18, height: 10 }) : "";
  return el("span", {}, el("svg", { viewBox: "0 0 18 10", "aria-hidden": "true" }, band, shape), name);
}

// The shown time range, the last N minutes or between two times, and its buttons.

import { el } from "./dom.js";

const LASTS = [["300", "5 min"], ["900", "15 min"], ["3600", "1 h"], ["all", "all"]];
const USUAL = "900";
const SHORTEST_MS = 60000;

/** The range that a query names: {last} or {from, to} in milliseconds. */
export function rangeOf(query) {
  const from = Date.parse(query.get("from") ?? ""), to = Date.parse(query.get("to") ?? "");
  if (from < to) return { from, to };
  const last = query.get("last") ?? USUAL;
  return { last: LASTS.some(([name]) => name === last) ? last : USUAL };
}

/** The start and end of the range; `begin` is the earliest known time. */
export function bounds(range, now, begin) {
  if (!range.last) return [range.from, range.to];
  const wanted = range.last === "all" ? begin : now - 1000 * Number(range.last);
  return [Math.min(Math.max(wanted, begin), now - SHORTEST_MS), now];
}

/** The buttons, and the form for two times. Calls `choose` with the query of the chosen range. */
export class Ranges {
  constructor(parent, choose) {
    this.buttons = LASTS.map(([last, name]) => el("button", { type: "button", class: "tool", "data-last": last, onclick: () => choose({ last }) }, name));
    this.from = el("input", { type: "datetime-local", id: "from", step: 1, required: "" });
    this.to = el("input", { type: "datetime-local", id: "to", step: 1, required: "" });
    this.wrong = el("span", { role: "alert", class: "wrong" });
    const show = () => {
      const [from, to] = [new Date(this.from.value), new Date(this.to.value)];
      this.wrong.textContent = from < to ? "" : "The start must be before the end.";
      if (from < to) choose({ from: from.toISOString(), to: to.toISOString() });
    };
    const form = el("form", { class: "from-to", onsubmit: show }, el("label", { for: "from" }, "from"), this.from, el("label", { for: "to" }, "to"), this.to,
      el("button", { type: "submit", class: "tool" }, "Show"), this.wrong);
    parent.append(el("div", { class: "ranges" }, el("div", { class: "lasts", role: "group", "aria-label": "The last" }, this.buttons), form));
  }

  /** Marks the active button; the times follow unless they are being edited. */
  show(range, [from, to]) {
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.last === range.last));
    if ([this.from, this.to].includes(document.activeElement)) return;
    this.from.value = local(from);
    this.to.value = local(to);
  }
}

/** The local time without a zone, as the input expects it. */
function local(t) {
  return new Date(t - new Date(t).getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

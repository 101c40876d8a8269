// Tables: facts, differences of figures, and configurations before and after.

import { el, number, plain } from "./dom.js";

/**
 * A table that scrolls if it is wider than the page. `heads` are words, or {text, figure} for a column of
 * numbers; `rows` are lists of cells: words, elements or lists of them. The first cell is the row's heading.
 */
export function table(caption, heads, rows, kind = "") {
  const columns = heads.map((head) => (typeof head === "string" ? { text: head, figure: false } : head));
  const side = (index) => (columns[index].figure ? "figure-cell" : null);
  const body = rows.map((cells) => el("tr", {}, cells.map((cell, index) => (index
    ? el("td", { class: side(index) }, cell)
    : el("th", { scope: "row" }, cell)))));
  return el("div", { class: `scrolls ${kind}`, role: "region", "aria-label": caption, tabindex: "0" },
    el("table", { class: "facts" }, el("caption", { class: "hidden" }, caption),
      el("thead", {}, el("tr", {}, columns.map(({ text }, index) => el("th", { scope: "col", class: side(index) }, text)))),
      el("tbody", {}, body)));
}

/** A list of terms from [name, value]; pairs whose value is null are omitted. */
export function terms(pairs) {
  return el("dl", { class: "terms" }, pairs.filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

/** The difference from `now` to `then`, absolute and relative; `better`: the direction that is good. */
export function delta(now, then, { digits = 2, unit = "", better = "" } = {}) {
  if (now === null || now === undefined || then === null || then === undefined) return "–";
  const change = then - now;
  if (Math.abs(change) < 0.5 * 10 ** -digits) return "same";
  const kind = better ? ((change > 0) === (better === "more") ? "gain" : "loss") : "";
  const relative = now ? ` (${signed(100 * change / now, Math.abs(change / now) < 0.1 ? 1 : 0)} %)` : "";
  return el("span", { class: `delta ${kind}` }, `${signed(change, digits)}${unit && ` ${unit}`}${relative}`);
}

/** A number with its sign and no zeros at its end. */
export function signed(value, digits) {
  const text = String(Number(Math.abs(value).toFixed(digits)));
  return text === "0" ? text : `${value < 0 ? "−" : "+"}${text}`;
}

/** The head of a column of numbers. */
export const figure = (text) => ({ text, figure: true });

/** True if both are the same configurations. */
export function isSame(one, other) {
  const bare = ({ stage, variant, batch_size, cores, replicas, share_percent = 100 }) => [stage, variant, batch_size, cores, replicas, share_percent];
  return JSON.stringify(one.map(bare)) === JSON.stringify(other.map(bare));
}

const HEADS = ["Stage", "Variant", ...["Batch", "Replicas", "Cores each", "Cores"].map(figure)];

/**
 * What each stage runs and would run: `before` and `after` are configurations, of several parts one after the
 * other. `more` are further columns: [{text, figure, of: (stage of after) → cell}].
 */
export function changes(caption, before, after, more = []) {
  const was = keyed(before), will = keyed(after);
  const rows = [...new Set([...was.keys(), ...will.keys()])].map((key) => {
    const from = was.get(key), to = will.get(key);
    const pair = (read) => differs(from && read(from), to && read(to));
    const share = (config) => (config.share_percent === 100 ? "" : ` · ${config.share_percent} %`);
    return [`${(to ?? from).stage}`, pair((it) => it.variant + share(it)), pair((it) => plain(it.batch_size)), pair((it) => plain(it.replicas)),
      pair((it) => plain(it.cores)), pair((it) => plain(it.cores * it.replicas)), ...more.map(({ of }) => (to ? of(to) : ""))];
  });
  return table(caption, [...HEADS, ...more], rows, "changes");
}

function differs(from, to) {
  if (from === undefined) return to;
  if (to === undefined || from === to) return from;
  return el("span", { class: "change" }, el("span", { class: "hidden" }, "from "), el("del", {}, from),
    el("span", { "aria-hidden": "true" }, " → "), el("span", { class: "hidden" }, " to "), el("ins", {}, to));
}

/** Rows by stage, and by part if several share the load. */
function keyed(configs) {
  const found = new Map(), seen = {};
  for (const config of configs) {
    seen[config.stage] = (seen[config.stage] ?? -1) + 1;
    found.set(`${seen[config.stage]} ${config.stage}`, config);
  }
  return found;
}

/** "detect v4-480 b2 1×0.5" for each stage. */
export function inShort(configs) {
  return configs.map((it) => `${it.stage} ${it.variant} b${it.batch_size} ${it.replicas}×${plain(it.cores)}`).join(", ");
}

/** Seconds as text. */
export function seconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1 ? `${number(value * 1000, value < 0.01 ? 1 : 0)} ms` : `${number(value, 2)} s`;
}

/** The error of a request, in words. */
export function refusal(error) {
  return el("div", { class: "refusal", role: "alert" }, el("p", {}, el("b", {}, error.message)),
    error.hint ? el("p", {}, error.hint) : "",
    (error.errors ?? []).map((each) => el("p", {}, [each.pointer, each.message ?? each.detail].filter(Boolean).join(": "))));
}

/** A button that copies `text` to the clipboard; `tools` are those of the view, `label` what it says. */
export function copyButton(text, what, tools, label = "Copy") {
  const button = el("button", { type: "button", class: "button" }, label, el("span", { class: "hidden" }, ` ${what}`));
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      tools.say(`${what} copied`);
      button.firstChild.textContent = "Copied";
    } catch (error) {
      if (!(error instanceof DOMException || error instanceof TypeError)) throw error;
      tools.say("The browser does not let this page copy; select the text instead.");
      button.firstChild.textContent = "Select it and copy";
    }
  });
  return button;
}

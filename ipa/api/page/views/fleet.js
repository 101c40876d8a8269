// Fleet: every pipeline with its state, its resources and its budget; sortable and filterable, for a thousand of them.

import { callApi } from "../api.js";
import { clock, el, number, percent, plain } from "../dom.js";
import { formatRoute } from "../router.js";
import { REASONS, reasonTitle } from "../reasons.js";
import { seconds, terms } from "../tables.js";

export const title = "Fleet";

const AGAIN_MS = 2000;
// Rows shown at once; the others follow when the browser is idle.
const FIRST_ROWS = 60;
const CHUNK = 250;
const UNSEEN = "–";

const share = (one) => (one.latency_s === null ? null : one.latency_s / one.sla_s);
// The share of an SLA or a budget that is near to all of it.
const NEAR = 0.85;
const levelOf = (ratio) => (ratio === null ? "" : ratio > 1 ? "over" : ratio > NEAR ? "near" : "");
const used = (one) => (one.cores === null || !one.budget_cores ? null : one.cores / one.budget_cores);
const modeOf = (one) => [one.mode, one.paused && "paused", !one.runnable && "planned only"].filter(Boolean).join(", ");

// Of one that is only planned nothing may run, which is no fault.
const healthOf = (one) => (one.slo_broken ? "SLO broken" : !one.healthy ? "degraded" : one.runnable || one.cores !== null ? "healthy" : UNSEEN);

// Columns by name: the heading, the sort key, and [text, class] of the cell.
const COLUMNS = {
  pipeline: { head: "Pipeline", by: (one) => one.pipeline },
  mode: { head: "Mode", by: modeOf, cell: (one) => [modeOf(one)] },
  reason: { head: "Last decision", by: (one) => one.reason ?? "", cell: (one) => [one.reason ? reasonTitle(one.reason) : "none yet", one.healthy ? "" : "over"] },
  health: { head: "Health", by: (one) => one.healthy, cell: (one) => [healthOf(one), one.healthy ? "" : "over"] },
  load: { head: "Load, rps", figure: true, by: (one) => one.rate_rps, cell: (one) => [number(one.rate_rps, 1)] },
  sla: { head: "Share of the SLA", figure: true, by: share, cell: (one) => [one.latency_s === null ? UNSEEN : `${percent(share(one))} of ${seconds(one.sla_s)}`, levelOf(share(one))] },
  time: { head: "In time", figure: true, by: (one) => one.in_time_ratio, cell: (one) => [one.in_time_ratio === null ? UNSEEN : `${(100 * one.in_time_ratio).toFixed(1)} % of ${plain(one.sla_percentile)} %`, one.slo_broken ? "over" : ""] },
  lost: { head: "Lost, rps", figure: true, by: (one) => one.lost_rps, cell: (one) => [number(one.lost_rps, 1), one.lost_rps > 0 ? "over" : ""] },
  retried: { head: "Retried, batches/s", figure: true, by: (one) => one.retried_rps, cell: (one) => [number(one.retried_rps, 1), one.retried_rps > 0 ? "near" : ""] },
  pas: { head: "PAS", figure: true, by: (one) => one.pas, cell: (one) => [number(one.pas, 3)] },
  cores: { head: "Cores", figure: true, by: (one) => one.cores, cell: (one) => [plain(one.cores)] },
  budget: { head: "Share of its budget", figure: true, by: used, cell: (one) => [one.budget_cores === null ? "no budget" : one.cores === null ? UNSEEN : `${percent(used(one))} of ${plain(one.budget_cores)}`, levelOf(used(one))] },
  share: { head: "Of the fleet", figure: true, by: (one) => one.share_ratio, cell: (one) => [percent(one.share_ratio)] },
};

/** The columns of resources beside cores that any pipeline has or is bounded in. */
function resourceColumns(pipelines) {
  const names = new Set(pipelines.flatMap((one) => [...Object.keys(one.held ?? {}), ...Object.keys(one.budget)]));
  names.delete("cpu_cores");
  return Object.fromEntries([...names].sort().map((name) => {
    const amount = (one) => (one.held === null ? null : one.held[name] ?? 0);
    const cell = (one) => {
      const most = one.budget[name], held = amount(one);
      return most === undefined || held === null ? [plain(held)] : [`${plain(held)} of ${plain(most)}`, levelOf(most ? held / most : null)];
    };
    return [name, { head: headOf(name), figure: true, by: amount, cell }];
  }));
}

const headOf = (name) => (name === "memory_gib" ? "Memory, GiB" : name);

export async function open(root, { query }, tools) {
  const view = new Fleet(root, query, tools);
  await view.update();
  return view;
}

class Fleet {
  constructor(root, query, tools) {
    Object.assign(this, { tools, closing: new AbortController(), askedAt: -AGAIN_MS, rows: new Map() });
    this.set = { sort: query.get("sort") || "pipeline", filter: query.get("filter") ?? "" };
    this.totals = el("section", { class: "card inputs", "aria-label": "All together" });
    this.input = el("input", { id: "fleet-filter", type: "search", value: this.set.filter, autocomplete: "off", oninput: () => this.change({ filter: this.input.value }) });
    this.count = el("span", { class: "note", role: "status" });
    this.body = el("tbody");
    this.header = el("tr");
    this.setColumns({});
    const scroll = el("div", { class: "scrolls", role: "region", "aria-label": "Pipelines", tabindex: "0" },
      el("table", { class: "facts" }, el("caption", { class: "hidden" }, "All pipelines"), el("thead", {}, this.header), this.body));
    this.attention = el("section", { class: "card attention", "aria-label": "Needs attention" });
    root.append(this.totals, this.attention, el("div", { class: "filter" }, el("label", { for: "fleet-filter" }, "Filter by name, mode or reason ", this.input), this.count),
      el("section", { class: "card fleet-table", "aria-label": "Each pipeline" }, scroll));
  }

  /** The columns of each pipeline's state, and `more`; drawn anew if they are others. */
  setColumns(more) {
    const columns = { ...COLUMNS, ...more };
    if (Object.keys(columns).join() === Object.keys(this.columns ?? {}).join()) return;
    this.columns = columns;
    this.heads = Object.entries(columns).map(([name, column]) => this.head(name, column));
    this.header.replaceChildren(...this.heads);
    this.rows.clear();
  }

  head(name, { head, figure }) {
    const sort = () => this.change({ sort: this.set.sort === name ? `-${name}` : name });
    const button = el("button", { type: "button", onclick: sort }, head, el("span", { class: "arrow-up-down", "aria-hidden": "true" }));
    return el("th", { scope: "col", class: figure ? "figure-cell" : null, "data-name": name }, button);
  }

  change(set) {
    Object.assign(this.set, set);
    this.tools.replace({ ...this.set, sort: this.set.sort === "pipeline" ? "" : this.set.sort });
    this.draw();
  }

  async update() {
    if (performance.now() - this.askedAt < AGAIN_MS) return;
    this.fleet = await callApi("/v1/fleet", { signal: this.closing.signal });
    this.askedAt = performance.now();
    const key = JSON.stringify({ ...this.fleet, at: "" });
    if (key === this.key) return;
    this.key = key;
    this.setColumns(resourceColumns(this.fleet.pipelines));
    this.drawTotals();
    this.attention.hidden = !this.fleet.pipelines.length;
    this.attention.replaceChildren(...attention(this.fleet.pipelines));
    this.draw();
  }

  drawTotals() {
    const { at, pipelines, held, budget } = this.fleet;
    const names = Object.keys({ cpu_cores: 0, ...held });
    const sum = (name) => [plain(held[name] ?? 0), name in budget ? el("small", {}, ` of ${plain(budget[name])}, the budgets together`) : ""];
    const unhealthy = pipelines.filter((one) => !one.healthy).length;
    const planned = pipelines.filter((one) => !one.runnable).length;
    const late = pipelines.filter((one) => share(one) > 1).length;
    this.totals.replaceChildren(terms([
      ["Pipelines", [String(pipelines.length), planned ? el("small", {}, `, ${planned} planned only`) : ""]],
      ...names.map((name) => [name === "cpu_cores" ? "Cores" : headOf(name), sum(name)]),
      ["Degraded", String(unhealthy)], ["SLO broken", String(pipelines.filter((one) => one.slo_broken).length)], ["Latency over the SLA", String(late)], ["Seen at", clock(at)],
    ]));
  }

  draw() {
    clearTimeout(this.timer);
    const wanted = this.set.sort.replace(/^-/, ""), name = wanted in this.columns ? wanted : "pipeline", isDown = this.set.sort.startsWith("-");
    for (const head of this.heads) {
      const isIt = head.dataset.name === name;
      head.toggleAttribute("aria-sort", isIt);
      if (isIt) head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      head.querySelector(".arrow-up-down").textContent = isIt ? (isDown ? " ▼" : " ▲") : "";
    }
    const words = this.set.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const of = (one) => `${one.pipeline} ${modeOf(one)} ${one.reason ?? ""} ${one.reason ? reasonTitle(one.reason) : ""} ${healthOf(one)}`.toLowerCase();
    const found = this.fleet.pipelines.filter((one) => words.every((word) => of(one).includes(word))).sort(order(this.columns[name].by, isDown));
    this.count.textContent = `${found.length} of ${this.fleet.pipelines.length}`;
    // Once all rows are shown none is removed, or the page would jump.
    const first = this.rows.size ? found.length : FIRST_ROWS;
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    this.body.replaceChildren(...found.slice(0, first).map((one) => this.row(one)));
    if (focused?.isConnected) focused.focus({ preventScroll: true });
    if (!found.length) this.body.append(el("tr", {}, el("td", { class: "empty", colspan: String(this.heads.length) }, this.fleet.pipelines.length ? "No pipeline matches." : "There are no pipelines that you may see.")));
    this.append(found, first);
  }

  /** The row of a pipeline, redrawn only if it has changed. */
  row(one) {
    const key = JSON.stringify(one);
    const kept = this.rows.get(one.pipeline);
    if (kept?.key === key) return kept.node;
    const node = row(one, this.columns);
    this.rows.set(one.pipeline, { key, node });
    return node;
  }

  append(found, from) {
    if (from >= found.length) return;
    this.timer = setTimeout(() => {
      this.body.append(...found.slice(from, from + CHUNK).map((one) => this.row(one)));
      this.append(found, from + CHUNK);
    });
  }

  close() {
    this.closing.abort();
    clearTimeout(this.timer);
  }
}

// Ratios that a bar under the text shows.
const BARS = { sla: share, budget: used };

function bar(ratio, level) {
  const node = el("i", { class: `bar-line ${level}` });
  node.style.setProperty("--part", `${Math.min(100 * ratio, 100).toFixed(0)}%`);
  return node;
}

function row(one, columns) {
  const link = el("a", { href: formatRoute({ view: "now", path: [one.pipeline] }) }, one.pipeline);
  return el("tr", { "data-name": one.pipeline }, el("th", { scope: "row" }, link), Object.entries(columns).slice(1).map(([name, { cell, figure }]) => {
    const [text, level] = cell(one);
    const says = name === "reason" && one.reason ? REASONS[one.reason] : null;
    return el("td", { class: [figure && "figure-cell", level].filter(Boolean).join(" ") || null, title: says }, text, BARS[name]?.(one) ? bar(BARS[name](one), level) : "");
  }));
}

/** Missing values come last in both directions; names break ties. */
function order(by, isDown) {
  return (one, other) => {
    const a = by(one), b = by(other);
    const names = one.pipeline.localeCompare(other.pipeline);
    if (a === b) return names;
    if (a === null || b === null) return a === null ? 1 : -1;
    const sign = typeof a === "string" ? a.localeCompare(b) : a - b;
    return (isDown ? -sign : sign) || names;
  };
}

// As many lines as are read.
const MOST_LINES = 6;

/** What is wrong with a pipeline, or soon may be: [severity, words]; null if nothing is. */
function concern(one) {
  const words = [one.healthy ? "" : one.slo_broken ? "SLO broken" : one.rate_rps === null ? "not seen" : "degraded", !one.healthy && one.reason ? reasonTitle(one.reason).toLowerCase() : "", share(one) > NEAR ? `latency ${percent(share(one))} of its SLA` : "", used(one) > NEAR ? `${percent(used(one))} of its cores in use` : ""].filter(Boolean);
  return words.length ? [(one.healthy ? 0 : 4) + (share(one) > 1 ? 2 : 0) + share(one), words.join("; ")] : null;
}

/** The pipelines that need somebody, the worst first. */
function attention(pipelines) {
  const found = pipelines.map((one) => [one, concern(one)]).filter(([, it]) => it).sort(([, [one]], [, [other]]) => other - one);
  const lines = found.slice(0, MOST_LINES).map(([one, [severity, words]]) => el("li", { class: severity >= 1 ? "over" : "near" }, el("a", { href: formatRoute({ view: "now", path: [one.pipeline] }) }, one.pipeline), ` ${words}`));
  const more = found.length - lines.length;
  if (!found.length) return [el("p", {}, `${pipelines.length === 1 ? "The pipeline is" : `All ${pipelines.length} pipelines are`} healthy, below ${percent(NEAR)} of SLA and budget.`)];
  return [el("h2", {}, `${found.length === 1 ? "One needs" : `${found.length} need`} attention`), el("ul", {}, lines),
    more > 0 ? el("p", { class: "note" }, `and ${more} more: sort the table by health or by its share of the SLA`) : ""];
}

// Runs side by side, of one experiment or of several: a table of their figures, and their curves over time.

import { el, number, percent } from "../dom.js";
import { Figure } from "../figure.js";
import { reasonTitle } from "../reasons.js";
import { seconds, signed, table } from "../tables.js";

const COLOURS = ["blue", "amber", "teal", "violet", "red", "grey"];

// Figures by name: the heading, the text of a value, and the direction that is good.
const FIGURES = {
  violation_ratio: { head: "In time", show: (value) => percent(1 - value, 2), change: (value) => `${signed(-100 * value, 2)} %`, half: (value) => percent(value, 2), better: "less" },
  latency_p50_s: { head: "p50", show: seconds },
  latency_p99_s: { head: "p99", show: seconds, change: (value) => `${signed(1000 * value, 0)} ms`, half: seconds, better: "less" },
  cores_mean: { head: "Cores", show: (value) => number(value, 2), change: (value) => signed(value, 2), half: (value) => number(value, 2), better: "less" },
  usd_per_hour: { head: "USD/h", show: (value) => number(value, 2), change: (value) => signed(value, 2), half: (value) => number(value, 2), better: "less" },
  pas_mean: { head: "Accuracy", show: (value) => number(value, 3), change: (value) => signed(value, 3), half: (value) => number(value, 3), better: "more" },
  lost: { head: "Lost", show: (value) => number(value, Number.isInteger(value) ? 0 : 1) },
  changes: { head: "Changes", show: (value) => number(value, Number.isInteger(value) ? 0 : 1) },
};

/** A run: {label, load, result, difference, fault, curves}. `curves` are those of the API, null until they are read; `load` is the label of its load. */
export class Runs {
  constructor(parent, file) {
    this.rows = el("section", { class: "card experiment", "aria-label": "Results" });
    this.plots = el("div", { class: "charts" });
    this.reasons = el("section", { class: "card experiment", "aria-label": "What was decided" });
    parent.append(this.rows, this.plots, this.reasons);
    const make = (id, title, unit, note = "") => new Figure(this.plots, { id, title, unit, note, file: `${file}-${id}` });
    this.figures = {
      load: make("load", "Load", "rps", "Requests as they were sent, in the representative seed."), latency: make("latency", "Latency", "s"),
      in_time: make("in-time", "In time", "%", "Of the requests sent in each stretch; a gap where none was."), cores: make("cores", "Cost", "cores"), pas: make("pas", "Accuracy", "PAS"),
    };
  }

  /** `loads` are the distinct loads of the runs: [{label, at_s, rate_rps}]. */
  show(runs, { loads, sla_s, percentile, compared = "" }) {
    const done = runs.filter((run) => run.result);
    this.rows.replaceChildren(el("h2", {}, "Results"), el("p", {}, words(done)), this.table(runs, sla_s),
      compared ? el("p", { class: "note" }, `Small figures are differences from ${compared}, seed by seed, with half of their 95 % interval; coloured where that excludes zero.`) : "");
    const colour = (index) => COLOURS[index % COLOURS.length];
    const lines = (kind, read) => done.filter((run) => run.curves).map((run, index) => ({ name: run.label, kind, colour: colour(index), x: run.curves.at_s, y: read(run.curves) }));
    const x_title = "seconds";
    this.figures.load.show({ x_title, series: loads.map((load) => ({ name: load.label, kind: "line", colour: loads.length > 1 ? colour(Math.max(done.findIndex((run) => run.load === load.label), 0)) : "grey", x: load.at_s, y: load.rate_rps })) });
    const most = Math.max(0, ...done.flatMap((run) => run.curves?.latency_s ?? []));
    this.figures.latency.show({ x_title, y_title: percentile ? `p${percentile}` : "", series: lines("line", (it) => it.latency_s).map((one) => ({ ...one, beyond: true })), limit: sla_s ? { name: `SLA, ${seconds(sla_s)}`, value: sla_s } : undefined,
      // A queue that grew for minutes is beyond the axis, not its measure.
      ...(sla_s && most > 4 * sla_s ? { y_max: 4 * sla_s } : {}) });
    const least = Math.min(0.99, ...done.flatMap((run) => (run.curves?.in_time_ratio ?? []).filter((ratio) => ratio !== null)));
    this.figures.in_time.show({ x_title, y_min: least > 0.5 ? 10 * Math.floor(10 * least) : 0, y_max: 100, series: lines("line", (it) => it.in_time_ratio.map((ratio) => (ratio === null ? null : 100 * ratio))) });
    this.figures.cores.show({ x_title, series: lines("step", (it) => it.cores) });
    this.figures.pas.show({ x_title, series: lines("step", (it) => it.pas) });
    const count = (run, name) => number(run.result.decisions_by_reason[name] ?? 0, Number.isInteger(run.result.decisions_by_reason[name] ?? 0) ? 0 : 1);
    const reasons = [...new Set(done.flatMap((run) => Object.keys(run.result.decisions_by_reason)))].sort();
    this.reasons.replaceChildren(el("h2", {}, "What was decided"), table("What was decided", ["Decision", ...done.map((run) => ({ text: run.label, figure: true }))], reasons.map((name) => [reasonTitle(name), ...done.map((run) => count(run, name))])));
  }

  table(runs, sla_s) {
    const known = Object.entries(FIGURES).filter(([name]) => runs.some((run) => run.result?.[name] !== undefined));
    const heads = ["Run", ...known.map(([, { head }]) => ({ text: head, figure: true }))];
    return table("Runs side by side", heads, runs.map((run) => [run.label, ...(run.result ? known.map(([name, figure]) => cell(run, name, figure, sla_s)) : [el("span", { class: "fault" }, `Not run: ${run.fault}`)])]));
  }

  close() { for (const figure of Object.values(this.figures)) figure.close(); }
}

/** The figure with half of its interval over seeds, and its difference from the first run. */
function cell({ result, difference }, name, { show, change, half = show, better }, sla_s) {
  const value = result[name], width = result.intervals?.[name] ?? null, other = difference?.[name];
  if (value === null || value === undefined) return "–";
  const isLate = name === "latency_p99_s" && sla_s && value > sla_s;
  const parts = [el("span", { class: isLate ? "over" : null }, `${show(value)}${within(width, half)}`)];
  if (other && change) parts.push(el("small", { class: `delta ${isSure(other) ? (other.value > 0) === (better === "more") ? "gain" : "loss" : ""}` }, change(other.value), within(other.half_width, half)));
  return parts;
}

/** Half of an interval, where it is more than the digits show. */
const within = (width, half) => (width === null || !/[1-9]/.test(half(width)) ? "" : ` ± ${half(width)}`);
const isSure = ({ value, half_width: half }) => half !== null && Math.abs(value) > half;

/** The outcome in a sentence. */
function words(done) {
  const one = ({ label, result }) => `${label} answered ${percent(1 - result.violation_ratio, 1)} in time with ${number(result.cores_mean, 1)} cores at an accuracy of ${number(result.pas_mean, 3)}`;
  if (done.length > 3) {
    const best = (name, sign, show) => {
      const most = show(Math.max(...done.map(({ result }) => sign * result[name])) * sign), tied = done.filter(({ result }) => show(result[name]) === most);
      return `${tied.length > 2 ? `${tied.length} of ${done.length} runs` : tied.map(({ label }) => label).join(" and ")} (${most})`;
    };
    return `Most in time: ${best("violation_ratio", -1, (it) => percent(1 - it, 1))}. Fewest cores: ${best("cores_mean", -1, (it) => number(it, 1))}. Most accurate: ${best("pas_mean", 1, (it) => number(it, 3))}.`;
  }
  return done.length ? `${done.map(one).join("; ")}.` : "No run came to an end.";
}

// Timeline: load, latency and what came of it against the SLA, what was done, then decisions.

import { callApi } from "../api.js";
import { decisions } from "../decisions.js";
import { el, putter } from "../dom.js";
import { Figure } from "../figure.js";
import { History } from "../history.js";
import { formatRoute } from "../router.js";
import { Ranges, bounds, rangeOf } from "../ranges.js";

const COLOURS = ["blue", "violet", "teal", "amber", "red", "grey"];
const FIGURES = [
  { id: "load", title: "Load", unit: "rps", note: "A forecast is the peak expected within the forecaster's horizon, up to its upper quantile." },
  { id: "latency", title: "Latency", unit: "ms" },
  { id: "in-time", title: "In time", unit: "%" },
  { id: "lost", title: "Without an answer", unit: "rps" },
  { id: "replicas", title: "Replicas", unit: "" },
  { id: "utilisation", title: "Utilisation", unit: "%", note: "The measured share of the time in which the replicas of a stage were serving; a batch of a more accurate variant counts with the time of the planned one." },
  { id: "cores", title: "Cost", unit: "cores", short: true },
  { id: "accuracy", title: "Accuracy", unit: "PAS", short: true },
];

export const title = "Timeline";

export async function open(root, place, tools) {
  const name = place.path[0], base = `/v1/pipelines/${encodeURIComponent(name)}`;
  const gone = new AbortController(), put = putter();
  const past = new History(base, gone.signal);
  const boxes = {
    ranges: el("div", {}),
    said: el("p", { class: "note" }), charts: el("section", { class: "charts", id: "charts", "aria-label": "Over time" }),
  };
  const holds = el("input", { type: "checkbox", id: "all", onchange: () => draw(true) });
  const list = el("ol", { id: "decisions" });
  let range = rangeOf(place.query), now = 0, shown = "";
  root.append(boxes.ranges, boxes.said, boxes.charts,
    el("div", { class: "heading" }, el("h2", {}, "Decisions"), el("label", { class: "switch" }, holds, " show holds")),
    el("section", { class: "card decisions", "aria-label": "Decisions" }, list));
  const ranges = new Ranges(boxes.ranges, (query) => {
    tools.replace(query);
    range = rangeOf(place.query);
    return draw(true);
  });
  const frozen = () => {
    const [from, to] = bounds(range, now, past.begin);
    return { last: null, from: new Date(from).toISOString(), to: new Date(to).toISOString() };
  };
  const figure = (each) => new Figure(boxes.charts, { ...each, query: frozen, file: `${name}-${each.id}` });
  const figures = Object.fromEntries(FIGURES.map((each) => [each.id, figure(each)]));
  let status = null;

  async function update() {
    status = await callApi(`${base}/status`, { signal: gone.signal });
    past.see(status);
    now = Date.parse(status.live.at);
    await draw(false);
  }

  /** Draws again if there is new data or another range. */
  async function draw(isAsked) {
    const key = `${status.live.tick} ${status.live.series.length}`;
    if (!isAsked && key === shown) return;
    shown = key;
    if (isAsked) boxes.charts.setAttribute("aria-busy", "true");
    ranges.show(range, bounds(range, now, past.begin));
    await past.lookAgain(holds.checked, status.live.tick);
    const wanted = range.last === "all" ? -Infinity : range.last ? now - 1000 * Number(range.last) : range.from;
    // The status begins one tick later than its range.
    await past.reachBack(wanted + 2000 * status.live.tick_s, tools.say);
    const span = bounds(range, now, past.begin);
    ranges.show(range, span);
    boxes.charts.removeAttribute("aria-busy");
    for (const name of past.resources) {
      const [title, unit = "pieces"] = name.split(", ");
      figures[name] ??= figure({ id: name.toLowerCase().replace(/[^a-z0-9]+/g, "-"), title, unit, short: true });
    }
    for (const [id, facts] of Object.entries(factsOf(past, span, status))) {
      // Figures of what this pipeline does not measure.
      figures[id].box.hidden = Boolean(facts.isOptional) && facts.series.every((one) => one.y.every((value) => value === null));
      figures[id].show(facts);
    }
    const decided = past.decided(...span).filter((each) => holds.checked || each.action === "apply");
    put(list, [decided.map((each) => each.decision_id), holds.checked], () => decisions(decided, holds.checked));
    boxes.said.textContent = span[0] < past.begin && !past.isWhole
      ? "The beginning of this range is not shown: the page does not read that far back. ipa history PIPELINE --all has it." : "";
  }

  await update();
  return {
    update,
    close() {
      gone.abort();
      for (const figure of Object.values(figures)) figure.close();
    },
  };
}

/** The data of each figure between the two times. */
function factsOf(past, [from, to], status) {
  const ticks = past.between(from, to), x = ticks.map((tick) => tick.at);
  const of = (key, scale = 1) => ticks.map((tick) => (tick[key] === null || tick[key] === undefined ? null : tick[key] * scale));
  const marks = past.decided(from, to).filter((each) => each.action === "apply")
    .map((each) => ({ x: each.at, text: `${each.reason} at tick ${each.tick}`, href: formatRoute({ view: "decision", path: [each.decision_id] }) }));
  const common = { marks, stretches: past.stretches(from, to), x_range: [from, to], empty: "No tick between these times." };
  const inTime = of("inTime", 100), lowest = Math.min(status.sla_percentile, ...inTime.filter((value) => value !== null));
  const busy = [...new Set(ticks.flatMap((tick) => Object.keys(tick.busy)))];
  const counts = past.counts(from, to);
  const stages = [...new Set(counts.flatMap(({ count }) => Object.keys(count)))];
  const predicted = of("predicted", 1000), point = of("point");
  return {
    load: { ...common, series: [
      { name: "forecast", kind: "band", beyond: true, colour: "violet", x, y: point, lower: point, upper: of("upper") },
      { name: "seen", kind: "line", colour: "blue", x, y: of("rate") }] },
    latency: { ...common, limit: { name: "SLA", value: status.sla_s * 1000 }, series: [
      ...(predicted.some((value) => value !== null) ? [{ name: "predicted", kind: "line", beyond: true, colour: "grey", x, y: predicted }] : []),
      { name: `seen, p${status.sla_percentile}`, kind: "line", colour: "blue", x, y: of("latency", 1000) }] },
    "in-time": { ...common, isOptional: true, y_min: lowest > 90 ? 90 : 0, y_max: 100, limit: { name: "SLO", value: status.sla_percentile, isFloor: true }, series: [
      { name: "answered within the SLA", kind: "line", colour: "blue", x, y: inTime }] },
    lost: { ...common, isOptional: true, series: [
      { name: "dropped", kind: "line", colour: "red", x, y: of("dropped") }, { name: "failed", kind: "line", colour: "amber", x, y: of("failed") },
      { name: "retried", unit: "batches/s", kind: "line", colour: "grey", x, y: of("retried") }] },
    utilisation: { ...common, isOptional: true, y_max: 100, series: busy.map((stage, index) => ({
      name: stage, kind: "line", colour: COLOURS[index % COLOURS.length], x, y: ticks.map((tick) => (stage in tick.busy ? 100 * tick.busy[stage] : null)) })) },
    replicas: { ...common, series: stages.map((stage, index) => ({
      name: stage, kind: "step", colour: COLOURS[index % COLOURS.length], x: [...counts.map(({ at }) => at), new Date(to).toISOString()],
      y: [...counts, counts[counts.length - 1]].map(({ count }) => count[stage] ?? null) })) },
    cores: { ...common, series: [{ name: "allocated", kind: "step", colour: "teal", x, y: of("cores") }] },
    ...Object.fromEntries(past.resources.map((name) => [name, { ...common, series: [
      { name: "allocated", kind: "step", colour: "teal", x, y: ticks.map(({ beside }) => (beside ? beside.get(name) ?? 0 : null)) }] }])),
    accuracy: { ...common, y_max: 1, series: [{ name: "of the running configuration", kind: "step", colour: "amber", x, y: of("pas") }] },
  };
}

// Where a request's time goes: of each stage the wait in its queue and the time in the model, beside the SLA.

import { duration, el, percent, plain } from "./dom.js";

/** The card; nothing while no stage has answered. */
export function timeSpent(status) {
  const { live, sla_s: sla, sla_percentile: percentile, pipeline } = status;
  const stages = slowest(live.stages);
  if (!stages.length) return [];
  const longest = 1.02 * Math.max(sla, live.latency_s ?? 0, ...stages.map((stage) => stage.latency_s));
  const limit = 100 * sla / longest;
  const rows = stages.map(({ stage, latency_s: whole, service_s: service }) => {
    if (service === null) return row(stage, whole, [[whole, "whole"]], longest, limit, "of which the model: not measured");
    const inside = Math.min(service, whole), wait = whole - inside;
    return row(stage, whole, [[wait, "wait"], [inside, "model"]], longest, limit, [...timed(wait), " waiting, ", ...timed(inside), " in the model"]);
  });
  if (live.latency_s !== null) rows.push(row("whole request", live.latency_s, [[live.latency_s, "whole"]], longest, limit, `${percent(live.latency_s / sla)} of the SLA, hops and router included`));
  return [el("h2", {}, "Where a request’s time goes"),
    el("div", { class: "card time-spent" },
      el("p", { class: "legend" }, key("wait", "waiting in the queue"), key("model", "in the model"), key("limit", "SLA")),
      el("ul", {}, rows),
      el("p", { class: "note" }, `Each row is at its own ${plain(percentile)}th percentile, so the rows do not add up; the time in the model is the mean of its batches. For a single request, with hops and router: `, el("code", {}, `ipa probe ${pipeline}`), ", or the header Server-Timing of its answer."))];
}

/** The stages that answered in their order; of parts that share the load the one that takes longest. */
function slowest(stages) {
  const found = new Map();
  for (const each of stages) {
    if (each.latency_s !== null && each.latency_s > (found.get(each.stage)?.latency_s ?? -1)) found.set(each.stage, each);
  }
  return [...found.values()];
}

function row(name, whole, pieces, longest, limit, words) {
  let at = 0;
  const bars = pieces.map(([seconds, kind]) => {
    const bar = el("rect", { class: `spent ${kind}`, x: 100 * at / longest, width: 100 * seconds / longest, height: 10 });
    at += seconds;
    return bar;
  });
  return el("li", {}, el("span", { class: "name" }, name), el("b", {}, ...timed(whole)),
    el("span", { class: "track", "aria-hidden": "true" }, el("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none" }, bars, el("rect", { class: "spent limit", x: limit, width: 0.4, height: 10 }))),
    el("small", {}, words));
}

const key = (kind, words) => el("span", {}, el("i", { class: `spent ${kind}`, "aria-hidden": "true" }), words);

function timed(seconds) {
  const [value, unit] = duration(seconds);
  return [value, ` ${unit}`];
}

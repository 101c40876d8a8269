// Several configurations side by side: each with its share, and a canary's measurement.

import { duration, el, meter, plain } from "./dom.js";
import { table } from "./tables.js";

const percent = (ratio) => (ratio === null ? "–" : `${(100 * ratio).toFixed(1)} %`);
const time = (seconds) => duration(seconds).join(" ").trim();
const named = (configs) => configs.map((config) => `${config.stage}=${config.variant}`).join(", ");

/** The section's content; nothing if one configuration runs alone. */
export function sharedLoad({ live, sla_percentile: quantile, sla_s: sla }) {
  const { parts, canary } = live;
  if (!parts.length && !canary) return [];
  const heads = ["Configuration", ...["Share", `p${plain(quantile)}`, "In time"].map((text) => ({ text, figure: true }))];
  const rows = parts.map((part) => [[named(part.configs), part.is_canary ? el("small", {}, " canary") : ""], `${part.share_percent} %`,
    el("span", { class: part.latency_s > sla ? "over" : "" }, time(part.latency_s)),
    el("span", { class: 100 * (part.in_time_ratio ?? 1) < quantile ? "over" : "" }, percent(part.in_time_ratio))]);
  return [el("h2", { id: "shared-title" }, "Shared load"),
    el("article", { class: "card shared" }, rows.length ? table("Configurations side by side", heads, rows) : "",
      canary ? trial(canary, quantile) : "")];
}

/** The progress and the figures of a canary. */
function trial(canary, quantile) {
  const measured = canary.in_time_ratio === null ? ["nothing was measured yet"] : [
    el("b", {}, percent(canary.in_time_ratio)), ` of its ${canary.requests.toFixed(0)} requests in time, ${canary.failed.toFixed(0)} failed, p${plain(quantile)} ${time(canary.latency_s)}`,
    canary.others_in_time_ratio === null ? "" : ` · ${percent(canary.others_in_time_ratio)} of the others in time`];
  const done = canary.measured_s / canary.measure_s;
  return el("div", { class: "trial" },
    el("p", {}, el("b", {}, "Canary"), ` of ${named(canary.wanted)}: ${canary.share_percent} % of the requests, measured for ${canary.measured_s.toFixed(0)} of ${plain(canary.measure_s)} s`),
    meter(done, "ok"), el("p", { class: "note" }, measured));
}


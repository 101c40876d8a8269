// The parts of Now beside its tiles and graph: notices of the pipeline, configurations side by side, and where a request's
// time goes.

import { clock, duration, el, meter, percent, plain, sentence } from "../dom.js";
import { formatRoute } from "../router.js";
import { copyButton, figure, table } from "../tables.js";

/** The address of the pipeline's requests, with a curl command to copy; `tools` are those of the view. */
export function requests({ address }, tools) {
  if (!address?.url) return [];
  const curl = `curl -sS '${address.url}' -H 'Content-Type: application/json' -d @request.json`;
  return [el("p", { class: "command" }, el("span", {}, "Requests: POST"), el("code", { tabindex: "0" }, address.url),
    copyButton(address.url, "The URL", tools), copyButton(curl, "The curl command", tools, "Copy curl")),
  address.note ? el("p", { class: "note" }, sentence(address.note)) : ""];
}

/** The latest edit of the pipeline while it ran: what changed, or why it is not in force. */
export function latestEdit({ edit }) {
  if (!edit) return [];
  if (edit.state === "taken") {
    return [el("p", { class: "note" }, `Changed ${edit.by ? `by ${edit.by} ` : ""}at ${clock(edit.at)} (${edit.source}): ${edit.changes.join("; ")}`)];
  }
  const head = edit.state === "refused" ? "Edit refused" : "Edit waits";
  return [el("p", { class: "banner warn", role: "status" }, el("b", {}, head), el("span", {}, `${edit.message}. The version before it is in force.`))];
}

/** The profiles that are not credible: a warning if the mode writes by them. */
export function profileDoubts({ pipeline, control }) {
  const doubts = control.profile_doubts ?? [];
  if (!doubts.length) return [];
  const text = doubts.map(sentence).join(". ");
  const link = el("a", { href: formatRoute({ view: "profiles", path: [pipeline] }) }, "Profiles");
  if (!["guarded", "active"].includes(control.mode)) return [el("p", { class: "note" }, `${text}. `, link)];
  return [el("p", { class: "banner warn" }, el("b", {}, "Plans may be wrong"), el("span", {}, `${text}. `, link))];
}

const time = (seconds) => duration(seconds).join(" ").trim();
const named = (configs) => configs.map((config) => `${config.stage}=${config.variant}`).join(", ");

/** The section's content; nothing if one configuration runs alone. */
export function sharedLoad({ live, sla_percentile: quantile, sla_s: sla }) {
  const { parts, canary } = live;
  if (!parts.length && !canary) return [];
  const heads = ["Configuration", ...["Share", `p${plain(quantile)}`, "In time"].map(figure)];
  const rows = parts.map((part) => [[named(part.configs), part.is_canary ? el("small", {}, " canary") : ""], `${part.share_percent} %`,
    el("span", { class: part.latency_s > sla ? "over" : "" }, time(part.latency_s)),
    el("span", { class: 100 * (part.in_time_ratio ?? 1) < quantile ? "over" : "" }, percent(part.in_time_ratio, 1))]);
  return [el("h2", { id: "shared-title" }, "Shared load"),
    el("article", { class: "card shared" }, rows.length ? table("Configurations side by side", heads, rows) : "",
      canary ? trial(canary, quantile) : "")];
}

/** The progress and the figures of a canary. */
function trial(canary, quantile) {
  const measured = canary.in_time_ratio === null ? ["nothing was measured yet"] : [
    el("b", {}, percent(canary.in_time_ratio, 1)), ` of its ${canary.requests.toFixed(0)} requests in time, ${canary.failed.toFixed(0)} failed, p${plain(quantile)} ${time(canary.latency_s)}`,
    canary.others_in_time_ratio === null ? "" : ` · ${percent(canary.others_in_time_ratio, 1)} of the others in time`];
  const done = canary.measured_s / canary.measure_s;
  return el("div", { class: "trial" },
    el("p", {}, el("b", {}, "Canary"), ` of ${named(canary.wanted)}: ${canary.share_percent} % of the requests, measured for ${canary.measured_s.toFixed(0)} of ${plain(canary.measure_s)} s`),
    meter(done, "ok"), el("p", { class: "note" }, measured));
}

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
    return row(stage, whole, [[wait, "wait"], [inside, "model"]], longest, limit, [...inUnits(wait), " waiting, ", ...inUnits(inside), " in the model"]);
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
  return el("li", {}, el("span", { class: "name" }, name), el("b", {}, ...inUnits(whole)),
    el("span", { class: "track", "aria-hidden": "true" }, el("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none" }, bars, el("rect", { class: "spent limit", x: limit, width: 0.4, height: 10 }))),
    el("small", {}, words));
}

const key = (kind, words) => el("span", {}, el("i", { class: `spent ${kind}`, "aria-hidden": "true" }), words);

function inUnits(seconds) {
  const [value, unit] = duration(seconds);
  return [value, ` ${unit}`];
}

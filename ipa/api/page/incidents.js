// Incidents: the banner of one that lasts, and the list of begin, end, cause and what was done.

import { clock, duration, el, number, plain, sentence, when } from "./dom.js";
import { chip } from "./parts.js";
import { reasonTitle } from "./reasons.js";
import { formatRoute } from "./router.js";

export const TROUBLES = {
  slo_broken: "SLO broken", overloaded: "overloaded", blind: "not seen", rolled_back: "rolled back", held: "held",
};
const MINUTE_MS = 60000;
// Actions shown of one incident; the Timeline has the others.
const ACTIONS = 4;

/** The time between the two, such as "3 min 20 s". */
export function lasted(from, to) {
  const s = Math.max(Math.round((Date.parse(to) - Date.parse(from)) / 1000), 0);
  const parts = [[Math.floor(s / 3600), "h"], [Math.floor(s / 60) % 60, "min"], [s % 60, "s"]].filter(([count]) => count);
  return parts.slice(0, 2).map(([count, unit]) => `${count} ${unit}`).join(" ") || "0 s";
}

/** The Timeline with a minute before and after the incident. */
export function timelineOf({ pipeline, begun_at: begun, ended_at: ended }, now) {
  const at = (t, away) => new Date(Date.parse(t) + away).toISOString();
  return formatRoute({ view: "timeline", path: [pipeline], query: { from: at(begun, -MINUTE_MS), to: ended ? at(ended, MINUTE_MS) : at(now, 0) } });
}

/** The banner of an incident that lasts; nothing without one. */
export function banner(incident, now) {
  if (!incident) return [];
  const changes = incident.action_count === 1 ? "1 change was made" : `${incident.action_count || "no"} changes were made`;
  return el("p", { class: "banner bad", id: "incident" }, el("b", {}, words(incident)),
    el("span", {}, `since ${clock(incident.begun_at)}, for ${lasted(incident.begun_at, now)} · ${incident.cause}`),
    el("span", { class: "remedy" }, [...worst(incident), changes].join(" · "), " ", el("a", { href: timelineOf(incident, now) }, "Timeline"),
      incident.runbook_url ? [" ", el("a", { href: incident.runbook_url, rel: "noreferrer" }, "Runbook")] : ""));
}

/** The incidents as items of a list, the newest first; `named` tells whose each is. */
export function incidentItems(list, now, named = false) {
  if (!list.length) return [el("li", { class: "empty" }, "No incident is known.")];
  return list.map((incident) => el("li", { class: incident.ended_at ? null : "lasts" },
    el("div", { class: "when" }, el("time", { datetime: incident.begun_at }, when(incident.begun_at)),
      el("span", { class: "tick" }, incident.ended_at ? `to ${clock(incident.ended_at)}, ${lasted(incident.begun_at, incident.ended_at)}` : `lasts, ${lasted(incident.begun_at, now)} so far`)),
    el("div", { class: "chips" }, incident.troubles.map((each) => chip(incident.ended_at ? "warn" : "bad", TROUBLES[each] ?? each))),
    el("div", {}, named ? el("b", {}, `${incident.pipeline}: `) : "", el("span", {}, sentence(incident.cause)),
      el("div", { class: "detail" }, worst(incident).join(" · ")),
      el("div", { class: "detail" }, done(incident)),
      el("div", { class: "detail" }, el("a", { href: timelineOf(incident, now) }, "Timeline", el("span", { class: "hidden" }, ` of the incident of ${clock(incident.begun_at)}`)),
        incident.runbook_url ? [" · ", el("a", { href: incident.runbook_url, rel: "noreferrer" }, "Runbook", el("span", { class: "hidden" }, ` for the incident of ${clock(incident.begun_at)}`))] : ""))));
}

const words = ({ troubles }) => sentence(troubles.map((each) => TROUBLES[each] ?? each).join(", "));

/** The worst figures that were seen. */
function worst({ in_time_ratio: ratio, latency_s: latency, lost, rate_rps: rate }) {
  return [ratio === null ? "" : `at worst ${number(100 * ratio, 1)} % in time`, latency === null ? "" : `latency up to ${duration(latency).join(" ")}`,
    lost >= 1 ? `about ${lost.toFixed(0)} requests lost` : "", rate === null ? "" : `load up to ${plain(Math.round(10 * rate) / 10)} rps`].filter(Boolean);
}

function done({ actions, action_count: count, held }) {
  if (!actions.length) return `Nothing was changed${held ? `; ${held}` : ""}`;
  const shown = actions.slice(0, ACTIONS).flatMap(({ decision_id: id, at, reason, by }, index) => [index ? ", " : "",
    el("a", { href: formatRoute({ view: "decision", path: [id] }) }, reasonTitle(reason).replace("Applied: ", "")), ` at ${clock(at)}${by ? ` by ${by}` : ""}`]);
  return ["Done: ", ...shown, count > ACTIONS ? ` and ${count - ACTIONS} more` : ""];
}

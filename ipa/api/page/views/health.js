// Health: the dependencies of the service, and the missing inputs of each pipeline.

import { callApi } from "../api.js";
import { clock, duration, el, plain, putter } from "../dom.js";
import { chip, healthChip } from "../parts.js";
import { formatRoute } from "../router.js";
import { table } from "../tables.js";

// The remedy of each failing check; any other name is a pipeline's.
const MENDS = {
  store: "Is the database up and writable? IPA_STORE_URL names it. Nothing is changed until it answers; requests are still served.",
  leadership: "Can the service reach the cluster's Lease? Until a replica leads, nothing is changed. ipa doctor checks its rights.",
};
const MEND_PIPELINE = "Is Prometheus up (IPA_PROMETHEUS_URL), does it scrape, and may the service read the workload? ipa doctor says which, and the fix.";
const MISSING = { unreachable: "no answer", absent: "nothing there", stale: "too old", invalid: "makes no sense", not_asked: "not asked for" };
const NAMES = { load: "load over time", arrival_rate: "arrival rate", latency: "latency", running: "running configuration", ready_replicas: "ready replicas" };

export const title = "Health";

export async function open(root, place, tools) {
  const gone = new AbortController(), put = putter(), signal = gone.signal;
  const parts = { state: el("div", { class: "chips" }), checks: el("section", { "aria-label": "What it depends on" }), inputs: el("section", { "aria-label": "Inputs" }), about: el("p", { class: "note" }) };
  root.append(parts.state,
    el("h2", {}, "What the service depends on"), parts.checks, el("h2", {}, "Inputs of each pipeline"), parts.inputs, parts.about);
  const about = (version) => [`ipa ${version ?? ""} · metrics for Prometheus are at `, el("a", { href: "/metrics" }, "/metrics"), ", which raises the alerts of ", el("code", {}, "docs/how-to/alerts.md"), " · ", el("code", {}, "ipa doctor"), " looks at everything around the service."];

  async function update() {
    const ready = await readiness(signal);
    const names = [...tools.pipelines.keys()];
    const found = await Promise.all(names.map((name) => callApi(`/v1/pipelines/${encodeURIComponent(name)}/status`, { signal })));
    const broken = found.filter(({ live }) => live.slo_broken).map(({ pipeline }) => pipeline);
    put(parts.state, [ready, broken], () => [
      ready.ready ? chip("good", "ready", "The API can serve") : chip("bad", "not ready", "The API cannot serve"),
      ready.degraded ? chip("warn", "degraded", "Something below does not answer") : chip("good", "all dependencies answer"),
      ...broken.map((name) => chip("bad", `SLO of ${name} broken`)),
    ]);
    put(parts.about, ready.version ?? "", () => about(ready.version));
    put(parts.checks, ready.checks, () => checks(ready.checks));
    put(parts.inputs, found.map(({ live }) => [live.tick, live.degraded, live.inputs]), () =>
      found.length ? found.map(inputs) : el("p", { class: "card empty" }, "There is no pipeline that you may see. ", el("code", {}, "ipa init"), " writes one."));
  }

  await update();
  return { update, close: () => gone.abort() };
}

/** The checks; if the service is not ready, those that failed. */
async function readiness(signal) {
  try {
    return await callApi("/readyz?verbose", { signal });
  } catch (error) {
    if (error.status !== 503) throw error;
    const failed = error.errors.map(({ detail }) => ({ name: detail.split(":")[0], ok: false, required: true, detail: detail.split(": ").slice(1).join(": ") }));
    return { ready: false, degraded: true, checks: failed };
  }
}

function checks(list) {
  return el("div", { class: "card inputs" }, table("Checks", ["What", "State", "Detail", "What to do"], list.map((check) => [check.name,
    check.ok ? chip("good", "ok") : chip(check.required ? "bad" : "warn", check.required ? "failed" : "degraded"),
    check.detail || (check.ok ? "answers" : ""), check.ok ? "nothing" : MENDS[check.name] ?? MEND_PIPELINE])));
}

/** The inputs of a pipeline: their age, and the missing ones. */
function inputs(status) {
  const { pipeline, live } = status, health = healthChip(status);
  const wrong = live.inputs.filter((each) => each.missing && each.missing !== "not_asked");
  const rows = live.inputs.filter((each) => each.missing !== "not_asked").map((each) => [
    [each.stage, NAMES[each.input] ?? each.input].filter(Boolean).join(": "),
    each.missing ? chip("warn", MISSING[each.missing] ?? each.missing) : chip("good", "seen"),
    each.age_s === null ? "" : each.age_s < 1 ? "under 1 s" : duration(each.age_s).join(" "), each.detail]);
  return el("article", { class: "card health" },
    el("header", {}, el("h3", {}, el("a", { href: formatRoute({ view: "now", path: [pipeline] }) }, pipeline)),
      health ?? chip("info", "planned only", status.not_runnable_because),
      el("span", { class: "note" }, `tick ${live.tick}, every ${plain(live.tick_s)} s, seen ${clock(live.at)}`)),
    live.degraded.map((text) => el("p", { class: "banner bad" }, text)),
    el("details", { open: wrong.length && health ? "" : null }, el("summary", {}, wrong.length ? `${wrong.length} of ${rows.length} inputs are missing` : `All ${rows.length} inputs are present`),
      table(`Inputs of ${pipeline}`, ["Input", "State", "Age", "Detail"], rows)));
}

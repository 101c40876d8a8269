// The meaning of each reason of a decision, in the words of docs/reference/reasons.md, and its remedy in a line.

export const REASONS = {
  "apply.scale_up": "more replicas or cores; the variants stay",
  "apply.scale_down": "fewer replicas or cores; the variants stay",
  "apply.switch_variant": "at least one stage runs another variant",
  "apply.rebatch": "only batch sizes changed",
  "apply.reshare": "the same configurations run side by side; only their shares of the requests changed",
  "apply.canary": "a configuration with a new variant starts beside the running one and is measured on a few requests",
  "apply.first_plan": "the first plan of this pipeline",
  "apply.requested": "a person requested it: ipa apply, ipa rollback or the API",
  "apply.rollback": "the last rollout failed or was late, or a canary failed",
  "apply.amended": "the load outgrew a change that rolled out, so more replicas, another batch size or a resident variant were added to it",
  "apply.slo_broken": "requests were late or lost although the model expected none, so capacity was added",
  "apply.fallback": "the load was missing for so long that the plan is for the pipeline's fallback rate; it only adds capacity",
  "hold.no_change": "the running plan is the best",
  "hold.within_tolerance": "another plan gains less than the change to it costs",
  "hold.stabilising": "of versions before 0.3: a better plan had to stay better for a while",
  "hold.canary": "a new configuration is measured on a few requests before it takes all",
  "hold.slo_broken": "requests are late or lost, and no better plan has more capacity",
  "hold.signals_disagree": "the signals contradict each other, so removing capacity would be a guess",
  "hold.in_progress": "a change by this service or by someone else is rolling out",
  "hold.advisory": "a change is due, and advisory mode writes nothing",
  "hold.shadow": "a change is due, and shadow mode only continues from its own decisions",
  "hold.guarded": "the change would remove or replace something, and guarded mode only adds",
  "hold.frozen": "a freeze is in force",
  "hold.not_leader": "another replica of the service leads",
  "hold.no_room": "no order of steps keeps old and new replicas within the core budget, or what lately had room",
  "hold.paused": "a person paused the pipeline",
  "hold.metrics_missing": "load or latency is missing",
  "hold.metrics_stale": "the newest sample is too old",
  "hold.metrics_invalid": "a value is negative, not a number, or implausible",
  "hold.workload_unknown": "the running configuration could not be read",
  "hold.infeasible": "no plan meets the constraints at this load",
  "hold.solver_failed": "no solver returned a valid plan",
  "hold.quarantined": "the variant's last rollout or canary failed",
  "hold.rollback_failed": "the rollback failed as well",
  "hold.conflict": "the object changed during the write",
  "hold.drift": "someone else changed the workload, it is not a configuration of this pipeline, or another install owns it",
  "hold.rbac": "the cluster does not allow the write",
  "hold.audit_failed": "the decision could not be recorded, so nothing was written",
};

/** Reasons of ticks without the load or the running configuration. */
export const BLIND = new Set(["hold.metrics_missing", "hold.metrics_stale", "hold.metrics_invalid", "hold.workload_unknown", "apply.fallback"]);

/** Reasons of ticks in which a change was due, or might have been, and was not made. */
export const HELD = new Set(["hold.paused", "hold.frozen", "hold.advisory", "hold.shadow", "hold.guarded", "hold.no_room", "hold.infeasible", "hold.solver_failed",
  "hold.quarantined", "hold.rollback_failed", "hold.conflict", "hold.drift", "hold.rbac", "hold.audit_failed"]);

/** The causes of lost requests that were given up; all others are faults. */
export const DROPS = new Set(["overload", "queue_full", "no_time_left", "no_replicas", "batch_late"]);

/** The reason as a title: "Holding: no change". */
export function reasonTitle(reason) {
  const [verb, word] = reason.split(".");
  return `${verb === "apply" ? "Applied" : "Holding"}: ${word.replaceAll("_", " ")}`;
}

const health = (text) => ({ text, link: () => "#/health", name: "Health" });
const tryOut = (text) => ({ text, link: (pipeline) => `#/what-if/${encodeURIComponent(pipeline)}`, name: "What-if" });
const why = (text) => ({ text, link: (pipeline) => `#/decision/?pipeline=${encodeURIComponent(pipeline)}`, name: "Why" });

export const REMEDIES = {
  "hold.no_change": why("Nothing to do: the running plan is the best."),
  "hold.within_tolerance": why("Nothing to do: another plan gains less than the change to it costs; the detail has both."),
  "hold.stabilising": why("Nothing to do: of versions before 0.3: a better plan had to stay better for a while."),
  "hold.canary": why("Nothing to do: a new configuration is measured on a few requests before it takes all."),
  "hold.signals_disagree": health("Compare the rates and the queue in the detail, and check the scrape targets."),
  "hold.in_progress": why("Wait: a change is rolling out. It is rolled back if it is not ready in time."),
  "hold.advisory": why("Advisory mode writes nothing. Once the proposed changes are right: ipa mode PIPELINE guarded."),
  "hold.shadow": why("Shadow mode writes nothing. Once its decisions have been good for days: ipa mode PIPELINE guarded."),
  "hold.guarded": why("Guarded mode only adds replicas. Once you trust the decisions: ipa mode PIPELINE active."),
  "hold.frozen": why("Wait for the end of the freeze, or ipa unfreeze PIPELINE."),
  "hold.not_leader": health("Nothing to do: another replica of the service leads."),
  "hold.no_room": tryOut("Raise bounds.cores, or set bounds.transition_cores: old and new replicas do not fit at the same time."),
  "hold.paused": why("Continue with ipa resume PIPELINE."),
  "hold.metrics_missing": health("Check that Prometheus is up and scrapes the router or executor."),
  "hold.metrics_stale": health("Check the scrape interval and the health of the targets."),
  "hold.metrics_invalid": health("Check the query that the detail names."),
  "hold.workload_unknown": health("The running configuration could not be read; the detail has the cause."),
  "hold.infeasible": tryOut("No plan meets the constraints at this load. Try a longer SLA, more cores or less load."),
  "hold.solver_failed": why("No solver returned a valid plan; the detail has the error."),
  "hold.quarantined": why("Repair the variant (image, memory, probes); it is retried automatically."),
  "hold.rollback_failed": why("Repair the workload by hand, then ipa pause PIPELINE and ipa resume PIPELINE."),
  "hold.conflict": why("If it happens once, nothing to do. If it happens often, find the other writer."),
  "hold.drift": why("Someone else changed the workload. Decide who owns it; continue with ipa pause PIPELINE and ipa resume PIPELINE."),
  "hold.rbac": health("The cluster does not allow the write: bind deploy/rbac/actor.yaml, then ipa pause PIPELINE and ipa resume PIPELINE."),
  "hold.audit_failed": health("The decision could not be recorded, so nothing was written. Make the store writable."),
  "apply.rollback": why("The last change failed, was late, or did worse as a canary, so it was rolled back."),
  "apply.amended": why("The load rose further while replicas started: check how long they take to become ready."),
  "apply.slo_broken": why("Requests were late although the model expected none: check which stage waits, and profile it again."),
  "hold.slo_broken": tryOut("Requests are late, and no plan within the bounds has more capacity: raise the bounds, or loosen the SLA."),
  "apply.fallback": health("The load was missing for so long that the plan is for the fallback rate."),
};

// While the SLO is broken there is something to do, even if the last decision had nothing to change.
const LATE = why("Requests are late or lost although the plan should carry the load: check which stage waits or fails, and profile it again.");

/** {text, href, name} for a reason; without a remedy, a link to the decision. */
export function remedy(reason, pipeline, isBroken = false) {
  const found = REMEDIES[reason] ?? why("");
  const { text, link, name } = isBroken && (reason.startsWith("apply.") || found.text.startsWith("Nothing")) ? LATE : found;
  return { text: text.replaceAll("PIPELINE", pipeline), href: link(pipeline), name };
}

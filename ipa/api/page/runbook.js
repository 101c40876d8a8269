// The remedy for each reason, in a line, with the view that helps. docs/reference/reasons.md has more on each.

const health = (text) => ({ text, link: () => "#/health", name: "Health" });
const tryOut = (text) => ({ text, link: (pipeline) => `#/what-if/${encodeURIComponent(pipeline)}`, name: "What-if" });
const why = (text) => ({ text, link: (pipeline) => `#/decision/?pipeline=${encodeURIComponent(pipeline)}`, name: "Why" });

export const REMEDIES = {
  "hold.no_change": why("Nothing to do: the running plan is the best."),
  "hold.within_tolerance": why("Nothing to do: the gain of a better plan is below the tolerance."),
  "hold.stabilising": why("Nothing to do: a better plan must stay better for a while before it is applied; the detail says how long."),
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
  "apply.saturated": tryOut("A stage was observed above its capacity, whatever its profile predicts; profile it again."),
  "apply.amended": why("The load rose further while replicas started: check how long they take to become ready."),
  "apply.slo_broken": why("Requests were late although the model expected none: check which stage waits, and profile it again."),
  "hold.slo_broken": tryOut("Requests are late, and no plan within the bounds has more capacity: raise the bounds, or loosen the SLA."),
  "apply.fallback": health("The load was missing for so long that the plan is for the fallback rate."),
};

// While the SLO is broken there is something to do, also where the last decision had nothing to change.
const LATE = why("Requests are late or lost although the plan should carry the load: check which stage waits or fails, and profile it again.");

/** {text, href, name} for a reason; without a remedy, a link to the decision. */
export function remedy(reason, pipeline, isBroken = false) {
  const found = REMEDIES[reason] ?? why("");
  const { text, link, name } = isBroken && (reason.startsWith("apply.") || found.text.startsWith("Nothing")) ? LATE : found;
  return { text: text.replaceAll("PIPELINE", pipeline), href: link(pipeline), name };
}

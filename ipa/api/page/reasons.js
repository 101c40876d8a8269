// What each reason of a decision means: the words of docs/reference/reasons.md. What to do is in runbook.js.

export const REASONS = {
  "apply.scale_up": "more replicas or cores, the variants stay",
  "apply.scale_down": "fewer",
  "apply.switch_variant": "at least one stage runs another variant",
  "apply.rebatch": "only batch sizes changed",
  "apply.reshare": "the same configurations run side by side; only their shares of the requests changed",
  "apply.first_plan": "the first plan of this pipeline",
  "apply.requested": "someone asked for it: ipa apply, ipa rollback or the API",
  "apply.rollback": "the last rollout failed or was late, and is taken back",
  "apply.saturated": "what is measured says that a stage has more than it can carry, whatever its profile says: more replicas",
  "apply.fallback": "the load was not seen for so long that the pipeline's fallback rate is planned for; it only adds",
  "hold.no_change": "the best plan runs",
  "hold.within_tolerance": "the gain is too small to disturb anything",
  "hold.stabilising": "a better plan must stay better for some ticks",
  "hold.signals_disagree": "the signals contradict each other, so less capacity would be a guess",
  "hold.in_progress": "a change is rolling out, ours or someone else's",
  "hold.advisory": "it would change something, and may not",
  "hold.shadow": "it goes on from its own decisions, and writes nothing",
  "hold.guarded": "the change would take something away, and guarded mode only adds",
  "hold.frozen": "a freeze is on",
  "hold.not_leader": "another replica of the service leads",
  "hold.no_room": "no order of steps keeps old and new replicas together within the core budget",
  "hold.paused": "someone paused it",
  "hold.metrics_missing": "load or latency is not there",
  "hold.metrics_stale": "the newest sample is too old",
  "hold.metrics_invalid": "a value is not a number, negative, or doubtful",
  "hold.workload_unknown": "what runs could not be read",
  "hold.infeasible": "nothing meets the constraints at this load",
  "hold.solver_failed": "no solver gave an answer that holds",
  "hold.quarantined": "the variant's last rollout failed",
  "hold.rollback_failed": "taking back failed as well",
  "hold.conflict": "the object changed while we wrote",
  "hold.drift": "another hand changed what we run, perhaps into what is none of ours; or another install owns it",
  "hold.rbac": "the cluster does not allow the write",
  "hold.audit_failed": "the decision could not be recorded, so nothing was written",
};

/** The reason as people read it: "Holding: no change". */
export function reasonTitle(reason) {
  const [verb, word] = reason.split(".");
  return `${verb === "apply" ? "Applied" : "Holding"}: ${word.replaceAll("_", " ")}`;
}

// What each reason of a decision means, and what to do about it: docs/reference/reasons.md in short.

export const REASONS = {
  "apply.scale_up": ["more replicas or cores, the variants stay", ""],
  "apply.scale_down": ["fewer", ""],
  "apply.switch_variant": ["at least one stage runs another variant", ""],
  "apply.rebatch": ["only batch sizes changed", ""],
  "apply.reshare": ["the same configurations run side by side; only their shares of the requests changed", ""],
  "apply.first_plan": ["the first plan of this pipeline", ""],
  "apply.requested": ["someone asked for it: ipa apply, ipa rollback or the API", ""],
  "apply.rollback": ["the last rollout failed or was late, and is taken back", ""],
  "apply.saturated": ["what is measured says that a stage has more than it can carry, whatever its profile says: more replicas", ""],
  "apply.fallback": ["the load was not seen for so long that the pipeline's fallback rate is planned for; it only adds", ""],
  "hold.no_change": ["the best plan runs", "nothing"],
  "hold.within_tolerance": ["the gain is too small to disturb anything", "nothing; IPA_TOLERANCE_RATIO"],
  "hold.stabilising": ["a better plan must stay better for some ticks", "nothing; IPA_DOWN_AFTER_TICKS"],
  "hold.signals_disagree": ["the signals contradict each other, so less capacity would be a guess", "compare the rates and the queue in the detail; look at the scrape targets"],
  "hold.in_progress": ["a change is rolling out, ours or someone else's", "wait; ipa watch says what it waits for"],
  "hold.advisory": ["it would change something, and may not", "hand it over when you trust it"],
  "hold.shadow": ["it goes on from its own decisions, and writes nothing", "ipa mode PIPELINE guarded when they have been good for days"],
  "hold.guarded": ["the change would take something away, and guarded mode only adds", "ipa mode PIPELINE active when you trust it"],
  "hold.frozen": ["a freeze is on", "ipa unfreeze, or wait for its end"],
  "hold.not_leader": ["another replica of the service leads", "nothing; ipa status says who leads"],
  "hold.no_room": ["no order of steps keeps old and new replicas together within the core budget", "raise bounds.cores or set bounds.transition_cores"],
  "hold.paused": ["someone paused it", "ipa resume"],
  "hold.metrics_missing": ["load or latency is not there", "is Prometheus up, does it scrape the router or executor?"],
  "hold.metrics_stale": ["the newest sample is too old", "look at the scrape targets"],
  "hold.metrics_invalid": ["a value is not a number, negative, or doubtful", "look at the query named in the detail"],
  "hold.workload_unknown": ["what runs could not be read", "the detail says why"],
  "hold.infeasible": ["nothing meets the constraints at this load", "the detail says what would: SLA, cores, rate"],
  "hold.solver_failed": ["no solver gave an answer that holds", "another --solver; the detail has the error"],
  "hold.quarantined": ["the variant's last rollout failed", "repair the variant; it is tried again later"],
  "hold.rollback_failed": ["taking back failed as well", "repair by hand, then ipa pause and ipa resume"],
  "hold.conflict": ["the object changed while we wrote", "nothing once; often: who else writes it?"],
  "hold.drift": ["another hand changed what we run, perhaps into what is none of ours; or another install owns it", "the detail says what differs; decide who owns it; ipa pause and ipa resume to go on"],
  "hold.rbac": ["the cluster does not allow the write", "deploy/rbac/actor.yaml, then pause and resume"],
  "hold.audit_failed": ["the decision could not be recorded, so nothing was written", "is the store writable?"],
};

/** The reason as people read it: "Holding: no change". */
export function reasonTitle(reason) {
  const [verb, word] = reason.split(".");
  return `${verb === "apply" ? "Applied" : "Holding"}: ${word.replaceAll("_", " ")}`;
}

/** [what it means, what to do]. */
export function reasonWords(reason) {
  return REASONS[reason] ?? ["", ""];
}

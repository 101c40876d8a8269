// What to do about a reason, in a line, and which view helps; docs/reference/reasons.md says more of each.

const health = (text) => ({ text, link: () => "#/health", name: "Health" });
const tryOut = (text) => ({ text, link: (pipeline) => `#/what-if/${encodeURIComponent(pipeline)}`, name: "What-if" });
const why = (text) => ({ text, link: (pipeline) => `#/decision/?pipeline=${encodeURIComponent(pipeline)}`, name: "Why" });

export const REMEDIES = {
  "hold.no_change": why("Nothing to do: the best plan runs."),
  "hold.within_tolerance": why("Nothing to do: the gain is too small to disturb anything."),
  "hold.stabilising": why("Nothing to do: a better plan must stay better for some ticks."),
  "hold.signals_disagree": health("Compare the rates and the queue in the detail; look at the scrape targets."),
  "hold.in_progress": why("Wait: a change is rolling out, and is taken back where it does not get ready in time."),
  "hold.advisory": why("It may not change anything. Read what it would do, and hand it over when that is right: ipa mode PIPELINE guarded."),
  "hold.shadow": why("It only goes on from its own decisions. When they have been good for days: ipa mode PIPELINE guarded."),
  "hold.guarded": why("It may only add. When you trust it: ipa mode PIPELINE active."),
  "hold.frozen": why("Wait for the end of the freeze, or ipa unfreeze PIPELINE."),
  "hold.not_leader": health("Nothing to do: another replica of the service leads."),
  "hold.no_room": tryOut("Raise bounds.cores, or set bounds.transition_cores: old and new replicas do not fit beside each other."),
  "hold.paused": why("ipa resume PIPELINE lets it go on."),
  "hold.metrics_missing": health("Is Prometheus up, and does it scrape the router or executor?"),
  "hold.metrics_stale": health("Look at the scrape interval and at the health of the targets."),
  "hold.metrics_invalid": health("Look at the query that the detail names."),
  "hold.workload_unknown": health("What runs could not be read; the detail says why."),
  "hold.infeasible": tryOut("Nothing meets the constraints at this load. Try a longer SLA, more cores or less load."),
  "hold.solver_failed": why("No solver gave an answer that holds; the detail has the error."),
  "hold.quarantined": why("Mend the variant (image, memory, probes); it is tried again by itself."),
  "hold.rollback_failed": why("Mend what runs by hand, then ipa pause PIPELINE and ipa resume PIPELINE."),
  "hold.conflict": why("Once: nothing to do. Often: find who else writes it."),
  "hold.drift": why("Another hand changed what runs. Decide who owns it; ipa pause and ipa resume let it go on."),
  "hold.rbac": health("The cluster does not allow the write: deploy/rbac/actor.yaml, then ipa pause and ipa resume."),
  "hold.audit_failed": health("The decision could not be recorded, so nothing was written. Is the store writable?"),
  "apply.rollback": why("The last change failed or was late, and was taken back."),
  "apply.saturated": tryOut("A stage has more than it can carry, whatever its profile says; measure it anew."),
  "apply.fallback": health("The load was not seen for so long that the fallback rate is planned for."),
};

/** {text, href, name} of a reason; where nothing is to be done about it, why it was decided. */
export function remedy(reason, pipeline) {
  const { text, link, name } = REMEDIES[reason] ?? why("");
  return { text: text.replaceAll("PIPELINE", pipeline), href: link(pipeline), name };
}

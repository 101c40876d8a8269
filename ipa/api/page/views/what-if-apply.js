// The dialog that applies the plan of a what-if: the change, the obstacles, and the outcome.

import { callApi } from "../api.js";
import { ConfirmDialog, newKey } from "../confirm-dialog.js";
import { el, number, plain } from "../dom.js";
import { coresOf, isRolling, isSeen } from "../parts.js";
import { formatRoute } from "../router.js";
import { reasonTitle, remedy } from "../reasons.js";
import { changes } from "../tables.js";
import { figures } from "./what-if-answer.js";

const EACH = [{ text: "Accuracy", figure: true, of: (stage) => number(stage.accuracy, 3) }];

/** The obstacles to the plan now: [{text, todo}]. The service checks again, also whether an undo may replace a change that rolls out. */
export function obstacles(status, pipeline, plan) {
  const { control, live, standing } = status;
  const found = [], refuse = (reason, text) => found.push({ text, todo: remedy(reason, status.pipeline).text });
  if (pipeline.not_controlled) found.push({ text: `It is not controlled here: ${pipeline.not_controlled}.`, todo: "" });
  if (!standing.leading) found.push({ text: "This replica of the service does not lead.", todo: `Ask ${standing.leader || "again once one leads"}.` });
  if (control.paused) refuse("hold.paused", `It is paused${control.paused_reason ? `: ${control.paused_reason}` : ""}.`);
  if (control.freezes.some((each) => each.active)) refuse("hold.frozen", "A freeze is in force.");
  if (control.mode === "advisory" || control.mode === "shadow") refuse(`hold.${control.mode}`, `Its mode is ${control.mode}.`);
  if (!isSeen(live)) refuse("hold.workload_unknown", pipeline.runnable ? "The running configuration is unknown." : `Nothing of it runs, because it is only planned: ${pipeline.not_runnable_because}.`);
  if (isRolling(live) && !plan.isUndo) refuse("hold.in_progress", "A change is rolling out.");
  const { cores } = pipeline.bounds;
  if (cores !== null && plan.cost_cores > cores + 1e-6) found.push({ text: `It takes ${coresOf(plan.cost_cores)}, and the pipeline's own bounds.cores is ${plain(cores)}.`, todo: "Plan within it, or have its owner raise it." });
  return found;
}

/**
 * Opens the dialog for the plan, whose ETag is `tag`; `planAgain` makes another one.
 * Returns {see(status), close()}; `see` updates the obstacles.
 */
export function applying({ plan, tag, status, pipeline, tools, planAgain }) {
  const now = status.live.stages.filter((stage) => stage.config).map((stage) => stage.config);
  const key = newKey();
  const dialog = new ConfirmDialog({
    title: `Apply this plan to ${pipeline.pipeline}?`, verb: "Apply", tools, mend: { text: "Plan again", act: planAgain },
    words: [el("p", {}, `For ${number(plan.rate_rps, 2)} rps. From the next tick on, the service plans from there with its own objective.`), figures(status.live, plan),
      changes("From the running configuration to the plan", now, plan.stages, EACH)],
    act: async (body) => outcome(await callApi(`/v1/plans/${encodeURIComponent(plan.plan_id)}:apply`, { method: "POST", body, headers: { "If-Match": tag, "Idempotency-Key": key } })),
  });
  const see = (seen) => dialog.stop(obstacles(seen, pipeline, plan));
  see(status);
  dialog.open();
  return { see, close: () => dialog.close() };
}

/** The outcome of a requested decision in words; it may be a hold with its cause. */
export function outcome(decision) {
  const isApplied = decision.action === "apply", todo = remedy(decision.reason, decision.pipeline).text;
  return {
    title: isApplied ? reasonTitle(decision.reason) : "Nothing was changed",
    parts: [el("p", { class: `banner ${isApplied ? "good" : "warn"}` }, isApplied ? "" : el("b", {}, reasonTitle(decision.reason)), el("span", {}, decision.detail),
      !isApplied && todo ? el("span", { class: "remedy" }, todo) : ""),
    el("p", {}, el("a", { href: formatRoute({ view: "decision", path: [decision.decision_id] }) }, "The decision"))],
  };
}

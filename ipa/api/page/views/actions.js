// What people do with a pipeline, each in a dialog: apply the plan of a what-if, pause, resume, set the mode, roll back.

import { callApi } from "../api.js";
import { ConfirmDialog, newKey } from "../confirm-dialog.js";
import { el, number, plain, when } from "../dom.js";
import { MODES, coresOf, isRolling, isSeen } from "../parts.js";
import { formatRoute } from "../router.js";
import { reasonTitle, remedy } from "../reasons.js";
import { changes, figure } from "../tables.js";
import { figures } from "./what-if-answer.js";

const EACH = [{ ...figure("Accuracy"), of: (stage) => number(stage.accuracy, 3) }];

/** The obstacles to the plan now: [{text, todo}]. The service checks again, also whether an undo may replace a change that rolls out. */
function obstacles(status, pipeline, plan) {
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
function outcome(decision) {
  const isApplied = decision.action === "apply", todo = remedy(decision.reason, decision.pipeline).text;
  return {
    title: isApplied ? reasonTitle(decision.reason) : "Nothing was changed",
    parts: [el("p", { class: `banner ${isApplied ? "good" : "warn"}` }, isApplied ? "" : el("b", {}, reasonTitle(decision.reason)), el("span", {}, decision.detail),
      !isApplied && todo ? el("span", { class: "remedy" }, todo) : ""),
    el("p", {}, el("a", { href: formatRoute({ view: "decision", path: [decision.decision_id] }) }, "The decision"))],
  };
}

const PAUSES = [["until someone resumes it", 0], ["half an hour", 1800], ["2 hours", 7200], ["8 hours", 28800], ["a day", 86400]];
// The revisions to choose from.
const REVISIONS = 20;

/** The buttons in `box` that the caller may use; `see(status)` with each status, and close(). */
export class PipelineActions {
  constructor(box, name, tools, base) {
    Object.assign(this, { box, name, tools, base });
    this.pause = this.button("Pause …", () => (this.status.control.paused ? this.resume() : this.hold()));
    this.all = [[this.pause, "control"], [this.button("Mode …", () => this.mode()), "control"], [this.button("Roll back …", () => this.back()), "apply"]];
    box.append(...this.all.map(([button]) => button));
  }

  see(status) {
    this.status = status;
    for (const [button, operation] of this.all) button.hidden = !this.tools.may(operation, this.name);
    this.pause.textContent = status.control.paused ? "Resume …" : "Pause …";
    if (this.target) this.dialog?.stop(obstacles(status, this.tools.pipelines.get(this.name), this.target));
  }

  button(text, act) {
    return el("button", { type: "button", hidden: "", "aria-haspopup": "dialog", onclick: act }, text);
  }

  open(asked) {
    this.target = null;
    this.dialog = new ConfirmDialog({ tools: this.tools, ...asked });
    this.dialog.open();
  }

  hold() {
    const during = choice("confirm-for", PAUSES.map(([text, value]) => [text, String(value)]));
    this.open({
      title: `Pause ${this.name}?`, verb: "Pause", fields: [el("label", { for: "confirm-for" }, "For how long?"), during],
      words: [el("p", {}, "While the pipeline is paused, nothing is changed, whatever the load is. It keeps serving requests.")],
      act: async (said) => told("Paused", await callApi(`${this.base}/pause`, { method: "POST", body: { ...said, ...(Number(during.value) ? { for_s: Number(during.value) } : {}) } })),
    });
  }

  resume() {
    const { paused_by: by, paused_reason: reason } = this.status.control;
    this.open({
      title: `Resume ${this.name}?`, verb: "Resume",
      words: [el("p", {}, `It was paused${by ? ` by ${by}` : ""}${reason ? `: ${reason}` : ""}. With the next tick it follows the load again.`)],
      act: async (said) => told("Resumed", await callApi(`${this.base}/resume?${new URLSearchParams(said)}`, { method: "POST" })),
    });
  }

  mode() {
    const now = this.status.control.mode;
    const chosen = choice("confirm-mode", Object.entries(MODES).map(([mode, means]) => [`${mode}: ${means[0].toLowerCase()}${means.slice(1)}`, mode]), now);
    this.open({
      title: `The mode of ${this.name}`, verb: "Change mode", fields: [el("label", { for: "confirm-mode" }, "Mode"), chosen], words: [el("p", {}, `It is ${now} now.`)],
      act: async (body) => told(`It is ${chosen.value}`, await callApi(`${this.base}/mode`, { method: "PUT", body: { ...body, mode: chosen.value } })),
    });
  }

  async back() {
    const [{ body: status, headers }, { decisions }] = await Promise.all([callApi.full(`${this.base}/status`), callApi(`${this.base}/history?limit=${REVISIONS}&inputs=false`)]);
    const revisions = decisions.map((each) => [`revision ${each.tick}, ${when(each.at)}: ${reasonTitle(each.reason).replace("Applied: ", "")}${each.by ? ` by ${each.by}` : ""}`, String(each.tick)]);
    const chosen = choice("confirm-to", [["the state before your last change", ""], ...revisions]), shown = el("div", { "aria-live": "polite" });
    const late = el("input", { type: "checkbox", id: "confirm-late", name: "late" });
    const wanted = () => (chosen.value ? { to: chosen.value } : {});
    this.open({
      title: `Roll ${this.name} back?`, verb: "Roll back", mend: { text: "Look again", act: () => this.back() },
      words: [el("label", { for: "confirm-to" }, "Restore"), chosen, shown],
      act: async (said) => outcome(await callApi(`${this.base}/rollback`, { method: "POST", body: { ...said, ...wanted(), ...(late.checked ? { confirmed: true } : {}) }, headers: { "If-Match": headers.get("ETag") } })),
    });
    const { dialog } = this;
    const preview = async () => {
      try {
        const undo = await callApi(`${this.base}/rollback?${new URLSearchParams(wanted())}`);
        shown.replaceChildren(...undoParts(undo, late));
        this.target = { cost_cores: cores(undo.configs), isUndo: true };
        dialog.stop(obstacles(status, this.tools.pipelines.get(this.name), this.target));
      } catch (error) {
        this.target = null;
        shown.replaceChildren();
        dialog.stop([{ text: error.message, todo: error.hint }]);
      }
    };
    dialog.form.addEventListener("change", ({ target }) => (["by", "reason", "late"].includes(target.name) ? undefined : preview()));
    await preview();
  }

  close() { this.dialog?.close(); }
}

const cores = (configs) => configs.reduce((sum, config) => sum + config.cores * config.replicas, 0);

function choice(id, options, now) {
  return el("select", { id }, options.map(([text, value]) => el("option", { value, selected: value === now }, text)));
}

/** The outcome of a change of overrides. */
function told(title, control) {
  const facts = [`mode ${control.mode}`, control.paused ? `paused${control.paused_until ? ` until ${when(control.paused_until)}` : ""}` : "not paused"];
  return { title, parts: [el("p", { class: "banner good" }, el("span", {}, `${facts.join(", ")}.`))] };
}

/** The changes that a rollback takes back, the configuration that it restores, and `late` if it has to be confirmed. */
function undoParts({ words, takes_back: undone, previous, configs, unconfirmed }, late) {
  const others = undone.slice(0, -1).map(({ revision, at, reason, by }) => el("li", {}, `revision ${revision}, ${when(at)}: ${reasonTitle(reason)}${by ? ` by ${by}` : ""}`));
  return [el("p", {}, `It ${words}. From the next tick on, the service may change it again; pause the pipeline to keep it.`),
    others.length ? el("details", {}, el("summary", {}, "The later changes"), el("ul", {}, others)) : "",
    changes("From the running configuration to the earlier one", previous, configs), el("p", { class: "note" }, `${coresOf(cores(previous))} now, ${plain(cores(configs))} then.`),
    unconfirmed ? el("p", { class: "banner warn" }, el("span", {}, `${unconfirmed}.`), el("label", {}, late, " Take the capacity anyway")) : ""];
}

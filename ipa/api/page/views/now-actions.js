// The actions on a pipeline in Now: pause, resume, mode and rollback.

import { callApi } from "../api.js";
import { ConfirmDialog } from "../confirm-dialog.js";
import { el, plain, when } from "../dom.js";
import { MODES } from "../parts.js";
import { changes } from "../tables.js";
import { obstacles, outcome } from "./what-if-apply.js";

const PAUSES = [["until someone resumes it", 0], ["half an hour", 1800], ["2 hours", 7200], ["8 hours", 28800], ["a day", 86400]];
// The number of changes searched for a rollback target, as in the service.
const LOOK_BACK = 50;

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
    const made = el("button", { type: "button", hidden: "", "aria-haspopup": "dialog" }, text);
    made.addEventListener("click", act);
    return made;
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
      title: `The mode of ${this.name}`, verb: "Set it", fields: [el("label", { for: "confirm-mode" }, "How far is it trusted?"), chosen], words: [el("p", {}, `It is ${now} now.`)],
      act: async (body) => told(`It is ${chosen.value}`, await callApi(`${this.base}/mode`, { method: "PUT", body: { ...body, mode: chosen.value } })),
    });
  }

  async back() {
    const [{ body: status, headers }, { decisions }] = await Promise.all([callApi.full(`${this.base}/status`), callApi(`${this.base}/history?limit=${LOOK_BACK}&inputs=false`)]);
    const to = beforeLast(decisions), now = status.live.stages.filter((stage) => stage.config).map((stage) => stage.config);
    this.open({
      title: `Roll ${this.name} back?`, verb: "Roll back", mend: { text: "Look again", act: () => this.back() },
      words: [el("p", {}, to.length ? "This applies the configuration before the last decision. The service continues from it with the next ticks; pause the pipeline to keep it." : "The earlier configuration is unknown."),
        to.length ? changes("From the running configuration to the earlier one", now, to) : "", to.length ? el("p", { class: "note" }, `${plain(cores(now))} cores now, ${plain(cores(to))} then.`) : ""],
      act: async (body) => outcome(await callApi(`${this.base}/rollback`, { method: "POST", body, headers: { "If-Match": headers.get("ETag") } })),
    });
    this.target = { cost_cores: cores(to) };
    this.dialog.stop(obstacles(status, this.tools.pipelines.get(this.name), this.target));
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

/** The configuration before the last of these decisions (newest first) that was not rolled back, however many steps it took. */
function beforeLast(applied) {
  const stayed = [];
  let rollback = null;
  for (const decision of applied.toReversed()) {
    if (decision.reason === "apply.rollback" || (rollback && decision.step_of === rollback)) {
      rollback = decision.step_of || decision.decision_id;
      undo(stayed, decision);
    } else stayed.push(decision);
  }
  let at = stayed.length - 1;
  while (at > 0 && continues(stayed[at], stayed[at - 1])) at -= 1;
  return stayed[at]?.previous ?? [];
}

/** Remove the newest steps that the rollback took back: one, or all up to its configuration. */
function undo(stayed, rollback) {
  while (stayed.length) {
    const undone = stayed.pop();
    if (same(undone.previous, rollback.configs) || !stayed.length || !continues(undone, stayed.at(-1))) return;
  }
}

/** Whether it is a further step of the decision that took the last one, or adds to that. */
function continues(step, last) {
  if (step.reason === "apply.amended") return true;
  if (step.step_of) return step.step_of === (last.step_of || last.decision_id);
  if (!step.plan || !last.plan || !same(step.previous, last.configs)) return false;
  return !same(planned(last), last.configs) && same(planned(step), planned(last));
}

const KEYS = ["stage", "variant", "batch_size", "cores", "replicas", "share_percent"];
const planned = ({ plan }) => plan.stages;
const same = (one, other) => JSON.stringify(one.map((config) => KEYS.map((key) => config[key]))) === JSON.stringify(other.map((config) => KEYS.map((key) => config[key])));

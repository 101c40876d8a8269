// The actions on a pipeline in Now: pause, resume, mode and rollback.

import { callApi } from "../api.js";
import { ConfirmDialog } from "../confirm-dialog.js";
import { el, plain, when } from "../dom.js";
import { MODES, coresOf } from "../parts.js";
import { reasonTitle } from "../reasons.js";
import { changes } from "../tables.js";
import { obstacles, outcome } from "./what-if-apply.js";

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

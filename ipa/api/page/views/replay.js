// A decision taken again from its recorded inputs, by the policy that took it or by another one.

import { Refused, callApi } from "../api.js";
import { el, number, plain } from "../dom.js";
import { reasonTitle } from "../reasons.js";
import { changes, inShort, refusal, table } from "../tables.js";

// It has to know the load to come, which only a simulation does.
const NOT_HERE = "oracle";

export class Replay {
  /** `signal` aborts once the view is closed. */
  constructor(decision, signal) {
    Object.assign(this, { decision, signal });
    this.policy = el("select", { name: "policy" }, el("option", { value: "" }, "the policy that took it"));
    this.button = el("button", { type: "submit", class: "button" }, "Take it again");
    this.result = el("div", { role: "status" });
    const form = el("form", { class: "pickers", "aria-label": "Take it again" }, el("label", {}, "By ", this.policy), this.button);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.take();
    });
    this.box = el("section", { class: "card inputs", "aria-label": "Taken again" }, el("h2", {}, "Does it come out the same?"),
      el("p", { class: "note" }, "It is decided again from the inputs that were recorded with it. Nothing is written."), form, this.result);
    this.policies();
  }

  /** Which others there are to try. Where that may not be seen, there is the one that took it. */
  async policies() {
    try {
      const { policies } = await callApi("/v1/experiments", { signal: this.signal });
      this.policy.append(...policies.filter((name) => name !== NOT_HERE).map((name) => el("option", { value: name }, name)));
    } catch (error) {
      if (!this.signal.aborted && !(error instanceof Refused)) throw error;
    }
  }

  async take() {
    const body = this.policy.value ? { policy: this.policy.value } : {};
    this.button.disabled = true;
    this.result.replaceChildren(el("p", { class: "note" }, "Deciding again …"));
    try {
      const found = await callApi(`/v1/decisions/${encodeURIComponent(this.decision.decision_id)}:replay`, { method: "POST", body, signal: this.signal });
      this.result.replaceChildren(...this.said(found), ...notes(found));
    } catch (error) {
      if (this.signal.aborted) return;
      this.result.replaceChildren(refusal(error));
    }
    this.button.disabled = false;
  }

  said({ outcome, why, policy, differences, again }) {
    const { decision } = this;
    if (outcome === "stale" || outcome === "nothing") return [el("p", {}, el("b", {}, "It cannot be taken again: "), `${why}.`)];
    if (outcome === "same") return [el("p", {}, el("b", {}, "The same. "), `${policy} comes to ${reasonTitle(again.reason).toLowerCase()}, with the same plan.`)];
    const rows = differences.map((each) => [each.what, each.recorded, each.again]);
    return [el("p", {}, el("b", {}, "It differs. "), `${policy} comes to ${reasonTitle(again.reason).toLowerCase()}: ${again.detail}`),
      table("What differs", ["What", "Recorded", "Taken again"], rows),
      el("h3", {}, `The recorded plan, beside that of ${policy}`), ...beside(decision.plan, again.plan)];
  }
}

/** Both plans, stage by stage and in figures; in words where one of them is none. */
function beside(recorded, again) {
  const is = (plan) => Boolean(plan?.stages.length);
  if (!is(recorded) || !is(again)) {
    const words = (plan) => (is(plan) ? inShort(plan.stages) : plan?.termination ?? "no plan");
    return [el("p", {}, `Recorded: ${words(recorded)}. Taken again: ${words(again)}.`)];
  }
  const figures = (plan) => `PAS ${number(plan.pas, 3)}, ${plain(plan.cost_cores)} cores, for ${number(plan.rate_rps, 2)} rps`;
  return [changes("The recorded plan and the one taken again", recorded.stages, again.stages),
    el("p", { class: "note" }, `Recorded: ${figures(recorded)}. Taken again: ${figures(again)}.`)];
}

const notes = (found) => (found.notes.length ? [el("ul", {}, found.notes.map((note) => el("li", {}, note)))] : []);

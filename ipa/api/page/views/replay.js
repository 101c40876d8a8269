// The replay of a decision from its recorded inputs, by the policy that made it or by another one.

import { callApi } from "../api.js";
import { el, number } from "../dom.js";
import { coresOf } from "../parts.js";
import { reasonTitle } from "../reasons.js";
import { changes, inShort, refusal, table } from "../tables.js";

// The oracle needs the future load, which only a simulation knows.
const NOT_HERE = "oracle";

export class Replay {
  /** `policies` are the names that the API takes; `signal` aborts once the view is closed. */
  constructor(decision, policies, signal) {
    Object.assign(this, { decision, signal });
    const others = policies.filter((name) => name !== NOT_HERE).map((name) => el("option", { value: name }, name));
    this.policy = el("select", { name: "policy" }, el("option", { value: "" }, "the policy that made it"), others);
    this.button = el("button", { type: "submit", class: "button" }, "Replay");
    this.result = el("div", { role: "status" });
    const form = el("form", { class: "pickers", "aria-label": "Replay it", onsubmit: () => this.take() }, el("label", {}, "With ", this.policy), this.button);
    this.box = el("section", { class: "card inputs", "aria-label": "Replay" }, el("h2", {}, "Is the decision reproducible?"),
      el("p", { class: "note" }, "A replay decides again from the recorded inputs. It writes nothing."), form, this.result);
  }

  async take() {
    const body = this.policy.value ? { policy: this.policy.value } : {};
    this.button.disabled = true;
    this.result.replaceChildren(el("p", { class: "note" }, "Replaying …"));
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
    if (outcome === "stale" || outcome === "nothing") return [el("p", {}, el("b", {}, "It cannot be replayed: "), `${why}.`)];
    if (outcome === "same") return [el("p", {}, el("b", {}, "The same. "), `${policy} decides ${reasonTitle(again.reason).toLowerCase()}, with the same plan.`)];
    const rows = differences.map((each) => [each.what, each.recorded, each.again]);
    return [el("p", {}, el("b", {}, "It differs. "), `${policy} decides ${reasonTitle(again.reason).toLowerCase()}: ${again.detail}`),
      table("Differences", ["Field", "Recorded", "Replayed"], rows),
      el("h3", {}, `The recorded plan and that of ${policy}`), ...beside(decision.plan, again.plan)];
  }
}

/** Both plans by stage and in figures; in words if one of them is missing. */
function beside(recorded, again) {
  const is = (plan) => Boolean(plan?.stages.length);
  if (!is(recorded) || !is(again)) {
    const words = (plan) => (is(plan) ? inShort(plan.stages) : plan?.termination ?? "no plan");
    return [el("p", {}, `Recorded: ${words(recorded)}. Replayed: ${words(again)}.`)];
  }
  const figures = (plan) => `PAS ${number(plan.pas, 3)}, ${coresOf(plan.cost_cores)}, for ${number(plan.rate_rps, 2)} rps`;
  return [changes("The recorded plan and the replayed one", recorded.stages, again.stages),
    el("p", { class: "note" }, `Recorded: ${figures(recorded)}. Replayed: ${figures(again)}.`)];
}

const notes = (found) => (found.notes.length ? [el("ul", {}, found.notes.map((note) => el("li", {}, note)))] : []);

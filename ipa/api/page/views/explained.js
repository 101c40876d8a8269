// An explanation: binding limits, the next best plans, and relaxations.

import { el, number, people } from "../dom.js";
import { figure, isSame, refusal, signed, table } from "../tables.js";

const list = (heading, lines) => (lines.length ? [el("h3", {}, heading), el("ul", {}, lines.map((line) => el("li", {}, people(line))))] : []);

export class Explained {
  constructor(box) { this.box = box; }

  /** `plan` is the one on the page: an explanation that ran out of time may be of another. */
  show(found, plan = found.plan) {
    const { binding, alternatives, remedies, unfinished } = found;
    this.box.replaceChildren(
      el("h2", {}, "Why this plan ", el("small", {}, `for ${number(found.plan.rate_rps, 1)} rps`)),
      el("p", {}, people(found.summary)),
      isSame(found.plan.stages, plan?.stages ?? found.plan.stages) ? "" : el("p", { class: "note" }, "This explains a plan found within the explanation's time limit; it differs from the one above."),
      ...(found.plan.stages.length ? this.bound(binding, found) : []),
      ...(alternatives.length ? [el("h3", {}, "The next best plans with other variants"), this.next(alternatives)] : []),
      ...list("Relaxations, each of which makes it feasible", remedies.map((each) => each.text)),
      ...list("Not found in time", unfinished));
  }

  bound(binding, found) {
    if (!binding.length) return [el("p", {}, found.binding_complete ? "No limit is binding: without any one of them the same plan is best." : "No binding limit was found in time.")];
    return list("Binding limits", binding.map((each) => each.text));
  }

  /** The best three alternatives, as differences to the plan. */
  next(alternatives) {
    return table("Rejected alternatives", ["Differs by", figure("PAS"), figure("Cores"), figure("Latency"), figure("Objective")],
      alternatives.slice(0, 3).map((each) => [people(each.differences.join("; ")), signed(each.pas_change, 3), signed(each.cost_cores_change, 2),
        `${signed(1000 * each.latency_change_s, 0)} ms`, signed(each.objective_change, 3)]));
  }

  refused(error) {
    this.box.replaceChildren(el("h2", {}, "Why this plan"), refusal(error));
  }
}

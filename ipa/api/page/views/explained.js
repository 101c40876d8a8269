// An explanation: what binds, the next best plans, where the choice flips, and what would make it feasible.

import { el, number, plain } from "../dom.js";
import { refusal, seconds, signed, table } from "../tables.js";

const figure = (text) => ({ text, figure: true });
// A change of variants is also one of the configuration, and so said twice.
const list = (heading, all, lines = [...new Set(all)]) => (lines.length ? [el("h3", {}, heading), el("ul", {}, lines.map((line) => el("li", {}, line)))] : []);

export class Explained {
  constructor(box) { this.box = box; }

  show(found) {
    const { binding, prices, alternatives, flips, unchanged, remedies, unfinished } = found;
    this.box.replaceChildren(
      el("h2", {}, "Why this plan ", el("small", {}, `for ${number(found.plan.rate_rps, 2)} rps`)),
      el("p", {}, found.summary),
      ...(found.plan.stages.length ? this.bound(binding, found) : []),
      ...list("How near the limits are", found.limits.filter(isTold).map(limitWords)),
      ...list("What one more of a limit is worth, about", prices.map((each) => each.text)),
      ...(alternatives.length ? [el("h3", {}, "The next best, of other variants"), this.next(alternatives)] : []),
      ...list("What would change the choice", [...flips.map((each) => each.text), ...unchanged]),
      ...list("What would make it feasible, each alone", remedies.map((each) => each.text)),
      ...list("Not found in time", unfinished));
  }

  bound(binding, found) {
    if (!binding.length) return [el("p", {}, found.binding_complete ? "No limit holds it back: without any of them alone the same plan is best." : "No limit that holds it back was found in time.")];
    return list("What holds it back", binding.map((each) => each.text));
  }

  /** Rows of the best three, as differences to the plan. */
  next(alternatives) {
    return table("Rejected alternatives beside the plan", ["Differs by", figure("PAS"), figure("Cores"), figure("Latency"), figure("Objective"), "Why not"],
      alternatives.slice(0, 3).map((each) => [each.differences.join("; "), signed(each.pas_change, 3), signed(each.cost_cores_change, 2),
        `${signed(1000 * each.latency_change_s, 0)} ms`, signed(each.objective_change, 4), each.why]));
  }

  refused(error) {
    this.box.replaceChildren(el("h2", {}, "Why this plan"), refusal(error));
  }
}

const ALWAYS = new Set(["sla", "throughput", "cores", "memory", "max_cost_cores", "accuracy_floor"]);
const isTold = (limit) => ALWAYS.has(limit.kind) || limit.slack_ratio < 0.1;

/** A limit in words. */
function limitWords({ kind, where, unit, used, limit, slack_ratio }) {
  const amount = (value) => (unit === "s" ? seconds(value) : `${plain(value)}${unit && unit !== "ratio" ? ` ${unit}` : ""}`);
  const name = kind === "sla" ? "SLA" : kind.replaceAll("_", " ");
  return `${name}${where ? ` of ${where}` : ""}: ${amount(used)} of ${amount(limit)}, ${number(100 * slack_ratio, 0)} % left`;
}

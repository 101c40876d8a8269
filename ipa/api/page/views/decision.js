// Decision: its time and reason, the change, the inputs, and the alternatives.

import { Refused, callApi } from "../api.js";
import { el, number, plain, when } from "../dom.js";
import { save } from "../export.js";
import { besideWords, coresOf } from "../parts.js";
import { formatRoute } from "../router.js";
import { REASONS, reasonTitle, remedy } from "../reasons.js";
import { changes, copyButton, figure, isSame, refusal, seconds, table, terms } from "../tables.js";
import { Explained } from "./explained.js";

export const title = "Decision";

/** Shows a decision; without an id the newest of the pipeline, with a link to later ones. */
export async function open(root, { path: [id], query }, tools) {
  const view = new DecisionView(root, tools);
  const name = query.get("pipeline");
  await (id ? view.load(id) : view.newest(name));
  return { update: id ? undefined : () => view.newest(name), close: () => view.closing.abort() };
}

class DecisionView {
  constructor(root, tools) {
    Object.assign(this, { root, tools });
    this.closing = new AbortController();
  }

  async newest(name) {
    const { signal } = this.closing;
    const wanted = this.shownId ? "limit=1&inputs=false" : "limit=2";
    const { decisions: [found, before] } = await callApi(`/v1/pipelines/${encodeURIComponent(name)}/decisions?${wanted}`, { signal });
    if (!found) return this.root.replaceChildren(el("p", { class: "card empty" }, "There is no decision yet. The decision of the first tick appears here."));
    if (!this.shownId) return this.show(found, { prev: before?.decision_id });
    // A page that changes with each tick cannot be read, so a newer decision is only linked.
    if (found.decision_id !== this.shownId) this.later.replaceChildren("Since then: ", el("a", { href: formatRoute({ view: "decision", path: [found.decision_id] }) }, `${reasonTitle(found.reason)}, tick ${found.tick}`), ` at ${when(found.at)}`);
  }

  async load(id) {
    const { signal } = this.closing;
    const { body: decision, headers } = await callApi.full(`/v1/decisions/${encodeURIComponent(id)}`, { signal });
    this.show(decision, Object.fromEntries([...(headers.get("Link") ?? "").matchAll(/<([^>]*)>; rel="(\w+)"/g)]
      .map(([, path, rel]) => [rel, decodeURIComponent(path.split("/").pop())])));
  }

  /** Shows the decision; `links` are the ids of those right before (`prev`) and after (`next`) it. */
  show(decision, links) {
    Object.assign(this, { shownId: decision.decision_id, links });
    this.draw(decision);
    this.explain(decision);
  }

  draw(decision) {
    const { tools } = this;
    const todo = remedy(decision.reason, decision.pipeline.split("@")[0]).text;
    const isApplied = decision.action === "apply";
    this.later = el("p", { class: "note" });
    this.why = el("section", { class: "card why", "aria-label": "Why this plan" });
    const said = el("section", { class: "card inputs", "aria-label": "The decision" },
      el("h2", {}, reasonTitle(decision.reason)),
      el("p", {}, decision.detail || "The decision has no detail."),
      el("details", { id: "reason" }, el("summary", {}, "What ", el("code", {}, decision.reason), " means"),
        el("p", {}, `${REASONS[decision.reason] ?? "This page does not know it yet"}.`), todo ? el("p", {}, todo) : ""),
      terms([["When", el("time", { datetime: decision.at }, when(decision.at))], ["Tick", String(decision.tick)],
        ["Pipeline", el("a", { href: formatRoute({ view: "now", path: [decision.pipeline.split("@")[0]] }) }, decision.pipeline)],
        ["Mode", decision.mode], ["Requested by", decision.by || null], ["Plan applied", decision.plan_id || null], ["Revision read", decision.revision || null]]),
      this.later);
    const moved = el("section", { class: "card inputs", "aria-label": "From and to" },
      el("h2", {}, isApplied ? "Change" : "Unchanged configuration"), changes("The configuration of each stage before and after", decision.previous, decision.configs), ...this.guards(decision));
    this.root.replaceChildren(this.path(decision), said, moved, this.inputs(decision), this.why, this.again(decision, tools), this.raw(decision, tools));
  }

  path({ pipeline }) {
    const link = (id, text) => (id ? el("a", { href: formatRoute({ view: "decision", path: [id] }) }, text) : el("span", { class: "note" }, `${text}: none`));
    return el("nav", { class: "path", "aria-label": "Decisions" }, link(this.links.prev, "← Decision before"), link(this.links.next, "Decision after →"),
      el("a", { href: formatRoute({ view: "decision", path: [""], query: { pipeline: pipeline.split("@")[0] } }) }, "Newest"));
  }

  /** The solver's plan, if the decision differs from it. */
  guards({ plan, configs }) {
    if (!plan) return [el("p", { class: "note" }, "The decision was made without a plan.")];
    if (!plan.stages.length) return [el("p", { class: "note" }, `There was no plan: ${plan.termination}.`), el("ul", {}, plan.relaxations.map((each) => el("li", {}, `Feasible with ${each}`)))];
    if (isSame(plan.stages, configs)) return [el("p", { class: "note" }, "This is the best plan; no guard changed it.")];
    return [el("h3", {}, "The best plan, before the guards"), changes("The decision and the best plan", configs, plan.stages)];
  }

  inputs(decision) {
    const { forecast, plan } = decision;
    const seen = decision.inputs ? JSON.parse(decision.inputs).observation : {};
    const aged = (text, from) => (from?.age_s === undefined || from?.age_s === null ? text : [text, el("small", {}, ` ${plain(from.age_s)} s old`)]);
    const band = forecast && `${number(forecast.point_rps)} to ${number(forecast.upper_rps)} rps (${plain(100 * forecast.quantile)} %) within ${plain(forecast.horizon_s)} s, by ${forecast.rung}`;
    const prices = (plan?.prices ?? []).map(([limit, price]) => `${limit}: ${price.toPrecision(3)}`);
    return el("section", { class: "card inputs", "aria-label": "Inputs" }, el("h2", {}, "Decided from"), terms([
      ["Load seen", aged(decision.observed_rate_rps === null ? "not seen" : `${number(decision.observed_rate_rps, 2)} rps`, seen?.arrival_rate_rps)],
      ["Latency seen", aged(decision.observed_latency_s === null ? "not seen" : seconds(decision.observed_latency_s), seen?.latency_s)],
      ["Forecast", band ?? "none"],
      ["Planned for", plan ? `${number(plan.rate_rps, 2)} rps within ${seconds(plan.sla_s)}` : "nothing"],
      ["Plan", plan?.stages.length ? [`PAS ${number(plan.pas, 3)}`, coresOf(plan.cost_cores), ...besideWords(plan.stages), seconds(plan.latency_s)].join(", ") : null],
      ["Solved by", plan ? `${plan.solver}${plan.solve_s ? ` in ${seconds(plan.solve_s)}` : ""}, ${plan.termination}${plan.gap ? `, gap ${(100 * plan.gap).toPrecision(2)} %` : ""}` : null],
      ["Prices", prices.length ? prices.join("; ") : null],
      ["Digest of the inputs", decision.inputs_digest ? el("code", {}, decision.inputs_digest.slice(0, 16)) : null],
    ]), this.stages(plan));
  }

  stages(plan) {
    if (!plan?.stages.length) return "";
    return table("What the plan expects of each stage", ["Stage", figure("Items/s"), figure("Busy (ρ)"), figure("Wait"), figure("Service"), figure("Accuracy")],
      plan.stages.map((each) => [each.stage, number(each.rate_rps, 2), `${(100 * each.utilisation_ratio).toFixed(0)} %`, seconds(each.queue_delay_s), seconds(each.latency_s), number(each.accuracy, 3)]));
  }

  /** The explanation of the plan, computed now with the present profiles. */
  async explain(decision) {
    const { why } = this, { plan } = decision;
    if (!plan) return why.replaceChildren(el("h2", {}, "Why this plan"), el("p", { class: "note" }, "There is no plan to explain; see the reason above."));
    why.setAttribute("aria-busy", "true");
    why.replaceChildren(el("h2", {}, "Why this plan"), el("p", { class: "note" }, "Computing; this takes up to some seconds …"));
    try {
      const body = { rate_rps: plan.rate_rps, objective: plan.objective_name, sla_s: plan.sla_s };
      const found = await callApi(`/v1/pipelines/${encodeURIComponent(plan.pipeline)}/explanations`, { method: "POST", body, signal: this.closing.signal });
      new Explained(why).show(found);
      why.querySelector("h2").after(el("p", { class: "note" }, isSame(found.plan.stages, plan.stages) ? "Computed again with the present pipeline and profiles: the plan is the same."
        : "Computed again with the present pipeline and profiles, which give another plan than at that time: this explains the present plan."));
    } catch (error) {
      if (this.closing.signal.aborted) return;
      why.replaceChildren(el("h2", {}, "Why this plan"), error instanceof Refused && error.status === 403
        ? el("p", { class: "note" }, "You may see this decision, but an explanation needs permission for what-ifs on its pipeline.") : refusal(error));
    }
    why.removeAttribute("aria-busy");
  }

  again({ decision_id: id, plan, pipeline }, tools) {
    const name = pipeline.split("@")[0];
    const line = (command, what, more = "") => el("p", { class: "command" }, el("code", { tabindex: "0" }, command), copyButton(command, what, tools), more);
    const query = plan && { rate_rps: plan.rate_rps, objective: plan.objective_name };
    return el("section", { class: "card inputs", "aria-label": "Again" }, el("h2", {}, "Compute it again"),
      line(`ipa replay ${pipeline} ${id}`, "The command that replays it", "from the recorded inputs, by this policy or another one"),
      plan ? line(`ipa explain ${name} --rate ${plan.rate_rps} --objective ${plan.objective_name}`, "The command that explains it",
        el("a", { href: formatRoute({ view: "what-if", path: [name], query }) }, "or move it in What-if")) : "");
  }

  raw(decision, tools) {
    const text = JSON.stringify(decision, null, 2);
    const keep = () => save(new Blob([text], { type: "application/json" }), `${decision.decision_id}.json`);
    const button = el("button", { type: "button", class: "button", onclick: keep }, "Save as JSON");
    const shown = el("pre", { tabindex: "0", "aria-label": "The decision as JSON" });
    return el("details", { class: "card raw", ontoggle: ({ target }) => { if (target.open) shown.textContent = text; } }, el("summary", {}, "Everything, as JSON"), el("p", { class: "command" }, button, copyButton(text, "The decision", tools)), shown);
  }
}

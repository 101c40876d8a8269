// The plan of a what-if beside the running configuration: figures, stages and limits.

import { clock, el, number, people, percent, plain, sentence } from "../dom.js";
import { besideCores, coresOf } from "../parts.js";
import { changes, delta, figure, isSame, refusal, seconds, table } from "../tables.js";

const ONE = { sla: "second of SLA", cores: "core", memory: "GiB" };
const PLANNED = [
  { ...figure("Busy (ρ)"), of: (stage) => percent(stage.utilisation_ratio) },
  { ...figure("Service"), of: (stage) => seconds(stage.latency_s) },
];

/** The rate to plan for now: the highest forecast, or the observed rate without one. */
export const loadOf = (live) => live.forecast?.upper_rps || live.rate_rps;

export class Comparison {
  /** `takeLoad()` plans for the present load. */
  constructor(parent, root, takeLoad) {
    this.rate = el("p", { class: "held", role: "status" });
    this.take = el("button", { type: "button", class: "button", hidden: "", onclick: takeLoad });
    this.shown = el("div", {}, el("p", { class: "empty" }, "Planning …"));
    // Outside of the redrawn part, so that it keeps the focus.
    this.foot = el("p", { class: "command" });
    this.box = el("section", { class: "card answer", "aria-label": "The running configuration and the best plan", "aria-busy": "true" }, this.rate, this.shown, this.foot);
    // On a narrow page the tables are far below the controls.
    this.line = el("p", { class: "card in-short", "aria-hidden": "true" });
    parent.append(this.box);
    root.append(this.line);
  }

  /** Compares with the running configuration of that status until the next one; without a rate asks for one. */
  see(status, basis) {
    Object.assign(this, { status, seenAt: new Date() });
    this.follow(basis);
    if (!basis.rate) this.ask(basis);
  }

  /** Says which rate holds and what the load does meanwhile; a `status` comes if the running configuration has changed. */
  follow(basis, status = null) {
    this.basis = basis;
    if (status) Object.assign(this, { status, seenAt: new Date() });
    const { rate, origin, moved } = basis;
    this.take.hidden = !moved;
    this.take.textContent = moved ? `Plan for the load now, ${number(moved, 1)} rps` : "";
    this.rate.hidden = !rate;
    if (rate) this.rate.replaceChildren(el("span", {}, "Plan, frontier and explanation are for ", el("b", {}, `${number(rate, 1)} rps`), `, ${origin}. They stay until you change something.`), " ", this.take);
    if (status && (this.plan || this.error)) this.draw();
  }

  /** Asks for a rate if there is no load to take it from. */
  ask({ isIdle }) {
    Object.assign(this, { plan: null, error: null, drawn: "" });
    this.box.removeAttribute("aria-busy");
    this.line.textContent = "How many requests per second?";
    this.shown.replaceChildren(el("h2", {}, "How many requests arrive per second?"),
      el("p", { class: "note" }, isIdle ? "No requests arrive at present, so there is no load to plan for." : "No load has been observed yet, so there is none to plan for.", " Set the rate to what you expect at the busiest time; once load is observed, the page plans for that."));
  }

  planned(plan, set) {
    Object.assign(this, { plan, set, error: null });
    this.draw();
  }

  refused(error) {
    Object.assign(this, { error, plan: null });
    this.draw();
  }

  /** The plan in a sentence, for screen readers. */
  words() {
    if (this.error) return `Not planned: ${this.error.message}`;
    if (!this.plan) return "Planning";
    const { plan } = this;
    if (!plan.stages.length) return `Nothing is feasible. ${plan.relaxations.map((move) => `Feasible with ${people(move)}.`).join(" ")}`;
    return `Accuracy ${number(plan.pas, 3)}, ${coresOf(plan.cost_cores)}, ${plan.cost_usd_per_hour === null ? "" : `${plain(plan.cost_usd_per_hour)} USD an hour, `}latency ${seconds(plan.latency_s)}`;
  }

  draw() {
    const { plan, error, status } = this;
    const { live } = status;
    const key = JSON.stringify([plan, error?.message, this.seenAt, live.stages.map((stage) => stage.config)]);
    if (key === this.drawn) return;
    this.drawn = key;
    this.box.removeAttribute("aria-busy");
    this.line.textContent = this.words();
    if (error) return this.shown.replaceChildren(refusal(error));
    this.shown.replaceChildren(...(plan.stages.length ? this.found() : this.none()));
  }

  get running() { return this.status.live.stages.filter((stage) => stage.config).map((stage) => stage.config); }

  /** True if there is a plan that differs from the running configuration. */
  get isChange() { return Boolean(this.plan?.stages.length) && !isSame(this.running, this.plan.stages); }

  found() {
    const { plan, running: now, status: { live } } = this;
    return [
      el("h2", {}, this.isChange ? "Another plan is better" : "The running plan is the best"),
      el("p", { class: "note" }, `Within ${seconds(plan.sla_s)}. `, `The running configuration is as of ${clock(this.seenAt)}.`),
      figures(live, plan),
      changes("What each stage runs now and would run", now, plan.stages, [...heldColumns(plan.stages), ...PLANNED]),
      now.length ? "" : el("p", { class: "note" }, "The running configuration is unknown."),
      this.standing(),
    ];
  }

  /** The distance of the plan to its limits. */
  standing() {
    const { plan, set } = this;
    const of = [`latency takes ${percent(plan.latency_s / plan.sla_s)} of the SLA`];
    if (set.cores) of.push(`cores take ${percent(plan.cost_cores / Number(set.cores))} of the budget`);
    const prices = plan.prices.filter(([, price]) => price > 0).map(([limit, price]) => `one ${ONE[limit] ?? `unit of ${limit}`} more is worth about ${people(price.toFixed(9))}`);
    return el("p", { class: "note" }, `${sentence([...of, ...prices].join("; "))}. Objective ${number(plan.objective, 3)}; found by ${plan.solver} in ${seconds(plan.solve_s)}, ${plan.termination.replaceAll("_", " ")}${plan.note ? ` (${people(plan.note)})` : ""}.`);
  }

  none() {
    const { plan } = this;
    return [
      el("h2", {}, "No plan is feasible"),
      el("p", { class: "note" }, `At ${number(plan.rate_rps, 1)} rps no plan is within ${seconds(plan.sla_s)} and the other limits (${plan.termination.replaceAll("_", " ")}).`),
      plan.relaxations.length ? el("p", {}, "Each of these alone makes it feasible:") : "",
      el("ul", { class: "relaxations" }, plan.relaxations.map((move) => el("li", {}, people(move)))),
      plan.note ? el("p", { class: "note" }, people(plan.note)) : "",
    ];
  }
}

/** Columns of the resources beside cores that any stage of the plan has. */
const heldColumns = (stages) => [...besideCores(stages).keys()].map((name) => ({ text: name, figure: true, of: (stage) => plain(besideCores([stage]).get(name) ?? 0) }));

/** Accuracy, cost, latency and rate of the running configuration and of the plan. */
export function figures(live, plan) {
  const row = (name, now, then, show, options) => [name, show(now), show(then), delta(now, then, options)];
  const [held, planned] = [besideCores(live.stages), besideCores(plan.stages)];
  // An absent amount is zero only if the running configuration is known.
  const known = live.cost_cores === null ? null : 0;
  const cost = { digits: 2, better: "less" };
  return table("Figures now and of the plan", ["", figure("now"), figure("what if"), figure("difference")], [
    row("Accuracy (PAS)", live.pas, plan.pas, (value) => number(value, 3), { digits: 3, better: "more" }),
    ...(plan.cost_usd_per_hour === null ? [] : [row("Cost, USD/h", live.cost_usd_per_hour, plan.cost_usd_per_hour, plain, cost)]),
    row("Cost, cores", live.cost_cores, plan.cost_cores, plain, cost),
    ...[...new Set([...held.keys(), ...planned.keys()])].map((name) => row(name, held.get(name) ?? known, planned.get(name) ?? 0, plain, cost)),
    row("Latency: seen, planned", live.latency_s, plan.latency_s, seconds, { digits: 3, unit: "s" }),
    row("Rate to plan for", loadOf(live), plan.rate_rps, (value) => number(value, 2), { digits: 2, unit: "rps" }),
  ], "totals");
}

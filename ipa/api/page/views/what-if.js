// What-if: move the SLA, the weights, the rate or the budget, and see what would be best. Nothing is changed but by Apply.

import { callApi } from "../api.js";
import { el } from "../dom.js";
import { Comparison } from "./what-if-answer.js";
import { Control, NAMES, bodyOf, controlsOf, furtherOf } from "./what-if-controls.js";
import { Background } from "./what-if-more.js";

export const title = "What-if";

// While a slider moves, plans are asked for so often; the address and what takes longer follow once it rests.
const DEBOUNCE_MS = 15;
const REST_MS = 400;
// An answer that takes longer is not waited for once another is wanted.
const PATIENCE_MS = 150;

const NO_RATE = { message: "No load was seen yet", hint: "Say the rate to plan for." };

export async function open(root, place, tools) {
  const view = new WhatIf(root, place, tools);
  await view.start();
  return view;
}

class WhatIf {
  constructor(root, { path: [name], query }, tools) {
    Object.assign(this, { root, name, tools, base: `/v1/pipelines/${encodeURIComponent(name)}` });
    this.pipeline = tools.pipelines.get(name);
    this.set = Object.fromEntries(NAMES.filter((each) => query.get(each)).map((each) => [each, query.get(each)]));
    // A link may name an objective that is no more.
    if (!(this.objective in this.pipeline.objectives)) delete this.set.objective;
    this.running = { abort() {} };
    this.closing = new AbortController();
  }

  get objective() { return this.set.objective ?? this.pipeline.default_objective; }

  async start() {
    this.status = await callApi(`${this.base}/status`, { signal: this.closing.signal });
    this.controls = new Map();
    this.form = el("form", { class: "card controls", "aria-label": "What if" });
    this.form.addEventListener("submit", (event) => event.preventDefault());
    const results = el("div", { class: "results" });
    this.root.append(el("p", { class: "lede" }, "Move anything: the best plan is found anew at once and shown beside what runs now. ",
      el("b", {}, this.mayApply ? "Nothing is written to what runs until you apply it." : "Nothing here is written to what runs.")), el("div", { class: "what-if-columns" }, this.form, results));
    this.build();
    this.comparison = new Comparison(results, this.root);
    this.more = new Background(results, this);
    this.apply = el("button", { type: "button", class: "main", hidden: "", "aria-haspopup": "dialog" }, "Apply …");
    this.apply.addEventListener("click", () => this.startApplying());
    this.comparison.foot.append(this.apply);
    this.comparison.see(this.status);
    await this.plan();
    // Not before the plan is there; what fails is loaded again with the next look.
    this.prepare().catch(() => {});
  }

  async prepare() {
    this.applying ??= (await import("./what-if-apply.js")).applying;
    this.offer();
  }

  get mayApply() { return this.tools.may("apply", this.name); }

  /** To who may, where there is something to apply. */
  offer() { this.apply.hidden = !(this.applying && this.mayApply && !this.comparison.error && this.comparison.isChange); }

  /** For the plan that is on the page now, whatever is planned meanwhile. */
  startApplying() {
    const { answer: plan, tag, status, pipeline, tools } = this;
    this.dialog = this.applying({ plan, tag, status, pipeline, tools, planAgain: () => this.planAgain() });
  }

  /** What it was made from has moved: the plan of now, to be looked at once more. */
  async planAgain() {
    await this.plan();
    this.offer();
    if (!this.apply.hidden && !this.closing.signal.aborted) this.startApplying();
  }

  /** The controls; anew when another objective is chosen, since others are its SLA and weights. */
  build() {
    const names = Object.keys(this.pipeline.objectives);
    const make = (spec) => {
      const control = new Control(spec, (name, text) => this.change(name, text));
      this.controls.set(spec.name, control);
      control.put(this.set[spec.name] ?? "");
      return control.box;
    };
    const objective = names.length < 2 ? "" : make({ name: "objective", label: "Objective", choices: names, now: this.pipeline.default_objective });
    const further = furtherOf(this.pipeline).map(make);
    const isOpen = furtherOf(this.pipeline).some(({ name }) => this.set[name]) || this.further?.open;
    this.further = el("details", { open: isOpen ? "" : null }, el("summary", {}, "Replicas, batches, solver"), further);
    const reset = el("button", { type: "button", class: "button" }, "Reset all");
    reset.addEventListener("click", () => this.reset());
    this.form.replaceChildren(objective, ...controlsOf(this.pipeline, this.status, this.objective).map(make), this.further, reset);
  }

  reset() {
    this.set = {};
    this.build();
    this.change("", "");
    this.tools.say("All as it is now");
  }

  change(name, text) {
    if (text) this.set[name] = text;
    else delete this.set[name];
    if (name === "objective") {
      this.build();
      this.controls.get("objective").input.focus();
    }
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.plan(), DEBOUNCE_MS);
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.rested(), REST_MS);
  }

  /**
   * The best plan for what is set now. One question at a time, and of those that come meanwhile the last. Resolves
   * once none is wanted any more.
   */
  plan() {
    if (!this.isAsking) return (this.planned = this.planNow());
    if (!this.isWanted) this.impatient = setTimeout(() => this.running.abort(), this.askedAt + PATIENCE_MS - performance.now());
    this.isWanted = true;
    return this.planned;
  }

  async planNow() {
    if (!this.hasRate()) return this.refused(NO_RATE);
    this.isAsking = true;
    this.running = new AbortController();
    this.askedAt = performance.now();
    const body = bodyOf(this.set, this.pipeline.bounds);
    try {
      const { body: answer, headers } = await callApi.full(`${this.base}/plans`, { method: "POST", body, signal: this.running.signal });
      Object.assign(this, { answer, tag: headers.get("ETag") });
      if (!this.closing.signal.aborted) this.comparison.planned(this.answer, this.set);
      this.offer();
    } catch (error) {
      if (this.closing.signal.aborted) return;
      if (error.status === 429) this.again = setTimeout(() => this.plan(), 1000);
      else if (error.name !== "AbortError") this.refused(error);
    } finally {
      clearTimeout(this.impatient);
      this.isAsking = false;
    }
    if (!this.isWanted) return this.more.follow(bodyOf(this.set, this.pipeline.bounds));
    this.isWanted = false;
    return this.plan();
  }

  refused(error) {
    this.comparison.refused(error);
    this.offer();
  }

  hasRate() {
    const { live } = this.status;
    return this.set.rate_rps || live.forecast || live.rate_rps;
  }

  rested() {
    this.tools.replace(this.set);
    this.tools.say(this.comparison.words());
  }

  /** What runs changes meanwhile; where no rate is set the plan is for the forecast, which does too. */
  async update() {
    const before = this.status.live;
    this.status = await callApi(`${this.base}/status`, { signal: this.closing.signal });
    const { live } = this.status;
    this.comparison.see(this.status);
    await this.prepare();
    if (this.answer) this.dialog?.see(this.status);
    // A plan is refused once what it was made from is another.
    const isStale = live.revision !== before.revision;
    const isMoved = live.forecast?.upper_rps !== before.forecast?.upper_rps || live.rate_rps !== before.rate_rps;
    if (isMoved) this.follow(live);
    if (isStale || (isMoved && !this.set.rate_rps)) await this.plan();
  }

  /** The rate that holds where none is set is another. */
  follow(live) {
    const control = this.controls.get("rate_rps");
    control.spec.now = live.forecast?.upper_rps ?? live.rate_rps;
    if (document.activeElement !== control.input) control.put(this.set.rate_rps ?? "");
  }

  close() {
    this.closing.abort();
    this.dialog?.close();
    this.running.abort();
    for (const timer of [this.waiting, this.resting, this.again, this.impatient]) clearTimeout(timer);
    this.more.close();
  }
}

// What-if: set the SLA, the weights, the rate or the budget, and see the best plan. Only Apply changes anything.

import { callApi } from "../api.js";
import { clock, el, number } from "../dom.js";
import { Comparison, loadOf } from "./what-if-answer.js";
import { Control, NAMES, bodyOf, controlsOf, furtherOf } from "./what-if-controls.js";
import { Background } from "./what-if-more.js";

export const title = "What-if";

// The interval of plans while a slider moves; the address and slower requests follow once it rests.
const DEBOUNCE_MS = 15;
const REST_MS = 400;
// A request that takes longer is aborted once another one waits.
const PATIENCE_MS = 150;

// The load has moved if it is this much away from the rate that is planned for.
const MOVED = 0.01;

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
    // A link may name an objective that no longer exists.
    if (!(this.objective in this.pipeline.objectives)) delete this.set.objective;
    this.running = { abort() {} };
    this.closing = new AbortController();
  }

  get objective() { return this.set.objective ?? this.pipeline.default_objective; }

  async start() {
    this.status = await callApi(`${this.base}/status`, { signal: this.closing.signal });
    this.controls = new Map();
    this.form = el("form", { class: "card controls", "aria-label": "What if" });
    const results = el("div", { class: "results" });
    this.root.append(el("p", { class: "lede" }, "Move any control: the best plan is computed at once and shown beside the running configuration. ",
      el("b", {}, this.mayApply ? "The running configuration does not change until you apply a plan." : "Nothing here changes the running configuration.")), el("div", { class: "what-if-columns" }, this.form, results));
    this.hold();
    this.build();
    this.comparison = new Comparison(results, this.root, () => this.takeLoad());
    this.more = new Background(results, this);
    this.apply = el("button", { type: "button", class: "main", hidden: "", "aria-haspopup": "dialog", onclick: () => this.startApplying() }, "Apply …");
    this.comparison.foot.append(this.apply);
    this.comparison.see(this.status, this.basis);
    await this.plan();
    // After the plan is shown; a failed load is retried with the next update.
    this.prepare().catch(() => {});
  }

  /** Keeps the present load as the rate, so that plan, frontier and explanation are for one rate while they are read. */
  hold() {
    const { forecast } = this.status.live;
    const rate = loadOf(this.status.live);
    this.held = rate ? { rate, at: new Date(), isForecast: Boolean(forecast?.upper_rps), horizon_s: forecast?.horizon_s ?? 0 } : null;
  }

  /** The rate of the plan, its origin in words, and the present load if it has moved away from the rate. */
  get basis() {
    const { live } = this.status, now = loadOf(live);
    const rate = Number(this.set.rate_rps) || this.held?.rate || null;
    const origin = this.set.rate_rps ? "as set here" : !this.held ? "" : `${this.held.isForecast ? `the most that is expected within ${number(this.held.horizon_s, 0)} s` : "the load"}, seen at ${clock(this.held.at)}`;
    return { rate, origin, moved: now && rate && Math.abs(now / rate - 1) > MOVED ? now : null, isIdle: live.rate_rps === 0 };
  }

  /** The body of each request: all are for the same rate. */
  get body() { return bodyOf({ ...this.set, rate_rps: this.basis.rate }, this.pipeline.bounds); }

  /** Plans for the present load instead of the held rate. */
  takeLoad() {
    delete this.set.rate_rps;
    this.hold();
    this.follow();
    this.rested();
    return this.plan();
  }

  async prepare() {
    this.applying ??= (await import("./actions.js")).applying;
    this.offer();
  }

  get mayApply() { return this.tools.may("apply", this.name); }

  /** True if the caller may apply the plan and it differs from the running configuration. */
  offer() { this.apply.hidden = !(this.applying && this.mayApply && !this.comparison.error && this.comparison.isChange); }

  /** Opens the dialog for the plan on the page, whatever is planned meanwhile. */
  startApplying() {
    const { answer: plan, tag, status, pipeline, tools } = this;
    this.dialog = this.applying({ plan, tag, status, pipeline, tools, planAgain: () => this.planAgain() });
  }

  /** Plans again, since the inputs of the plan have changed. */
  async planAgain() {
    await this.plan();
    this.offer();
    if (!this.apply.hidden && !this.closing.signal.aborted) this.startApplying();
  }

  /** Creates the controls, again for each objective, which has an SLA and weights of its own. */
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
    const reset = el("button", { type: "button", class: "button", onclick: () => this.reset() }, "Reset all");
    this.form.replaceChildren(objective, ...controlsOf(this.pipeline, this.status, this.objective, this.held?.rate ?? null).map(make), this.further, reset);
  }

  reset() {
    this.set = {};
    this.build();
    this.change("", "");
    this.tools.say("Everything as it is now");
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
   * Plans for the present settings: one request at a time, then the newest of those that came meanwhile. Resolves
   * once no request waits.
   */
  plan() {
    if (!this.isAsking) return (this.planned = this.planNow());
    if (!this.isWanted) this.impatient = setTimeout(() => this.running.abort(), this.askedAt + PATIENCE_MS - performance.now());
    this.isWanted = true;
    return this.planned;
  }

  async planNow() {
    const { body, basis } = this;
    this.comparison.see(this.status, basis);
    this.more.hide(!basis.rate);
    if (!basis.rate) return this.offer();
    this.isAsking = true;
    this.running = new AbortController();
    this.askedAt = performance.now();
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
    if (!this.isWanted) return this.more.follow(this.body);
    this.isWanted = false;
    return this.plan();
  }

  refused(error) {
    this.comparison.refused(error);
    this.offer();
  }

  rested() {
    this.tools.replace(this.set);
    this.tools.say(this.comparison.words());
  }

  /** Takes a new status. The rate stays; the plan is made again if the running configuration has changed, since it would be refused. */
  async update() {
    const before = this.status.live;
    this.status = await callApi(`${this.base}/status`, { signal: this.closing.signal });
    const { live } = this.status;
    const isStale = live.revision !== before.revision || isKnown(live) !== isKnown(before);
    const isFirst = !this.basis.rate && (live.forecast?.upper_rps || live.rate_rps);
    if (isFirst) this.takeLoad();
    this.comparison.follow(this.basis, isStale ? this.status : null);
    await this.prepare();
    if (this.answer) this.dialog?.see(this.status);
    if (isStale && !isFirst) await this.plan();
  }

  /** Shows the held rate if none is set. */
  follow() {
    const control = this.controls.get("rate_rps");
    control.spec.now = this.held?.rate ?? null;
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

const isKnown = (live) => live.stages.some((stage) => stage.config);

// The slower parts of a what-if, once it rests: the frontier of accuracy and cost, and the explanation.

import { callApi } from "../api.js";
import { el, number, plain } from "../dom.js";
import { Figure } from "../figure.js";
import { coresOf } from "../parts.js";
import { formatRoute } from "../router.js";
import { figure, inShort, refusal, seconds, table } from "../tables.js";
import { Explained } from "./explained.js";

const REST_MS = 500;
const MOST_MS = 2000;

/** Runs one request at a time, then the newest waiting one, so that sliders never wait. */
export class Background {
  constructor(parent, view) {
    this.view = view;
    this.closing = new AbortController();
    this.hrefs = [];
    this.figure = new Figure(parent, {
      id: "frontier", title: "Accuracy and its least cost", unit: "PAS", file: `${view.name}-frontier`,
      note: "Exact: no plan within the SLA is more accurate at that cost. The core budget and the least accuracy are disregarded; choosing a point sets both to its values.",
    });
    this.list = el("details", { class: "card points" });
    this.why = el("section", { class: "card why", "aria-label": "Why this plan" }, el("h2", {}, "Why this plan"), el("p", { class: "empty" }, "It follows when the controls come to rest."));
    parent.append(this.list, this.why);
    this.explained = new Explained(this.why);
  }

  /** Hides the parts while there is nothing to plan for. */
  hide(isHidden) {
    for (const part of [this.figure.box, this.list, this.why]) part.hidden = isHidden;
  }

  follow(body) {
    this.wanted = body;
    // After the figures, which must not wait for it.
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.drawFrontier());
    clearTimeout(this.timer);
    // While a control keeps moving; do not wait for ever.
    this.since ??= performance.now();
    this.timer = setTimeout(() => this.ask(), Math.min(REST_MS, Math.max(0, this.since + MOST_MS - performance.now())));
  }

  async ask() {
    if (this.isAsking || this.closing.signal.aborted) return;
    this.isAsking = true;
    this.since = null;
    const body = this.wanted;
    await this.askFrontier(body);
    // Only other settings make it obsolete.
    if (JSON.stringify(this.wanted) === JSON.stringify(body)) await this.askWhy(body);
    this.isAsking = false;
    if (this.wanted !== body) this.follow(this.wanted);
  }

  async askFrontier(body) {
    // Within the range of the budget's slider: an unlimited frontier is long.
    const { most } = this.view.controls.get("cores").spec;
    const { weights, solver, ...asked } = body;
    const free = { ...asked, bounds: { ...body.bounds, cores: most, accuracy_floor: 0 } };
    // Never below the budget.
    if (this.view.pipeline.bounds.transition_cores !== null || free.bounds.transition_cores) free.bounds.transition_cores = Math.max(most, free.bounds.transition_cores ?? 0, this.view.pipeline.bounds.transition_cores ?? 0);
    const key = JSON.stringify(free);
    if (key === this.shown) {
      this.drawList();
      return this.drawFrontier();
    }
    try {
      this.frontier = await callApi(`${this.view.base}/frontiers`, { method: "POST", body: free, signal: this.closing.signal });
      this.refusal = null;
      this.shown = key;
    } catch (error) {
      if (this.closing.signal.aborted) return;
      Object.assign(this, { frontier: null, refusal: error });
    }
    this.drawList();
    this.drawFrontier();
  }

  drawFrontier() {
    const { frontier, refusal: error, view } = this;
    if (error) return this.list.replaceChildren(el("summary", {}, "No frontier"), refusal(error));
    if (!frontier) return this.figure.show({ series: [], empty: "It follows when the controls come to rest." });
    const { points } = frontier, { live } = view.comparison.status, plan = view.answer;
    // In money if the pipeline has prices.
    const isPriced = points.length > 0 && points.every((it) => it.cost_usd_per_hour !== null);
    const cost = (it) => (isPriced ? it.cost_usd_per_hour : it.cost_cores);
    const chosen = plan?.stages.length ? [plan] : [], now = live.pas !== null && cost(live) !== null ? [live] : [];
    const spot = (name, from, colour) => ({ name, kind: "points", colour, x: from.map(cost), y: from.map((it) => it.pas), labels: from.map(() => name) });
    const budget = isPriced ? 0 : Number(view.set.cores ?? view.pipeline.bounds.cores ?? 0);
    const costs = [budget, ...[...points, ...chosen, ...now].map(cost)];
    this.figure.show({
      x_title: `cost, ${isPriced ? "USD/h" : "cores"}, at ${number(frontier.rate_rps, 1)} rps`, empty: "Nothing is feasible at any cost.",
      series: [
        { name: "most accurate at that cost", kind: "step", colour: "grey", x: points.map(cost), y: points.map((it) => it.pas) },
        { name: "plans; click to choose one", kind: "points", colour: "blue", x: points.map(cost), y: points.map((it) => it.pas), href: this.hrefs, text: points.map((it) => `${seconds(it.latency_s)}; ${inShort(it.configs)}`) },
        spot("what if", chosen, "violet"), spot("now", now, "amber"),
      ],
      x_range: [0, 1.05 * Math.max(...costs)],
      marks: budget ? [{ x: budget, text: `budget ${coresOf(budget)}` }] : [],
    });
  }

  /** The points as links that keep the settings. */
  drawList() {
    const points = this.frontier?.points ?? [];
    this.hrefs = points.map((point) => this.formatRoute(point));
    if (!this.frontier) return;
    const price = (shown) => (points.length && points.every((it) => it.cost_usd_per_hour !== null) ? [shown] : []);
    this.list.replaceChildren(el("summary", {}, `The ${points.length} plans as a list`), table("Plans that no other beats in accuracy and cost",
      ["", figure("PAS"), ...price(figure("USD/h")), figure("Cores"), figure("Latency"), "Runs"],
      points.map((it, at) => [el("a", { href: this.hrefs[at] }, "take", el("span", { class: "hidden" }, ` ${number(it.pas, 3)} at ${coresOf(it.cost_cores)}`)), number(it.pas, 3), ...price(plain(it.cost_usd_per_hour)), plain(it.cost_cores), seconds(it.latency_s), inShort(it.configs)])));
  }

  /** The budget and the accuracy floor that select this point alone. */
  formatRoute(point) {
    // With the rate, so that the taken plan is one for the same load.
    const set = { ...this.view.set, rate_rps: this.frontier.rate_rps, cores: Math.ceil(point.cost_cores * 1e6) / 1e6, accuracy_floor: Math.floor(point.pas * 1e6) / 1e6 };
    return formatRoute({ view: "what-if", path: [this.view.name], query: set });
  }

  async askWhy(body) {
    this.why.setAttribute("aria-busy", "true");
    try {
      const found = await callApi(`${this.view.base}/explanations`, { method: "POST", body, signal: this.closing.signal });
      this.explained.show(found, this.view.answer);
    } catch (error) {
      if (this.closing.signal.aborted) return;
      this.explained.refused(error);
    }
    this.why.removeAttribute("aria-busy");
  }

  close() {
    this.closing.abort();
    clearTimeout(this.timer);
    cancelAnimationFrame(this.frame);
    this.figure.close();
  }
}

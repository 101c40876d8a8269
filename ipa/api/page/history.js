// The history of a pipeline: recent ticks from its status, earlier ones from its decisions.

import { callApi } from "./api.js";
import { besideCores } from "./parts.js";
import { BLIND, DROPS, HELD, reasonTitle } from "./reasons.js";

const PAGE = 500;
// About 2 kB each: a day of ticks every 10 s is 20 MB.
const MOST_PAGES = 20;
// Decisions read per update, and at the first read.
const NEWEST = 20;
const FIRST = 200;

const sum = (configs) => configs.reduce((all, config) => all + config.cores * config.replicas, 0);

/** The ticks and changes of the pipeline at `base`, extended by each update. */
export class History {
  constructor(base, signal) {
    Object.assign(this, { base, signal, ticks: new Map(), replicas: new Map(), decisions: new Map(), looked: new Map(), pages: 0, before: null, isWhole: false });
  }

  /** Adds the ticks of the status. */
  see({ live }) {
    for (const sample of live.series) {
      this.ticks.set(sample.at, {
        at: sample.at, t: Date.parse(sample.at), rate: sample.rate_rps, point: sample.forecast_rps, upper: sample.forecast_upper_rps,
        latency: sample.latency_s, predicted: sample.is_overload ? Infinity : sample.predicted_latency_s, cores: sample.cores, pas: sample.pas,
        inTime: sample.in_time_ratio, dropped: sample.dropped_rps, failed: sample.failed_rps, retried: sample.retried_rps,
        isBroken: sample.slo_broken, reason: sample.reason, busy: sample.busy,
        beside: sample.cores === null ? null : besideCores([{ beside: sample.beside, replicas: 1 }]),
      });
    }
    const last = live.series[live.series.length - 1];
    if (last) this.replicas.set(last.at, counted(live.stages.filter((stage) => stage.config).map((stage) => stage.config)));
  }

  /** Reads the newest changes, or with holds the newest decisions; `tick` is the newest tick. */
  async lookAgain(withHolds, tick) {
    const list = withHolds ? "decisions" : "history";
    const few = this.looked.has(list) && tick - this.looked.get(list) < NEWEST;
    for (const decision of (await this.ask(`${list}?limit=${few ? NEWEST : FIRST}`)).decisions) this.keep(decision);
    this.looked.set(list, tick);
  }

  /** Reads decisions back to `from`, at most `MOST_PAGES` pages. */
  async reachBack(from, say) {
    while (!this.isWhole && this.pages < MOST_PAGES && !(this.begin <= from)) {
      say("Reading older decisions …");
      const page = await this.ask(`decisions?limit=${PAGE}${this.before ? `&before=${encodeURIComponent(this.before)}` : ""}`);
      for (const decision of page.decisions) this.keep(decision);
      for (const decision of page.decisions) this.remember(decision);
      this.begin = Math.min(this.begin, ...page.decisions.map((decision) => Date.parse(decision.at)));
      this.before = page.next_before;
      this.isWhole = !page.next_before;
      this.pages += 1;
    }
  }

  /** The time since which every tick is known. */
  get begin() { return this.known ?? Math.min(...[...this.ticks.values()].map((tick) => tick.t)); }

  set begin(t) { this.known = t; }

  ask(path) { return callApi(`${this.base}/${path}&inputs=false`, { signal: this.signal }); }

  keep(decision) {
    this.decisions.set(decision.decision_id, decision);
    if (decision.action === "apply") this.replicas.set(decision.at, counted(decision.configs));
  }

  /** Adds the tick of a decision, unless the status has it. */
  remember(decision) {
    this.replicas.set(decision.at, counted(decision.configs));
    if (this.ticks.has(decision.at)) return;
    this.ticks.set(decision.at, {
      at: decision.at, t: Date.parse(decision.at), rate: decision.observed_rate_rps, point: decision.forecast?.point_rps ?? null,
      upper: decision.forecast?.upper_rps ?? null, latency: decision.observed_latency_s, predicted: null,
      cores: decision.configs.length ? sum(decision.configs) : null, pas: runs(decision) ? decision.plan.pas : null,
      beside: runs(decision) ? besideCores(decision.plan.stages) : null,
      ...ended(decision), isBroken: decision.slo_broken, reason: decision.reason, busy: {},
    });
  }

  /** The resources beside cores that ran at any tick. */
  get resources() { return [...new Set([...this.ticks.values()].flatMap((tick) => [...tick.beside?.keys() ?? []]))].sort(); }

  /** The ticks between the two times, oldest first. */
  between(from, to) {
    return [...this.ticks.values()].filter(({ t }) => t >= from && t <= to).sort((a, b) => a.t - b.t);
  }

  /** The stretches between the two times in which the SLO was broken, the tick was blind or held. */
  stretches(from, to) {
    const ticks = this.between(from, to), found = [], open = {};
    ticks.forEach((tick, index) => {
      const end = ticks[index + 1]?.at ?? new Date(to).toISOString();
      const kinds = { broken: tick.isBroken ? "SLO broken" : "", blind: BLIND.has(tick.reason) ? reasonTitle(tick.reason) : "", held: HELD.has(tick.reason) ? reasonTitle(tick.reason) : "" };
      for (const [kind, text] of Object.entries(kinds)) {
        if (!text) open[kind] = null;
        else if (open[kind]?.text === text) open[kind].to = end;
        else found.push(open[kind] = { from: tick.at, to: end, kind, text });
      }
    });
    return found;
  }

  /** The decisions between the two times, newest first. */
  decided(from, to) {
    return [...this.decisions.values()].filter(({ at }) => Date.parse(at) >= from && Date.parse(at) <= to).sort((a, b) => b.tick - a.tick);
  }

  /** The replicas over time: [{at, t, count}], oldest first, including the last before `from`. */
  counts(from, to) {
    const all = [...this.replicas].map(([at, count]) => ({ at, t: Date.parse(at), count })).filter(({ t }) => t <= to).sort((a, b) => a.t - b.t);
    const first = all.findLastIndex(({ t }) => t <= from);
    const found = all.slice(Math.max(first, 0));
    if (first >= 0) found[0] = { ...found[0], at: new Date(from).toISOString() };
    const oldest = this.decided(from, to).filter((decision) => decision.action === "apply").pop();
    if (first < 0 && oldest?.previous.length) found.unshift({ at: new Date(from).toISOString(), count: counted(oldest.previous) });
    return found;
  }
}

/** The requests that ended, as a tick has them. */
function ended({ attainment }) {
  if (!attainment) return { inTime: null, dropped: null, failed: null, retried: null };
  const rate = (isDrop) => attainment.losses.filter(({ cause }) => DROPS.has(cause) === isDrop).reduce((all, { count }) => all + count, 0) / attainment.window_s;
  return { inTime: attainment.in_time_ratio, dropped: rate(true), failed: rate(false), retried: attainment.retried / attainment.window_s };
}

/** True if the plan of the decision runs after it. */
function runs({ plan, configs }) {
  const key = (stage) => `${stage.stage} ${stage.variant} ${stage.batch_size} ${stage.cores} ${stage.replicas}`;
  return Boolean(plan && configs.length && plan.stages.map(key).join() === configs.map(key).join());
}

/** Replicas by stage. */
function counted(configs) {
  const found = {};
  for (const config of configs) found[config.stage] = (found[config.stage] ?? 0) + config.replicas;
  return found;
}

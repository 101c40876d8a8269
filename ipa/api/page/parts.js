// The summary of a pipeline's state: chips, the reason, and the tiles.

import { duration, el, meter, number, plain, when } from "./dom.js";
import { remedy } from "./reasons.js";

export const chip = (kind, text, title) => el("span", { class: `chip ${kind}`, title }, text);

/** The meaning of each mode. */
export const MODES = {
  advisory: "Decisions are recorded; nothing is written",
  shadow: "Each decision builds on the one before; nothing is written",
  guarded: "Only added replicas are written",
  active: "Decisions are written",
};

/** True if the running configuration of any stage is known. */
export const isSeen = (live) => live.stages.some((stage) => stage.config);

/** True if a change is observed to roll out. */
export const isRolling = (live) => isSeen(live) && !live.settled;

/** The chip of a pipeline's health; null for one that is only planned, of which nothing runs. */
export function healthChip({ healthy, runnable, live }) {
  if (!healthy) return chip("bad", live.slo_broken ? "SLO broken" : "degraded", live.degraded.join("; "));
  return runnable || isSeen(live) ? chip("good", "healthy") : null;
}

/** The chips of mode, pause, freezes, pins and health. */
export function chips(status) {
  const { control, live } = status;
  const said = [MODES[control.mode], [control.mode_reason, control.mode_by].filter(Boolean).join(", by ")];
  const speed = status.simulated_speed;
  const found = speed ? [chip("warn", `simulated, ×${speed}`, `${speed} simulated seconds pass in one; times are those of the simulation`)] : [];
  found.push(chip(control.mode === "active" ? "info" : "warn", control.mode, said.filter(Boolean).join("; ")));
  if (control.paused) {
    const until = control.paused_until ? ` until ${when(control.paused_until)}` : "";
    found.push(chip("warn", `paused${until}`, [control.paused_reason, control.paused_by].filter(Boolean).join(", by ")));
  }
  for (const freeze of control.freezes.filter((each) => each.active)) {
    found.push(chip("warn", "frozen", [freeze.reason, freeze.by].filter(Boolean).join(", by ")));
  }
  for (const pin of control.pins) {
    found.push(chip("info", `${pin.stage} pinned`, [pin.reason, pin.by].filter(Boolean).join(", by ")));
  }
  if (!status.runnable) found.push(chip("info", "planned only", status.not_runnable_because));
  found.push(...[healthChip(status)].filter(Boolean));
  if (!status.standing.leading) found.push(chip("warn", "standby", `${status.standing.leader || "nobody"} leads`));
  if (isRolling(live)) found.push(chip("info", "rolling out", live.phase));
  return found;
}

// Holds that follow from people's overrides.
const QUIET = new Set(["advisory", "shadow", "guarded", "frozen", "not_leader"]);

/** The last decision and its reason: [kind, children]. */
export function reason(status) {
  const { control, live } = status;
  if (!live.reason) return ["", [el("b", {}, "Waiting"), el("span", {}, "for the first tick")]];
  const [verb, word] = live.reason.split(".");
  const kind = status.healthy ? (control.paused || QUIET.has(word) ? "warn" : verb === "apply" ? "good" : "") : "bad";
  const title = `${verb === "apply" ? "Applied" : "Holding"}: ${word.replaceAll("_", " ")}`;
  const notes = [live.detail];
  if (control.paused) notes.push([control.paused_reason, control.paused_by].filter(Boolean).join(", by "));
  if (!status.healthy) notes.push(...live.degraded.filter((text) => !text.includes(live.detail) || !live.detail));
  const next = remedy(live.reason, status.pipeline, live.slo_broken);
  return [kind, [el("b", {}, title), el("span", {}, [...new Set(notes.filter(Boolean))].join(" · ")),
    el("span", { class: "remedy" }, next.text, " ", el("a", { href: next.href }, next.name))]];
}

/** The resources of all replicas of the stages beside their cores, as far as they are known: the amounts above zero by name and unit. */
export function besideCores(stages) {
  const found = new Map();
  for (const { beside, config, replicas = config?.replicas ?? 0 } of stages) {
    for (const [name, amount] of beside ? [["Memory, GiB", beside.memory_gib], ...Object.entries(beside.accelerators)] : []) {
      if (amount) found.set(name, (found.get(name) ?? 0) + amount * replicas);
    }
  }
  return found;
}

/** The resources of the stages beside their cores, each with its unit, such as "6 GiB". */
export const besideWords = (stages) => [...besideCores(stages)].map(([name, amount]) => `${plain(amount)} ${name.replace("Memory, ", "")}`);

/** The unit of that many cores, and the number with it; the cost as [value, unit], in money if the pipeline has prices. */
const coreUnit = (count) => (count === 1 ? "core" : "cores");
export const coresOf = (count) => `${plain(count)} ${coreUnit(count)}`;
const costOf = (it) => (it.cost_usd_per_hour === null ? [plain(it.cost_cores), coreUnit(it.cost_cores)] : [plain(it.cost_usd_per_hour), "USD/h"]);

/** The tile of what came of the requests: the share in time, and those without an answer. */
function ended(live, status) {
  const ratio = live.in_time_ratio;
  if (ratio === null || ratio === undefined) return tile("In time", "", "not counted", ["estimated from latency"]);
  const rates = [["dropped", live.dropped_rps], ["failed", live.failed_rps]].map(([name, rate]) => [" · ", el("span", { class: rate > 0 ? "over" : "" }, `${name} ${number(rate ?? 0)}`)]);
  const retried = live.retried_rps > 0 ? ` · ${number(live.retried_rps)} batches/s retried` : "";
  const causes = (live.losses ?? []).map((it) => `${it.stage ? `${it.stage}: ` : ""}${it.cause.replaceAll("_", " ")} ${number(it.rate_rps)} rps`);
  return tile("In time", percentOf(ratio), "%", [el("b", { class: live.slo_broken ? "over" : "ok" }, live.slo_broken ? "SLO broken" : "SLO kept"), `, of ${plain(status.sla_percentile)} % asked for`, ...rates, " rps", retried,
    causes.length ? [el("br"), el("span", { class: "over" }, causes.join(", "))] : ""],
  meter(ratio, live.slo_broken ? "over" : "ok"));
}

/** The share in percent; one that is not whole never reads as 100. */
const percentOf = (ratio) => (ratio < 1 ? Math.min(100 * ratio, 99.9) : 100).toFixed(1);

/** The tiles: load, latency, requests in time, accuracy and cost. */
export function tiles(status) {
  const { live } = status;
  const [latency, unit] = duration(live.latency_s);
  const [sla, slaUnit] = duration(status.sla_s);
  const share = live.latency_s === null ? null : live.latency_s / status.sla_s;
  const level = share === null ? "" : share > 1 ? "over" : share > 0.85 ? "near" : "ok";
  const ahead = live.forecast;
  const beside = status.beside.filter((each) => each.cost_cores !== null);
  const [cost, costUnit] = costOf(live);
  return [
    tile("Load", number(live.rate_rps), "rps", ahead
      ? ["forecast ", el("b", {}, number(ahead.point_rps)), ` · up to ${number(ahead.upper_rps)} within ${plain(ahead.horizon_s)} s`]
      : ["no forecast yet"]),
    tile(`Latency p${plain(status.sla_percentile)}`, latency, unit,
      share === null ? [`the SLA is ${sla} ${slaUnit}`] : [el("b", { class: level }, `${(100 * share).toFixed(0)} %`), ` of the SLA, ${sla} ${slaUnit}`], meter(share, level)),
    ended(live, status),
    tile("Accuracy (PAS)", number(live.pas, 3), "", [live.served_pas === null ? `of ${new Set(live.stages.map((stage) => stage.stage)).size} stages` : [el("b", {}, number(live.served_pas, 3)), " as answered, by variants that stand in"], ...(live.measured_pas ? [` · ${live.measured_pas.map((bound) => number(bound, 3)).join(" to ")} measured`] : []), ...beside.map((each) => ` · ${each.policy} would have ${number(each.pas, 3)}`)]),
    tile("Cost", cost, costUnit, [costUnit !== "USD/h" ? "" : `${coresOf(live.cost_cores)} · `, `${live.stages.reduce((sum, stage) => sum + (stage.config?.replicas ?? 0), 0)} replicas`,
      ...besideWords(live.stages).map((words) => ` · ${words}`),
      ...beside.map((each) => ` · ${each.policy} would pay ${costOf(each)[0]}`)]),
  ];
}

function tile(title, value, unit, note, bar) {
  return el("article", { class: "card tile" }, el("h3", {}, title),
    el("div", { class: "value" }, ...(value === "–" ? [el("small", {}, "not seen")] : [value, el("small", {}, unit)])), bar ?? "", el("div", { class: "note" }, note.flat(2)));
}

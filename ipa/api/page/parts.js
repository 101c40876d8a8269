// The parts of the page that are not charts: chips, the reason, figures, stages, decisions.

import { clock, duration, el, meter, number, plain } from "./dom.js";

const chip = (kind, text, title) => el("span", { class: `chip ${kind}`, title }, text);

const MODES = {
  advisory: "Decisions are recorded; nothing is written",
  shadow: "It goes on from its own decisions; nothing is written",
  guarded: "Only what adds is written",
  active: "Decisions are written",
};

/** Mode, pause, freezes, pins and health in the header. */
export function chips(status) {
  const { control, healthy, live } = status;
  const said = [MODES[control.mode], [control.mode_reason, control.mode_by].filter(Boolean).join(", by ")];
  const found = [chip(control.mode === "active" ? "info" : "warn", control.mode, said.filter(Boolean).join("; "))];
  if (control.paused) {
    const until = control.paused_until ? ` until ${clock(control.paused_until)}` : "";
    found.push(chip("warn", `paused${until}`, [control.paused_reason, control.paused_by].filter(Boolean).join(", by ")));
  }
  for (const freeze of control.freezes.filter((each) => each.active)) {
    found.push(chip("warn", "frozen", [freeze.reason, freeze.by].filter(Boolean).join(", by ")));
  }
  for (const pin of control.pins) {
    found.push(chip("info", `${pin.stage} pinned`, [pin.reason, pin.by].filter(Boolean).join(", by ")));
  }
  found.push(healthy ? chip("good", "healthy") : chip("bad", "degraded", live.degraded.join("; ")));
  if (!status.standing.leading) found.push(chip("warn", "standby", `${status.standing.leader || "nobody"} leads`));
  if (!live.settled) found.push(chip("info", "rolling out", live.phase));
  return found;
}

// Holds that a person asked for.
const QUIET = new Set(["advisory", "shadow", "guarded", "frozen", "not_leader"]);

/** What the last decision was and why: [kind, children]. */
export function reason(status) {
  const { control, live } = status;
  if (!live.reason) return ["", [el("b", {}, "Waiting"), el("span", {}, "for the first tick")]];
  const [verb, word] = live.reason.split(".");
  const kind = status.healthy ? (control.paused || QUIET.has(word) ? "warn" : verb === "apply" ? "good" : "") : "bad";
  const title = `${verb === "apply" ? "Applied" : "Holding"}: ${word.replaceAll("_", " ")}`;
  const notes = [live.detail];
  if (control.paused) notes.push([control.paused_reason, control.paused_by].filter(Boolean).join(", by "));
  if (!status.healthy) notes.push(...live.degraded.filter((text) => !text.includes(live.detail) || !live.detail));
  return [kind, [el("b", {}, title), el("span", {}, [...new Set(notes.filter(Boolean))].join(" · "))]];
}

/** The four figures of now. */
export function figures(status) {
  const { live } = status;
  const [latency, unit] = duration(live.latency_s);
  const [sla, slaUnit] = duration(status.sla_s);
  const share = live.latency_s === null ? null : live.latency_s / status.sla_s;
  const level = share === null ? "" : share > 1 ? "over" : share > 0.85 ? "near" : "ok";
  const ahead = live.forecast;
  const beside = status.beside.filter((each) => each.cost_cores !== null);
  return [
    figure("Load", number(live.rate_rps), "rps", ahead
      ? ["forecast ", el("b", {}, number(ahead.point_rps)), ` · up to ${number(ahead.upper_rps)} within ${plain(ahead.horizon_s)} s`]
      : ["no forecast yet"]),
    figure(`Latency p${plain(status.sla_percentile)}`, latency, unit,
      [el("b", { class: level }, share === null ? "–" : `${(100 * share).toFixed(0)} %`), ` of the SLA, ${sla} ${slaUnit}`], meter(share, level)),
    figure("Accuracy (PAS)", number(live.pas, 3), "", [`of ${new Set(live.stages.map((stage) => stage.stage)).size} stages`, ...beside.map((each) => ` · ${each.policy} would have ${number(each.pas, 3)}`)]),
    figure("Cost", plain(live.cost_cores), "cores", [`${live.stages.reduce((sum, stage) => sum + (stage.config?.replicas ?? 0), 0)} replicas`,
      ...beside.map((each) => ` · ${each.policy} would pay ${plain(each.cost_cores)}`)]),
  ];
}

function figure(title, value, unit, note, bar) {
  return el("article", { class: "card figure" }, el("h3", {}, title),
    el("div", { class: "value" }, value, el("small", {}, unit)), bar ?? "", el("div", { class: "note" }, ...note));
}

/** The stages in the order of the graph, with the fan-out on the arrows. */
export function stages(status, pipeline) {
  const found = [];
  status.live.stages.forEach((stage, index) => {
    const after = pipeline.stages.find((other) => other.stage === stage.stage)?.after ?? [];
    if (index) found.push(...after.map((edge) => arrow(edge, status.live.stages, status.live.stages[index - 1].stage)));
    found.push(card(stage));
  });
  return found;
}

/** From the stage to the left, or, with its name, from one further away. */
function arrow(edge, running, left) {
  const variant = running.find((stage) => stage.stage === edge.parent)?.config?.variant;
  const items = typeof edge.fan_out === "number" ? edge.fan_out : edge.fan_out[variant];
  const notes = [edge.parent === left ? "" : edge.parent, items && items !== 1 ? `×${plain(items)}` : "",
    edge.share === 1 ? "" : `${plain(100 * edge.share)} %`];
  return el("div", { class: "arrow" },
    el("svg", { viewBox: "0 0 34 12", "aria-hidden": "true" }, el("path", { d: "M1 6H32M27 1.5L32 6L27 10.5" })),
    notes.filter(Boolean).join(" "));
}

function card(stage) {
  const { config } = stage;
  if (!config) {
    return el("article", { class: "card stage" }, el("h3", {}, stage.stage), el("p", { class: "empty" }, "not seen"));
  }
  const busy = stage.utilisation_ratio;
  const level = busy === null ? "" : busy > 1 ? "over" : busy > 0.9 ? "near" : "";
  const [latency, unit] = duration(stage.latency_s);
  const ready = stage.ready_replicas;
  return el("article", { class: "card stage" },
    el("div", { class: "head" }, el("h3", {}, stage.stage), el("span", { class: "variant" }, config.variant)),
    el("dl", {},
      config.share_percent === 100 ? "" : pair("share", `${config.share_percent} %`),
      pair("batch", plain(config.batch_size)),
      pair("cores each", plain(config.cores)),
      pair("replicas", [ready === null ? "–" : String(ready), el("small", {}, ` / ${config.replicas} ready`), pods(ready ?? 0, config.replicas)], "wide"),
      pair("accuracy", number(stage.accuracy, 3)),
      pair("arrivals", [number(stage.arrival_rate_rps), el("small", {}, " /s")]),
      pair("latency", [latency, el("small", {}, ` ${unit}`)]),
      pair("waiting", plain(stage.queue_length)),
      pair("utilisation", [busy === null ? "–" : `${(100 * busy).toFixed(0)} %`, meter(busy, level)], "full")));
}

function pair(name, value, kind = "") {
  return el("div", { class: kind }, el("dt", {}, name), el("dd", {}, ...[value].flat()));
}

function pods(ready, wanted) {
  if (wanted > 24) return "";
  return el("span", { class: "pods", "aria-hidden": "true" },
    Array.from({ length: wanted }, (_, index) => el("span", { class: index < ready ? "pod" : "pod waiting" })));
}

/** The decisions, newest first; a run of equal holds is one row. */
export function decisions(list, withHolds) {
  const rows = [];
  for (const decision of list) {
    const last = rows[rows.length - 1];
    if (decision.action === "hold" && !withHolds) continue;
    if (last && decision.action === "hold" && last.decision.reason === decision.reason) last.count += 1;
    else rows.push({ decision, count: 1 });
  }
  if (!rows.length) return [el("li", { class: "empty" }, "Nothing was changed yet.")];
  return rows.map(({ decision, count }) => row(decision, count));
}

function row(decision, count) {
  const [verb, word] = decision.reason.split(".");
  const kind = verb === "apply" ? (word === "rollback" ? "bad" : "good") : "";
  const changes = decision.action === "apply" ? decision.configs.flatMap((config) => change(config, decision.previous)) : [];
  return el("li", {},
    el("time", { datetime: decision.at }, clock(decision.at), el("span", { class: "tick" }, `tick ${decision.tick}`)),
    el("div", {}, chip(kind, `${word.replaceAll("_", " ")}${count > 1 ? ` ×${count}` : ""}`, decision.reason)),
    el("div", {}, changes.length ? el("div", { class: "change" }, changes) : "", el("div", { class: "detail" }, remark(decision))));
}

/** The detail without the changes that are shown above it. */
function remark({ detail, configs, previous, action }) {
  if (action !== "apply") return detail;
  const text = (config) => (config ? `${config.stage}=${words(config).join(" ")}` : "nothing");
  const told = configs.map((config) => `${text(before(config, previous))} → ${text(config)}`)
    .filter((line) => detail.includes(line)).join(", ");
  return (told ? detail.replace(told, "") : detail).replace(/[\s:;,]+$/, "");
}

function change(config, previous) {
  const old = before(config, previous);
  const [was, is] = [old ? words(old) : [], words(config)];
  if (was.join() === is.join()) return [];
  const parts = is.flatMap((word, index) => (word === was[index] ? [`${word} `]
    : [old ? el("del", {}, `${was[index]} → `) : "", el("ins", {}, word), " "]));
  return [el("code", {}, `${config.stage}: `, ...parts)];
}

/** What ran in its place: of the same variant, or of its stage where one alone ran and runs there. */
function before(config, previous) {
  const others = previous.filter((other) => other.stage === config.stage);
  const same = others.find((other) => other.variant === config.variant);
  return same ?? (others.length === 1 && config.share_percent === 100 ? others[0] : undefined);
}

const words = (config) => [config.variant, `b${config.batch_size}`, `${config.replicas}×${plain(config.cores)} cores`,
  ...(config.share_percent === 100 ? [] : [`for ${config.share_percent} %`])];

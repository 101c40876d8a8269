// Asks the service once a second what a pipeline does, and shows it.

import { request } from "./auth.js";
import { Chart } from "./chart.js";
import { clock, el, number, plain } from "./dom.js";
import { chips, decisions, figures, reason, stages } from "./parts.js";

const POLL_MS = 1000;
const $ = (id) => document.getElementById(id);
const state = { pipelines: {}, name: "", tick: null, due: null, tickS: 1, list: [], shown: {} };

const charts = {
  load: new Chart($("charts"), {
    title: "Load", unit: "rps", format: plain,
    lines: [{ key: "forecast_rps", to: "forecast_upper_rps", kind: "violet", name: "forecast" }, { key: "rate_rps", kind: "blue", name: "seen" }],
  }),
  latency: new Chart($("charts"), {
    title: "Latency", unit: "ms", format: (value) => value.toFixed(0),
    lines: [{ key: "latency_ms", kind: "blue", name: "seen" }], limit: { name: "SLA" },
  }),
  cores: new Chart($("charts"), {
    title: "Cost", unit: "cores", format: plain, short: true, lines: [{ key: "cores", kind: "teal", name: "allocated", step: true }],
  }),
  pas: new Chart($("charts"), {
    title: "Accuracy", unit: "PAS", format: (value, exact) => number(value, exact ? 3 : 2), short: true, ceiling: 1,
    lines: [{ key: "pas", kind: "amber", name: "of what runs", step: true }],
  }),
};

async function ask(path) {
  const answer = await request(path, { headers: { Accept: "application/json" } });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail ?? answer.statusText);
  return body;
}

/** Replace the children of an element only when what they show has changed. */
function put(id, facts, make) {
  const key = JSON.stringify(facts);
  if (state.shown[id] === key) return;
  state.shown[id] = key;
  $(id).replaceChildren(...make());
}

async function start() {
  const { pipelines } = await ask("/v1/pipelines");
  state.pipelines = Object.fromEntries(pipelines.map((pipeline) => [pipeline.pipeline, pipeline]));
  const names = Object.keys(state.pipelines);
  $("pipelines").replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  $("pipelines").classList.toggle("only", names.length === 1);
  $("pipelines").disabled = names.length === 1;
  choose(decodeURIComponent(location.hash.slice(1)) || names[0]);
}

function choose(name) {
  state.name = name in state.pipelines ? name : Object.keys(state.pipelines)[0];
  state.tick = null;
  $("pipelines").value = state.name;
  $("description").textContent = state.pipelines[state.name]?.description ?? "";
  document.title = `${state.name} · ipa`;
}

async function refresh() {
  const base = `/v1/pipelines/${encodeURIComponent(state.name)}`;
  const status = await ask(`${base}/status`);
  const { live, control } = status;
  if (state.tick !== live.tick || state.showHolds !== $("all").checked) {
    state.showHolds = $("all").checked;
    state.list = (await ask(`${base}/${state.showHolds ? "decisions?limit=200" : "history?limit=50"}`)).decisions;
    state.tick = live.tick;
  }
  state.due = live.next_tick_in_s === null ? null : performance.now() + 1000 * live.next_tick_in_s;
  state.tickS = live.tick_s;
  const pipeline = state.pipelines[state.name];
  put("chips", [control, live.degraded, live.settled, status.standing], () => chips(status));
  put("reason", [control, live.reason, live.detail, live.degraded], () => reason(status)[1]);
  $("reason").className = `banner ${reason(status)[0]}`;
  put("figures", [live.rate_rps, live.latency_s, live.forecast, live.pas, live.cost_cores, live.stages, status.beside], () => figures(status));
  put("stages", live.stages, () => stages(status, pipeline));
  put("decisions", [state.list, state.showHolds], () => decisions(state.list, state.showHolds));
  const samples = live.series.map((sample) => ({ ...sample, latency_ms: sample.latency_s === null ? null : sample.latency_s * 1000 }));
  put("foot", live.tick, () => [`tick ${live.tick} · every ${plain(live.tick_s)} s · seen ${clock(live.at)}`]);
  for (const [name, chart] of Object.entries(charts)) chart.show(samples, name === "latency" ? status.sla_s * 1000 : undefined);
}

function lost(error) {
  document.body.classList.toggle("lost", Boolean(error));
  if (!error) return;
  state.shown = {};
  state.due = null;
  $("reason").className = "banner bad";
  $("reason").replaceChildren(el("b", {}, "No answer from the service"), el("span", {}, `since ${clock(state.seen ?? Date.now())}: ${error.message}`));
}

async function loop() {
  try {
    if (!state.name) await start();
    if (state.name && !document.hidden) await refresh();
    state.seen = Date.now();
    lost(null);
  } catch (error) {
    lost(error);
  }
  setTimeout(loop, POLL_MS);
}

function countdown() {
  const left = state.due === null ? null : Math.max(0, (state.due - performance.now()) / 1000);
  const text = left === null ? "–" : `${left.toFixed(1)} s`;
  if ($("countdown").textContent !== text) $("countdown").textContent = text;
  $("ring").style.strokeDashoffset = String(left === null ? 100 : 100 - Math.min(left / state.tickS, 1) * 100);
}

$("pipelines").addEventListener("change", (event) => { location.hash = encodeURIComponent(event.target.value); });
window.addEventListener("hashchange", () => choose(decodeURIComponent(location.hash.slice(1))));
setInterval(countdown, 200);
loop();

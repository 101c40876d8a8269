// Now: load, latency against the SLA, what was decided and why, and the running configuration.

import { callApi } from "../api.js";
import { decisions } from "../decisions.js";
import { clock, el, plain, putter, sentence } from "../dom.js";
import { Graph } from "../graph.js";
import { chips, isRolling, isSeen, reason, tiles } from "../parts.js";
import { formatRoute } from "../router.js";
import { latestEdit, profileDoubts, requests, sharedLoad, timeSpent } from "./now-parts.js";

const COUNT_MS = 200;
const CHANGES = 5;

export const title = "Now";

export async function open(root, place, tools) {
  const name = place.path[0], base = `/v1/pipelines/${encodeURIComponent(name)}`;
  const gone = new AbortController(), put = putter();
  const parts = frame(name);
  root.append(...parts.all);
  const graph = new Graph(parts.graph);
  let actions = null, list = [], tick = null, told = null, due = null, tickS = 1;

  async function update() {
    const status = await callApi(`${base}/status`, { signal: gone.signal });
    const { live, control } = status, pipeline = tools.pipelines.get(name);
    if (tick !== live.tick) {
      list = (await callApi(`${base}/history?limit=${CHANGES}&inputs=false`, { signal: gone.signal })).decisions;
      tick = live.tick;
    }
    due = live.next_tick_in_s === null ? null : performance.now() + 1000 * live.next_tick_in_s;
    tickS = live.tick_s;
    const [kind, words] = reason(status);
    put(parts.chips, [control, live.degraded, isRolling(live), isSeen(live), status.standing, status.simulated_speed], () => chips(status));
    actions?.see(status);
    put(parts.reason, [control, live.reason, live.detail, live.degraded], () => words);
    parts.reason.className = `banner ${kind}`;
    if (told !== live.reason) tools.say(parts.reason.querySelector("b").textContent);
    told = live.reason;
    put(parts.aside, [pipeline?.description, pipeline?.not_controlled, pipeline?.not_runnable_because], () => aside(pipeline));
    put(parts.edit, [status.edit, control.mode, control.profile_doubts], () => [...latestEdit(status), ...profileDoubts(status)]);
    put(parts.requests, status.address, () => requests(status, tools));
    put(parts.tiles, [live.rate_rps, live.latency_s, live.in_time_ratio, live.losses, live.retried_rps, live.forecast, live.pas, live.served_pas, live.cost_cores, live.cost_usd_per_hour, live.stages, status.beside], () => tiles(status));
    put(parts.shared, [live.parts, live.canary], () => sharedLoad(status));
    if (pipeline) graph.show(status, pipeline);
    put(parts.time, [live.latency_s, live.stages, status.sla_s], () => timeSpent(status));
    put(parts.changes, list, () => decisions(list, false));
    put(parts.seen, live.tick, () => `tick ${live.tick} · every ${plain(live.tick_s)} s · seen ${clock(live.at)}`);
  }

  function count() {
    const left = due === null ? null : Math.max(0, (due - performance.now()) / 1000);
    parts.countdown.textContent = left === null ? "not known yet" : `${left.toFixed(1)} s`;
    parts.ring.style.strokeDashoffset = String(left === null ? 100 : 100 - Math.min(left / tickS, 1) * 100);
  }

  async function prepare() {
    const { PipelineActions } = await import("./actions.js");
    if (!gone.signal.aborted) actions ??= new PipelineActions(parts.actions, name, tools, base);
  }

  await update();
  // After the content is shown; a failed load is retried with the next update.
  prepare().then(update).catch(() => {});
  const counting = setInterval(count, COUNT_MS);
  return {
    update: async () => {
      await update();
      if (!actions) await prepare();
    },
    close() {
      gone.abort();
      clearInterval(counting);
      graph.close();
      actions?.close();
    },
  };
}

/** The empty view: its parts by name, and `all` in order. */
function frame(name) {
  const circle = (attributes) => el("circle", { cx: 18, cy: 18, r: 15.5, ...attributes });
  const ring = circle({ class: "ring-left", pathLength: 100, transform: "rotate(-90 18 18)" });
  const countdown = el("span", {}, "not known yet");
  const parts = {
    chips: el("div", { class: "chips", id: "chips" }),
    actions: el("div", { class: "actions" }),
    reason: el("p", { class: "banner", id: "reason" }),
    aside: el("div", {}),
    edit: el("div", { id: "edit" }),
    requests: el("section", { id: "requests", "aria-label": "Where requests go" }),
    tiles: el("section", { class: "tiles", id: "figures", "aria-label": "Load, latency, accuracy and cost" }),
    shared: el("section", { "aria-label": "Shared load" }),
    graph: el("section", { "aria-labelledby": "stages-title" }, el("h2", { id: "stages-title" }, "Stages")),
    time: el("section", { id: "time-spent", "aria-label": "Where a request’s time goes" }),
    changes: el("ol", { id: "decisions" }),
    seen: el("p", { class: "note" }),
    ring, countdown,
  };
  const next = el("div", { class: "next", title: "Time to the next tick" },
    el("svg", { viewBox: "0 0 36 36", width: 34, height: 34, "aria-hidden": "true" }, circle({ class: "ring" }), ring),
    el("div", {}, el("small", {}, "next tick"), countdown));
  return {
    ...parts,
    all: [el("div", { class: "standing" }, parts.chips, parts.actions, next), parts.edit, parts.aside, parts.tiles, parts.reason, parts.shared, parts.graph, parts.time, parts.requests,
      el("div", { class: "heading" }, el("h2", {}, "Last changes"), el("a", { href: formatRoute({ view: "timeline", path: [name] }) }, "Timeline")),
      el("section", { class: "card decisions", "aria-label": "Last changes" }, parts.changes), parts.seen],
  };
}

/** Banners about the pipeline itself. */
function aside(pipeline) {
  if (!pipeline) return [];
  return [pipeline.not_controlled ? el("p", { class: "banner warn" }, el("b", {}, "Not controlled here"), el("span", {}, pipeline.not_controlled)) : "",
    pipeline.runnable ? "" : el("p", { class: "banner warn" }, el("b", {}, "Planned only"), el("span", {}, pipeline.not_runnable_because)),
    pipeline.description ? el("p", { class: "lead" }, pipeline.description) : ""];
}

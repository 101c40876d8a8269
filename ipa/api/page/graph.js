// The stages as a graph: cards in columns, each to the right of its parents, with arrows.

import { el, meter, number, plain, putter, timed } from "./dom.js";
import { besideCores } from "./parts.js";

const KINDS = { router: "sends each request to some of the next", combiner: "joins its answers", transformer: "changes what passes" };

// Between two cards there is less; further away is another.
const BESIDE_PX = 60;

export class Graph {
  constructor(parent) {
    this.columns = el("ol", { class: "columns" });
    this.arrows = el("svg", { class: "arrows", "aria-hidden": "true" });
    this.box = el("div", { class: "graph", id: "stages" }, this.arrows, this.columns);
    parent.append(this.box);
    this.put = putter();
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.box);
  }

  close() { this.sizes.disconnect(); }

  /** Shows the running configuration of each stage, in the pipeline's order. */
  show(status, pipeline) {
    this.pipeline = pipeline;
    const { live, sla_s: sla } = status;
    const isNew = this.put(this.columns, [live.stages, sla, pipeline.stages], () => columnsOf(pipeline.stages).map((column) =>
      el("li", {}, column.map((stage) => card(stage, live.stages.filter((each) => each.stage === stage.stage), sla)))));
    if (isNew) this.draw(live.stages);
  }

  draw(running = this.running) {
    if (!running) return;
    this.running = running;
    const frame = this.box.getBoundingClientRect();
    const parts = this.pipeline.stages.flatMap((stage) => [...stage.after.flatMap((edge) => this.arrow(edge, stage, frame)), this.label(stage, frame)]);
    this.arrows.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    this.arrows.replaceChildren(...parts);
  }

  arrow(edge, stage, frame) {
    const [from, to] = [edge.parent, stage.stage].map((name) => this.place(name));
    if (!from || !to) return [];
    const isDown = to.left < from.right;
    const [x1, y1] = isDown ? [from.left + from.width / 2, from.bottom] : [from.right, from.top + from.height / 2];
    const [x2, y2] = isDown ? [to.left + to.width / 2, to.top] : [to.left, to.top + to.height / 2];
    const [a, b, c, d] = [x1 - frame.left, y1 - frame.top, x2 - frame.left, y2 - frame.top];
    const [mx, my] = [(a + c) / 2, (b + d) / 2];
    const line = isDown ? `M${a} ${b}C${a} ${my} ${c} ${my} ${c} ${d - 3}` : `M${a} ${b}C${mx} ${b} ${mx} ${d} ${c - 3} ${d}`;
    const head = isDown ? `M${c - 5} ${d - 8}L${c} ${d - 2}L${c + 5} ${d - 8}` : `M${c - 8} ${d - 5}L${c - 2} ${d}L${c - 8} ${d + 5}`;
    return [el("path", { d: line }), el("path", { d: head }),
      isDown ? "" : el("text", { x: mx, y: my - 8, "text-anchor": "middle" }, this.words(edge))];
  }

  /** Where cards stand below each other arrows run behind them, so that what they carry is said above the card. */
  label(stage, frame) {
    const to = this.place(stage.stage), from = this.place(stage.after[0]?.parent);
    if (!to || !from || to.left >= from.right) return "";
    const isOne = stage.after.length === 1 && to.top - from.bottom < BESIDE_PX;
    const words = stage.after.map((edge) => [isOne ? "" : edge.parent, this.words(edge)].filter(Boolean).join(" ")).join(", ");
    return el("text", { x: to.left + to.width / 2 - frame.left + 12, y: to.top - frame.top - 14 }, words);
  }

  place(name) {
    return name && this.box.querySelector(`[data-stage="${CSS.escape(name)}"]`)?.getBoundingClientRect();
  }

  /** The label of an arrow: the fan-out, and the share of the requests. */
  words(edge) {
    const variant = this.running.find((stage) => stage.stage === edge.parent)?.config?.variant;
    const items = typeof edge.fan_out === "number" ? edge.fan_out : edge.fan_out[variant];
    return [items && items !== 1 ? `×${plain(items)}` : "", edge.share === 1 ? "" : `${plain(100 * edge.share)} %`].filter(Boolean).join(" ");
  }
}

/** The stages by the length of the longest path to them. */
function columnsOf(stages) {
  const depth = new Map();
  for (const stage of stages) depth.set(stage.stage, Math.max(-1, ...stage.after.map((edge) => depth.get(edge.parent) ?? -1)) + 1);
  const columns = [];
  for (const stage of stages) (columns[depth.get(stage.stage)] ??= []).push(stage);
  return columns.filter(Boolean);
}

function card(stage, parts, sla) {
  const after = stage.after.map((edge) => edge.parent).join(", ");
  const body = parts.length ? parts.flatMap((part) => one(part, sla)) : [el("p", { class: "kind" }, KINDS[stage.kind] ?? "not seen")];
  return el("article", { class: `card stage${parts.length ? "" : " passing"}`, "data-stage": stage.stage }, el("div", { class: "head" }, el("h3", {}, stage.stage), after ? el("span", { class: "hidden" }, `after ${after}`) : ""), body);
}

/** The running configuration of a stage, or of one of the parts that share its load. */
function one(stage, sla) {
  const { config } = stage;
  if (!config) return [el("p", { class: "empty" }, "The running configuration is unknown.")];
  const offered = stage.utilisation_ratio, busy = stage.busy_ratio ?? offered, ready = stage.ready_replicas, isSlow = stage.slowdown_ratio !== null && stage.slowdown_ratio > 1.05;
  const busyLevel = busy === null ? "" : Math.max(busy, offered ?? 0) > 1 ? "over" : busy > 0.9 ? "near" : "";
  const share = stage.latency_s === null ? null : stage.latency_s / sla;
  const planned = stage.planned_latency_s === null ? "" : [" of ", ...timed(stage.planned_latency_s), " planned"];
  return [
    el("div", { class: "runs" }, el("span", { class: "variant" }, config.variant), config.share_percent === 100 ? "" : ` ${config.share_percent} % of the requests`,
      stage.resident.length ? el("small", {}, ` switches in place to ${stage.resident.join(", ")}`) : "",
      stage.served.length ? el("div", {}, `answered by ${stage.served.map((it) => `${it.variant} (${plain(100 * it.share_ratio)} %)`).join(", ")}`) : ""),
    el("dl", {},
      pair("batch", plain(config.batch_size)),
      pair("cores", [plain(config.cores * config.replicas), el("small", {}, ` ${config.replicas} × ${plain(config.cores)}`)]),
      ...[...besideCores([stage])].map(([name, amount]) => pair(...(name === "Memory, GiB" ? ["memory", [plain(amount), el("small", {}, " GiB")]] : [name, plain(amount), "wide"]))),
      pair("replicas", [String(ready ?? config.replicas), el("small", {}, ready === null ? ", ready ones not seen" : ` / ${config.replicas} ready`), pods(ready ?? 0, config.replicas)], "wide"),
      pair("arrivals", stage.arrival_rate_rps === null ? unseen() : [number(stage.arrival_rate_rps), el("small", {}, " /s")]),
      pair("waiting", stage.queue_length === null ? unseen() : plain(stage.queue_length)),
      pair("accuracy", [number(stage.accuracy, 3), stage.served_accuracy === null ? "" : el("small", {}, `, ${number(stage.served_accuracy, 3)} as answered`)], stage.served_accuracy === null ? "" : "wide"),
      ...stage.measured.map((it) => pair("measured accuracy", [`${number(it.lower, 3)} to ${number(it.upper, 3)}`, el("small", {}, ` ${it.variant}, ${it.labels} labels${it.contradicts ? `; ${number(it.profiled, 3)} by its profile` : ""}`)], "full")),
      ...(stage.slowdown_ratio === null ? [] : [pair("speed", [isSlow ? `${plain(stage.slowdown_ratio)}×` : "as profiled", el("small", {}, ` ± ${plain(stage.slowdown_deviation)}${isSlow ? " slower" : ""}`)])]),
      pair("latency", stage.latency_s === null ? (planned && ["≈ ", ...timed(stage.planned_latency_s), el("small", {}, " planned")]) || unseen() : [el("span", {}, ...timed(stage.latency_s), el("small", {}, planned)), meter(share, share > 1 ? "over" : "ok"),
        el("small", {}, `${(100 * share).toFixed(0)} % of the SLA`)], "full"),
      pair("utilisation", busy === null ? unseen() : [`${(100 * busy).toFixed(0)} %`, meter(busy, busyLevel), el("small", {}, load(stage))], "full")),
  ];
}

/** The load beside the utilisation, which is measured if it can be: it shows how far an overload goes. */
function load({ utilisation_ratio: offered, busy_ratio: busy, config }) {
  if (busy === null) return "of its capacity, by the profile";
  const measured = config.share_percent === 100 ? "measured" : "measured with the others";
  return offered === null ? measured : `${measured}; the load is ${(100 * offered).toFixed(0)} % of its capacity`;
}

const unseen = () => el("small", {}, "not seen");

function pair(term, value, size) {
  return el("div", { class: size ?? "" }, el("dt", {}, term), el("dd", {}, value));
}

/** Replicas as squares, filled if ready. */
function pods(ready, wanted) {
  return el("span", { class: "pods", "aria-hidden": "true" },
    Array.from({ length: Math.min(Math.max(ready, wanted), 16) }, (_, index) => el("span", { class: index < ready ? "pod" : "pod waiting" })));
}

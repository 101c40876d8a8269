// The controls of a what-if: numbers with their units, some with a slider.

import { el, plain } from "../dom.js";

const round = (value, digits = 3) => Number(value.toPrecision(digits));
const optional = (value, otherwise) => value ?? otherwise;

/**
 * The controls of a pipeline, by their names in the API. `now` is what holds without it (null: no limit), `most`
 * and `step` those of its slider.
 */
export function controlsOf(pipeline, status, objectiveName, rate) {
  const objective = pipeline.objectives[objectiveName];
  const { bounds } = pipeline, { live } = status;
  const sla = objective.sla_s ?? pipeline.sla_s;
  const cores = bounds.cores ?? Math.max(4 * (live.cost_cores ?? 4), 8);
  const weight = (name, label, now, note) => ({ name, label, unit: "", now, least: 0, most: now ? round(5 * now) : 1, note });
  const found = [
    { name: "rate_rps", label: "Rate", unit: "rps", now: rate, least: 0.01, most: nice(4 * optional(rate, 10)), note: rate === null ? "requests per second" : "planned load" },
    { name: "sla_s", label: "SLA", unit: "s", now: sla, least: 0.001, most: round(3 * sla), note: "latency that a plan must meet" },
    { name: "cores", label: "Core budget", unit: "cores", now: bounds.cores, least: 0.1, most: nice(2 * cores), step: 0.5, note: bounds.cores === null ? "no budget now" : bounds.transition_cores === null ? "" : `${plain(bounds.transition_cores)} during a change, or the budget` },
    weight("alpha", "Weight of accuracy, α", objective.alpha, ""),
    weight("beta", "Weight of a core, β", objective.beta, ""),
    weight("delta", "Weight of a batch item, δ", objective.delta, ""),
    { name: "accuracy_floor", label: "Least accuracy", unit: "PAS", now: bounds.accuracy_floor, least: 0, most: 1, step: 0.005, note: bounds.accuracy_floor === null ? "no floor now" : "" },
  ];
  return found.map((each) => ({ ...each, step: each.step ?? stepOf(each.most) }));
}

/** The controls without a slider: numbers, lists and choices. */
export function furtherOf(pipeline) {
  const { bounds } = pipeline;
  const count = (name, label, now) => ({ name, label, unit: "", now, least: 1, step: 1, isCount: true });
  return [
    count("min_replicas", "Fewest replicas of a stage", bounds.min_replicas),
    count("max_replicas", "Most replicas of a stage", bounds.max_replicas),
    { name: "batch_sizes", label: "Batch sizes", unit: "", now: bounds.batch_sizes?.join(", ") ?? null, isList: true },
    { name: "transition_cores", label: "Cores during a change", unit: "cores", now: bounds.transition_cores, least: 0.1 },
    { name: "compat", label: "Queueing", choices: ["tail", "paper", "ipa-artifact"], now: "tail" },
    { name: "allocation", label: "Cores of a replica", choices: ["free", "base"], now: "free" },
    { name: "solver", label: "Solver", choices: ["auto", "gurobi", "highs", "exact"], now: "auto" },
  ];
}

const WEIGHTS = ["alpha", "beta", "delta"];
const BOUNDS = ["cores", "min_replicas", "max_replicas", "accuracy_floor", "transition_cores"];
export const NAMES = ["objective", "rate_rps", "sla_s", ...WEIGHTS, ...BOUNDS, "batch_sizes", "compat", "allocation", "solver"];

/** The body of POST plans for the set values {name: text}; `bounds` are the pipeline's. */
export function bodyOf(asked, bounds) {
  const { transition_cores: during } = bounds;
  // The budget during a change may not be below the budget at rest.
  const set = during !== null && Number(asked.cores) > during ? { transition_cores: asked.cores, ...asked } : asked;
  const number = (names) => Object.fromEntries(names.filter((name) => set[name]).map((name) => [name, Number(set[name])]));
  const some = (name, values) => (Object.keys(values).length ? { [name]: values } : {});
  const sizes = set.batch_sizes ? { batch_sizes: set.batch_sizes.split(/[\s,]+/).filter(Boolean).map(Number) } : {};
  const words = Object.fromEntries(["objective", "compat", "allocation", "solver"].filter((name) => set[name]).map((name) => [name, set[name]]));
  return { ...words, ...number(["rate_rps", "sla_s"]), ...some("weights", number(WEIGHTS)), ...some("bounds", { ...number(BOUNDS), ...sizes }) };
}

/** A control on the page. It calls `onSet(name, text)` on input; text "" stands for the default. */
export class Control {
  constructor(spec, onSet) {
    Object.assign(this, { spec, onSet });
    const { name, label, unit, least, step, off } = spec;
    const id = `what-if-${name}`;
    this.input = spec.choices
      ? el("select", { id, name }, spec.choices.map((choice) => el("option", { value: choice }, choice)))
      : el("input", { id, name, type: spec.isList ? "text" : "number", min: least, step: spec.isCount ? 1 : "any", disabled: off, inputmode: spec.isList ? "numeric" : "decimal", "aria-describedby": `${id}-now` });
    this.slider = spec.most === undefined ? null
      : el("input", { type: "range", min: least ? step : 0, max: spec.most, step, disabled: off, "aria-label": `${label}${unit && `, ${unit}`}, slider`, "data-name": name });
    this.said = el("small", { id: `${id}-now`, class: "now" });
    this.back = el("button", { type: "button", class: "back", hidden: "", title: "Reset" }, "↺", el("span", { class: "hidden" }, ` reset ${label}`));
    this.box = el("div", { class: `control${this.slider ? "" : " plain"}` }, el("label", { for: id }, label), this.slider ?? "",
      el("div", { class: "entry" }, this.input, el("span", { class: "unit" }, unit ?? ""), this.back), this.said);
    this.input.addEventListener("input", () => this.typed(this.input.value.trim()));
    this.slider?.addEventListener("input", () => this.typed(this.slider.value));
    this.back.addEventListener("click", () => { this.typed(""); this.input.focus(); });
  }

  typed(text) {
    const unless = this.spec.choices && text === this.spec.now ? "" : text;
    this.put(unless, this.input.value.trim() !== text);
    const isWrong = !this.input.validity.valid;
    this.input.setAttribute("aria-invalid", String(isWrong));
    if (isWrong) this.said.textContent = `${this.input.validationMessage} The value is ignored.`;
    else this.onSet(this.spec.name, unless);
  }

  /** Shows the set value, except in a field that is being edited. */
  put(text, alsoInput = true) {
    const { spec } = this;
    const shown = text || (spec.now === null || spec.now === undefined ? "" : String(spec.isList || spec.choices ? spec.now : round(spec.now, 4)));
    if (alsoInput && this.input.value !== shown && !(text === "" && document.activeElement === this.input && this.input.value === "")) this.input.value = shown;
    if (this.slider) {
      this.slider.value = shown === "" ? this.slider[spec.name === "accuracy_floor" ? "min" : "max"] : shown;
      this.slider.setAttribute("aria-valuetext", shown === "" ? "no limit" : `${shown} ${spec.unit}`.trim());
    }
    const isKnown = spec.now !== null && spec.now !== undefined && !(spec.choices && text === "");
    const known = !isKnown ? "" : `${spec.name === "rate_rps" ? "" : "now "}${spec.isList || spec.choices ? spec.now : plainest(spec.now)}`;
    this.said.textContent = [known, spec.note].filter(Boolean).join(", ");
    this.back.hidden = text === "";
    this.box.classList.toggle("moved", text !== "");
  }
}

// Small weights such as 0.000001 in full.
const plainest = (value) => (Math.abs(value) < 0.01 && value ? value.toFixed(9).replace(/0+$/, "") : plain(value));

function stepOf(most) {
  return Number((10 ** Math.floor(Math.log10(most / 100))).toPrecision(1));
}

function nice(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return Number(([1, 2, 4, 5, 8, 10].find((step) => step * unit >= value) * unit).toPrecision(6));
}

// The form that starts an experiment.

import { callApi } from "../api.js";
import { el } from "../dom.js";
import { formatRoute } from "../router.js";
import { refusal } from "../tables.js";

export class ExperimentForm {
  /** `known` has the names of workloads and policies; `query` has values from a link. */
  constructor(known, query, tools) {
    Object.assign(this, { tools, fields: {} });
    const pipelines = [...tools.pipelines.keys()];
    const wanted = query.get("pipeline") ?? pipelines[0];
    this.problem = el("div");
    this.button = el("button", { type: "submit", class: "button primary" }, "Start");
    const chosen = (query.get("policy") ?? "ours,static").split(",");
    this.policies = known.policies.map((name) => el("input", { type: "checkbox", name: "policies", value: name, checked: chosen.includes(name) ? "" : null }));
    const form = el("form", { "aria-label": "Start an experiment" },
      el("div", { class: "fields" },
        this.choice("pipeline", "Pipeline", pipelines, wanted),
        this.choice("workload", "Load", known.workloads, query.get("workload") ?? known.workloads[0]),
        this.number("minutes", "Minutes, 20 at most", "2", { min: 0.1, max: 20 }),
        this.number("times", "Times its rates", "1", { min: 0.000001 }),
        this.number("repeats", "Seeds", "1", { min: 1, max: 20, step: 1 })),
      el("fieldset", { class: "choices" }, el("legend", {}, "Policies, each under the same requests"), this.policies.map((box) => el("label", {}, box, ` ${box.value}`))),
      el("details", {}, el("summary", {}, "Objective, cluster, arrivals"), el("div", { class: "fields" },
        this.choice("objective", "Objective", [], ""),
        this.number("seed", "First seed", "0", { min: 0, step: 1 }),
        this.choice("spacing", "Requests come", ["poisson", "even", "burst"], "poisson"),
        this.number("capacity_cores", "Cores there are, any if empty", "", { min: 0.1 }),
        this.text("accelerators", "Accelerators there are, any if empty", "nvidia.com/gpu=4, …"))),
      this.button);
    this.fields.pipeline.addEventListener("change", () => this.objectives());
    this.objectives();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    this.box = el("section", { class: "card start", "aria-label": "Start an experiment" }, el("h2", {}, "Start an experiment"), form, this.problem);
  }

  choice(name, label, choices, chosen) {
    const select = this.fields[name] = el("select", { name }, choices.map((each) => el("option", { value: each, selected: each === chosen ? "" : null }, each)));
    return el("label", {}, label, select);
  }

  number(name, label, value, { min, max, step = "any" }) {
    const input = this.fields[name] = el("input", { name, type: "number", value, min, max, step, required: value === "" ? null : "" });
    return el("label", {}, label, input);
  }

  text(name, label, placeholder) {
    const input = this.fields[name] = el("input", { name, type: "text", placeholder, autocomplete: "off" });
    return el("label", {}, label, input);
  }

  objectives() {
    const pipeline = this.tools.pipelines.get(this.fields.pipeline.value);
    this.fields.objective.replaceChildren(...Object.keys(pipeline?.objectives ?? {}).map((each) => el("option", { value: each, selected: each === pipeline.default_objective ? "" : null }, each)));
  }

  body() {
    const chosen = this.policies.filter((box) => box.checked).map((box) => box.value);
    const policies = chosen.length > 1 ? { policies: chosen } : { policy: chosen[0] ?? "ours" };
    const words = ["pipeline", "workload", "objective", "spacing"].map((name) => [name, this.fields[name].value]);
    const numbers = ["minutes", "times", "seed", "repeats", "capacity_cores"].filter((name) => this.fields[name].value !== "").map((name) => [name, Number(this.fields[name].value)]);
    const counts = this.fields.accelerators.value.split(",").map((each) => each.trim()).filter(Boolean).map(count);
    return { ...policies, ...Object.fromEntries([...words.filter(([, value]) => value), ...numbers, ...(counts.length ? [["accelerators", Object.fromEntries(counts)]] : [])]) };
  }

  async start() {
    this.button.disabled = true;
    this.problem.replaceChildren();
    try {
      const { experiment_id: id } = await callApi("/v1/experiments", { method: "POST", body: this.body() });
      this.tools.say("Started");
      this.tools.go(formatRoute({ view: "experiments", path: [id] }));
    } catch (error) {
      this.problem.replaceChildren(refusal(error));
    }
    this.button.disabled = false;
  }
}

/** [kind, count] of "KIND=COUNT"; what is no number is left for the service to refuse. */
function count(text) {
  const at = text.lastIndexOf("=");
  const value = text.slice(at + 1).trim();
  return at < 0 ? [text, null] : [text.slice(0, at).trim(), value === "" || Number.isNaN(Number(value)) ? value : Number(value)];
}

// Experiments: simulations of a pipeline under a load, as jobs.

import { callApi } from "../api.js";
import { el, number, percent, when } from "../dom.js";
import { formatRoute } from "../router.js";
import { refusal, table } from "../tables.js";
import { Compared } from "./experiment-compare.js";
import { ExperimentForm } from "./experiment-form.js";
import { Experiment, isEnded, loadOf, policiesOf } from "./experiment.js";

export const title = "Experiments";

export async function open(root, { path: [id], query }, tools) {
  const ids = (query.get("ids") ?? "").split(",").filter(Boolean);
  const view = id === "compare" ? new Compared(root, ids, tools) : id ? new Experiment(root, id, tools) : new Experiments(root, query, tools);
  await view.update();
  return view;
}

class Experiments {
  constructor(root, query, tools) {
    Object.assign(this, { root, query, tools, closing: new AbortController() });
    this.chosen = new Set();
    this.compare = el("button", { type: "button", class: "button primary", disabled: "" }, "Compare");
    this.compare.addEventListener("click", () => tools.go(formatRoute({ view: "experiments", path: ["compare"], query: { ids: [...this.chosen].join(",") } })));
    this.list = el("section", { class: "card experiment", "aria-label": "All experiments" });
  }

  async update() {
    const found = await callApi("/v1/experiments", { signal: this.closing.signal });
    if (!this.form) {
      this.form = new ExperimentForm(found, this.query, this.tools);
      this.root.append(el("p", { class: "lede" }, "Try policies on a load before it comes: simulations in virtual time, which touch nothing that runs."), this.form.box, this.list);
    }
    const key = JSON.stringify(found.experiments);
    if (key === this.key) return;
    this.key = key;
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.of : null;
    this.list.replaceChildren(el("h2", {}, "Experiments"), ...(found.experiments.length
      ? [this.rows(found.experiments), el("p", { class: "command" }, this.compare, el("span", { class: "note" }, "Mark two or more that are done."))]
      : [el("p", { class: "empty" }, "There is no experiment yet. Start one above: its load, latency and cores over time appear here, policy beside policy.")]));
    // A moving bar must not take the focus.
    if (focused) this.list.querySelector(`[data-of="${focused}"]`)?.focus();
  }

  rows(experiments) {
    const figure = (text) => ({ text, figure: true });
    return table("Experiments", ["Experiment", "Policies", figure("In time"), figure("Cores"), "State", "Started", ""], experiments.map((one) => {
      const { asked, result } = one, count = policiesOf(asked).length;
      const each = (show) => one.policies.filter((it) => it.result).flatMap((it, at) => [at ? el("br") : "", show(it.result)]);
      return [el("span", { class: "marked" }, this.mark(one), el("a", { href: formatRoute({ view: "experiments", path: [one.experiment_id] }) }, `${asked.pipeline}, ${loadOf(asked)}`)),
        count > 1 && result ? one.policies.filter((it) => it.result).flatMap((it, at) => [at ? el("br") : "", it.policy]) : policiesOf(asked).join(", "),
        result ? each((it) => percent(1 - it.violation_ratio, 1)) : "", result ? each((it) => number(it.cores_mean, 2)) : "",
        isEnded(one) ? one.phase : el("span", {}, `${one.phase} ${one.percent} % `, el("progress", { class: "progress", max: "100", value: String(one.percent), "aria-label": `Experiment of ${asked.pipeline}` })),
        when(one.created_at), isEnded(one) ? "" : this.cancel(one)];
    }));
  }

  /** The box that chooses an experiment to be compared. */
  mark(one) {
    const box = el("input", { type: "checkbox", "aria-label": `Compare ${one.asked.pipeline}, ${loadOf(one.asked)}, ${when(one.created_at)}`, "data-of": `mark-${one.experiment_id}`, disabled: one.result ? null : "", checked: this.chosen.has(one.experiment_id) ? "" : null });
    box.addEventListener("change", () => {
      if (box.checked) this.chosen.add(one.experiment_id);
      else this.chosen.delete(one.experiment_id);
      this.compare.disabled = this.chosen.size < 2;
    });
    return box;
  }

  cancel(one) {
    const button = el("button", { type: "button", class: "button", "data-of": one.experiment_id }, "Cancel", el("span", { class: "hidden" }, ` the experiment of ${one.asked.pipeline}`));
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await callApi(`/v1/experiments/${one.experiment_id}:cancel`, { method: "POST" });
        this.tools.say("Cancelled");
        await this.update();
      } catch (error) {
        button.replaceWith(refusal(error));
      }
    });
    return button;
  }

  close() { this.closing.abort(); }
}

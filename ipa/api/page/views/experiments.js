// Experiments: simulations of a pipeline under a load, as jobs.

import { callApi } from "../api.js";
import { clock, el } from "../dom.js";
import { formatRoute } from "../router.js";
import { refusal, table } from "../tables.js";
import { ExperimentForm } from "./experiment-form.js";
import { Experiment, isEnded, loadOf } from "./experiment.js";

export const title = "Experiments";

export async function open(root, { path: [id], query }, tools) {
  const view = id ? new Experiment(root, id, tools) : new Experiments(root, query, tools);
  await view.update();
  return view;
}

class Experiments {
  constructor(root, query, tools) {
    Object.assign(this, { root, query, tools, closing: new AbortController() });
    this.list = el("section", { class: "card experiment", "aria-label": "All experiments" });
  }

  async update() {
    const found = await callApi("/v1/experiments", { signal: this.closing.signal });
    if (!this.form) {
      this.form = new ExperimentForm(found, this.query, this.tools);
      this.root.append(el("p", { class: "lede" }, "Simulations of a pipeline under a load in virtual time, as ", el("code", {}, "ipa simulate"), " runs them. They do not affect running pipelines. The service forgets experiments when it stops."), this.form.box, this.list);
    }
    const key = JSON.stringify(found.experiments);
    if (key === this.key) return;
    this.key = key;
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.of : null;
    this.list.replaceChildren(el("h2", {}, "Experiments"), found.experiments.length ? this.rows(found.experiments)
      : el("p", { class: "empty" }, "There is no experiment yet."));
    // A moving bar must not take the focus.
    if (focused) this.list.querySelector(`[data-of="${focused}"]`)?.focus();
  }

  rows(experiments) {
    return table("Experiments", ["Pipeline", "Load", "Policy", "State", "Started", { text: "", figure: false }], experiments.map((one) => {
      const { asked } = one;
      return [el("a", { href: formatRoute({ view: "experiments", path: [one.experiment_id] }) }, asked.pipeline), loadOf(asked), asked.policy ?? "ours",
        isEnded(one) ? one.phase : el("span", {}, `${one.phase} ${one.percent} % `, el("progress", { class: "progress", max: "100", value: String(one.percent), "aria-label": `Experiment of ${asked.pipeline}` })),
        clock(one.created_at), isEnded(one) ? "" : this.cancel(one)];
    }));
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

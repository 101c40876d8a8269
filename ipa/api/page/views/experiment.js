// Experiment: its progress and its results.

import { callApi } from "../api.js";
import { request } from "../auth.js";
import { el, plain, when } from "../dom.js";
import { save } from "../export.js";
import { formatRoute } from "../router.js";
import { refusal, terms } from "../tables.js";
import { Runs } from "./experiment-runs.js";

const ENDS = new Set(["done", "failed", "cancelled"]);

export const isEnded = (one) => ENDS.has(one.phase);

/** The requested load, in words. */
export function loadOf(asked) {
  const load = asked.workload ?? `${asked.rates_s ?? asked.rates_rps?.length ?? 0} s of own rates`;
  const parts = [asked.minutes === undefined || asked.minutes === null ? "" : `${plain(asked.minutes)} min`, (asked.times ?? 1) === 1 ? "" : `× ${plain(asked.times)}`];
  return [load, ...parts].filter(Boolean).join(", ");
}

function seedsOf({ seed = 0, repeats = 1 }) {
  return repeats > 1 ? ["Seeds", `${seed} to ${seed + repeats - 1}`] : ["Seed", String(seed)];
}

/** The policies of an experiment. */
export const policiesOf = (asked) => asked.policies ?? [asked.policy ?? "ours"];

export const curvesOf = (id, signal) => callApi(`/v1/experiments/${encodeURIComponent(id)}/curves`, { signal });

export class Experiment {
  constructor(root, id, tools) {
    Object.assign(this, { root, id, tools, closing: new AbortController() });
    this.box = el("section", { class: "card experiment", "aria-label": "The experiment" });
    root.append(el("nav", { class: "path", "aria-label": "Experiments" }, el("a", { href: "#/experiments" }, "← All experiments")), this.box);
  }

  async update() {
    if (this.shown && isEnded(this.shown)) return;
    const found = await callApi(`/v1/experiments/${encodeURIComponent(this.id)}`, { signal: this.closing.signal });
    if (JSON.stringify(found) === JSON.stringify(this.shown)) return;
    const isNews = this.shown && this.shown.phase !== found.phase;
    this.shown = found;
    this.draw(found);
    if (isNews) this.tools.say(`The experiment ${found.phase}`);
  }

  draw(one) {
    const { asked } = one;
    this.bar ??= el("progress", { class: "progress", max: "100", "aria-label": "Progress" });
    this.bar.value = one.percent;
    const about = terms([["Pipeline", el("a", { href: formatRoute({ view: "now", path: [asked.pipeline] }) }, asked.pipeline)], ["Load", loadOf(asked)], [policiesOf(asked).length > 1 ? "Policies" : "Policy", policiesOf(asked).join(", ")],
      ["Objective", asked.objective ?? null], seedsOf(asked), ["Asked at", when(one.created_at)], ["Ended at", one.ended_at ? when(one.ended_at) : null]]);
    const focused = this.box.contains(document.activeElement) ? document.activeElement.dataset.of : null;
    this.box.replaceChildren(el("h2", {}, `${one.phase[0].toUpperCase()}${one.phase.slice(1)}${isEnded(one) ? "" : `, ${one.percent} %`}`), about,
      ...(isEnded(one) ? [] : [this.bar, el("p", { class: "command" }, this.act("Cancel", "POST", ":cancel"))]),
      ...(one.fault ? [refusal({ message: one.fault.detail, hint: one.fault.hint })] : []),
      ...(one.report ? [this.report(one)] : []),
      ...(isEnded(one) ? [el("p", { class: "command" }, el("a", { href: formatRoute({ view: "experiments", query: { pipeline: asked.pipeline, workload: asked.workload, policy: policiesOf(asked).join(",") } }) }, "Start one like it"), this.act("Forget it", "DELETE", ""))] : []));
    // A moving bar must not take the focus.
    if (focused) this.box.querySelector(`[data-of="${focused}"]`)?.focus();
    if (one.result && !this.runs) this.drawRuns(one);
  }

  async drawRuns({ policies, experiment_id: id }) {
    this.runs = new Runs(this.root, `experiment-${id}`);
    const curves = await curvesOf(id, this.closing.signal);
    const of = (policy) => curves.runs.find((run) => run.policy === policy)?.curves ?? null;
    const { sla_s, percentile, runs: [first] } = curves;
    this.runs.show(policies.map((each) => ({ ...each, label: each.policy, curves: of(each.policy) })), {
      loads: [{ label: "sent", ...first.curves }], sla_s, percentile, compared: policies.some((each) => each.difference) ? first.policy : "",
    });
  }

  /** To look at where the service asks nobody who they are: a link does not say it. And to keep. */
  report({ report }) {
    const kept = [["HTML", "html"], ["Markdown", "md"], ["JSON", "json"]].map(([text, as]) => {
      const button = el("button", { type: "button", class: "button" }, text);
      button.addEventListener("click", () => this.keep(`${report}?as=${as}`, `experiment-${this.id}.${as}`));
      return button;
    });
    const link = el("a", { href: report, target: "_blank", rel: "noopener" }, "Open the report", el("span", { class: "hidden" }, " in another tab"));
    return el("p", { class: "command", role: "group", "aria-label": "The report" }, this.tools.me.name ? "" : link, el("span", {}, "Save the report as"), kept);
  }

  async keep(address, file) {
    const answer = await request(address, { signal: this.closing.signal });
    if (!answer.ok) return this.tools.say("The report is not there any more.");
    save(await answer.blob(), file);
    return this.tools.say(`${file} is kept`);
  }

  act(text, method, suffix) {
    const button = el("button", { type: "button", class: "button", "data-of": text }, text);
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await callApi(`/v1/experiments/${encodeURIComponent(this.id)}${suffix}`, { method });
        if (method === "DELETE") this.tools.go("#/experiments");
        else await this.update();
      } catch (error) {
        button.replaceWith(refusal(error));
      }
    });
    return button;
  }

  close() {
    this.closing.abort();
    this.runs?.close();
  }
}

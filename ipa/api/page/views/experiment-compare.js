// Several experiments side by side.

import { callApi } from "../api.js";
import { el } from "../dom.js";
import { formatRoute } from "../router.js";
import { Runs } from "./experiment-runs.js";
import { curvesOf, loadOf } from "./experiment.js";

export class Compared {
  constructor(root, ids, tools) {
    Object.assign(this, { root, ids, tools, closing: new AbortController() });
    root.append(el("nav", { class: "path", "aria-label": "Experiments" }, el("a", { href: "#/experiments" }, "← All experiments")));
  }

  /** Reads them once: those that are compared have ended. */
  async update() {
    if (this.runs) return;
    const { signal } = this.closing;
    const found = await Promise.all(this.ids.map((id) => callApi(`/v1/experiments/${encodeURIComponent(id)}`, { signal })));
    const curves = await Promise.all(found.map((one) => (one.report ? curvesOf(one.experiment_id, signal) : null)));
    const isMixed = new Set(found.map((one) => one.asked.pipeline)).size > 1;
    const isSown = new Set(found.map((one) => one.asked.seed)).size > 1;
    const nameOf = ({ asked }) => [isMixed ? asked.pipeline : "", loadOf(asked), isSown ? `seed ${asked.seed ?? 0}` : ""].filter(Boolean).join(", ");
    const runs = found.flatMap((one, at) => one.policies.map((each) => ({ ...each, difference: null, load: nameOf(one), label: `${each.policy} · ${nameOf(one)}`, curves: curves[at]?.runs.find((run) => run.policy === each.policy)?.curves ?? null })));
    const slas = new Set(curves.filter(Boolean).map((each) => each.sla_s));
    this.root.append(el("p", { class: "lede" }, "From ", found.flatMap((one, at) => [at ? ", " : "", el("a", { href: formatRoute({ view: "experiments", path: [one.experiment_id] }) }, `${one.asked.pipeline} under ${nameOf(one)}`)]), "."));
    this.runs = new Runs(this.root, "experiments");
    this.runs.show(runs, {
      loads: found.flatMap((one, at) => (curves[at] ? [{ label: nameOf(one), ...curves[at].runs[0].curves }] : [])),
      sla_s: slas.size === 1 ? [...slas][0] : null, percentile: curves.find(Boolean)?.percentile,
    });
  }

  close() {
    this.closing.abort();
    this.runs?.close();
  }
}

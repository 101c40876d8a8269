// The fleet at a glance: the pipelines that need somebody, and where cores and latency are.

import { el, percent } from "../dom.js";
import { Figure } from "../figure.js";
import { formatRoute } from "../router.js";
import { reasonTitle } from "../reasons.js";

// As many bars as have room for their names, and as many lines as are read.
const MOST_BARS = 12;
const MOST_LINES = 6;
const NEAR = 0.85;

const share = (one) => (one.latency_s === null ? 0 : one.latency_s / one.sla_s);
const used = (one) => (one.cores === null || !one.budget_cores ? 0 : one.cores / one.budget_cores);

/** What is wrong with a pipeline, or soon may be: [severity, words]; null if nothing is. */
function concern(one) {
  const words = [one.healthy ? "" : one.slo_broken ? "SLO broken" : one.rate_rps === null ? "not seen" : "degraded", !one.healthy && one.reason ? reasonTitle(one.reason).toLowerCase() : "", share(one) > NEAR ? `latency ${percent(share(one))} of its SLA` : "", used(one) > NEAR ? `${percent(used(one))} of its cores in use` : ""].filter(Boolean);
  return words.length ? [(one.healthy ? 0 : 4) + (share(one) > 1 ? 2 : 0) + share(one), words.join("; ")] : null;
}

export class Overview {
  constructor(parent) {
    this.attention = el("section", { class: "card attention", "aria-label": "Needs attention" });
    this.plots = el("div", { class: "charts" });
    parent.append(this.attention, this.plots);
    this.cores = new Figure(this.plots, { id: "cores", title: "Cores in use and budgets", unit: "cores", short: true });
    this.latency = new Figure(this.plots, { id: "latency", title: "Latency as a share of the SLA", unit: "%", short: true });
  }

  show(pipelines) {
    const found = pipelines.map((one) => [one, concern(one)]).filter(([, it]) => it).sort(([, [one]], [, [other]]) => other - one);
    const lines = found.slice(0, MOST_LINES).map(([one, [severity, words]]) => el("li", { class: severity >= 1 ? "over" : "near" }, el("a", { href: formatRoute({ view: "now", path: [one.pipeline] }) }, one.pipeline), ` ${words}`));
    const more = found.length - lines.length;
    this.attention.hidden = !pipelines.length;
    this.attention.replaceChildren(...(found.length ? [el("h2", {}, `${found.length === 1 ? "One needs" : `${found.length} need`} attention`), el("ul", {}, lines), more > 0 ? el("p", { class: "note" }, `and ${more} more: sort the table by health or by its share of the SLA`) : ""]
      : [el("p", {}, `${pipelines.length === 1 ? "The pipeline is" : `All ${pipelines.length} pipelines are`} healthy, below ${percent(NEAR)} of SLA and budget.`)]));
    const largest = pipelines.filter((one) => one.cores !== null).sort((one, other) => other.cores - one.cores).slice(0, MOST_BARS);
    const latest = pipelines.filter((one) => one.latency_s !== null).sort((one, other) => share(other) - share(one)).slice(0, MOST_BARS);
    const names = (all) => all.map((one) => one.pipeline);
    const among = (all) => (all.length === pipelines.length ? "" : all.length < MOST_BARS ? `${all.length} of ${pipelines.length}, the others are unknown` : `the ${MOST_BARS} highest of ${pipelines.length}`);
    this.cores.show({ y_title: among(largest), empty: "The running configuration is unknown.", series: [
      { name: "in use", kind: "bars", colour: "blue", x: names(largest), y: largest.map((one) => one.cores) },
      { name: "budget", kind: "bars", colour: "grey", x: names(largest), y: largest.map((one) => one.budget_cores) }] });
    this.latency.show({ y_title: among(latest), empty: "No latency was observed.", limit: { name: "SLA", value: 100 }, y_max: Math.min(Math.max(115, ...latest.map((one) => 110 * share(one))), 300),
      series: [{ name: "latency", kind: "bars", colour: "teal", x: names(latest), y: latest.map((one) => 100 * share(one)) }] });
  }

  close() {
    this.cores.close();
    this.latency.close();
  }
}

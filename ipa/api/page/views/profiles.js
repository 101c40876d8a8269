// Profiles: the measurements of a stage's variants, the fits that plans use, and their errors.

import { callApi } from "../api.js";
import { el, number, percent, plain, sentence } from "../dom.js";
import { Figure } from "../figure.js";
import { coresOf } from "../parts.js";
import { formatRoute } from "../router.js";
import { figure, seconds, table, terms } from "../tables.js";

export const title = "Profiles";
const COLOURS = ["blue", "teal", "amber", "violet", "red", "grey"];
const DAY_MS = 86400000;
const UNMEASURED = "not measured";
const unique = (values) => [...new Set(values)].sort((one, other) => one - other);

export async function open(root, { path: [name, asked], query }, tools) {
  const pipeline = tools.pipelines.get(name);
  const stages = pipeline.stages.filter((each) => each.variants.length).map((each) => each.stage);
  const stage = asked ?? stages[0];
  if (!stages.includes(stage)) {
    root.append(el("div", { class: "card empty" }, el("p", {}, `${name} has no stage ${stage}. It has: `, stages.flatMap((each) => [linkTo(name, each), " "]))));
    return {};
  }
  const closing = new AbortController();
  const path = `/v1/pipelines/${encodeURIComponent(name)}/profiles/${encodeURIComponent(stage)}`;
  const [profile, fits] = await Promise.all([callApi(path, { signal: closing.signal }), callApi(`${path}/fits`, { signal: closing.signal })]);
  const view = new Profiles(root, { name, stage, stages, profile, fits, query, tools, sla_s: pipeline.sla_s });
  return { close: () => { closing.abort(); view.close(); } };
}

const linkTo = (name, stage, current) => el("a", { href: formatRoute({ view: "profiles", path: [name, stage] }), "aria-current": current ? "true" : null }, stage);

class Profiles {
  constructor(root, facts) {
    Object.assign(this, facts);
    const names = this.profile.variants.map((each) => each.variant);
    const wanted = this.query.get("variant");
    this.set = { variant: names.includes(wanted) ? wanted : names[0], batch: this.query.get("batch") ?? "" };
    const parts = { stage: this.stage, name: this.name };
    this.pickers = el("div", { class: "pickers" });
    const plots = el("div", { class: "pair" });
    this.fit = el("section", { class: "card fit", "aria-label": "Fits of one variant" });
    root.append(el("nav", { class: "path", "aria-label": "Stages" }, "Stage: ", this.stages.map((each) => linkTo(this.name, each, each === this.stage))),
      this.doubts(), this.origin(), this.variants(), this.pickers, plots, this.fit);
    const make = (id, title, unit, note) => new Figure(plots, { id, title, unit, note, file: `${parts.name}-${parts.stage}-${id}` });
    this.figures = {
      batch: make("over-batch", "Latency over batch size", "ms", "Points are measured, lines are the fits that plans use."),
      cores: make("over-cores", "Latency over cores", "ms", "Plans use only the measured numbers of cores."),
      residuals: make("residuals", "Error of the fit", "%", "Relative to the measured latency. Above zero, the fit is slower."),
      accuracy: make("trade", "Accuracy and speed of the variants", "accuracy", "At the cores and batch size with the most items per second per core. Up and to the right is better."),
    };
    this.pick("variant", "Variant", names);
    this.pick("batch", "Batch size of the second figure", unique(this.profile.variants.flatMap((each) => each.points.map((point) => point.batch_size))));
    this.draw();
  }

  /** The reasons for which the profile cannot be believed, and the remedy. */
  doubts() {
    const text = this.fits.doubts.join("; "), [words, command] = this.fits.remedy.split(/(?=ipa profile )/u);
    return text ? el("p", { class: "banner warn" }, el("b", {}, "Not credible"),
      el("span", {}, `${sentence(text)}. ${sentence(words)}`, el("code", {}, command))) : "";
  }

  /** One sentence, and behind it how it was measured. */
  origin() {
    const { profile, fits } = this;
    const days = Math.max(0, Math.floor((Date.now() - Date.parse(profile.measured_on)) / DAY_MS));
    const points = profile.variants.reduce((sum, each) => sum + each.points.length, 0);
    const all = fits.variants.flatMap((each) => each.fits.map((fit) => ({ ...fit, variant: each.variant })));
    const worst = all.reduce((one, other) => (other.max_error_ratio > one.max_error_ratio ? other : one), all[0]);
    const age = days === 0 ? "today" : days === 1 ? "yesterday" : days < 90 ? `${days} days ago` : days < 700 ? `${Math.round(days / 30)} months ago` : `${Math.round(days / 365)} years ago`;
    return el("section", { class: "card inputs origin", "aria-label": "Where it was measured" },
      el("p", {}, `${profile.variants.length} variants measured at ${points} points `, el("b", {}, age), ` (${profile.measured_on}) on ${profile.hardware}; `,
        worst ? `the worst fit is off by ${percent(worst.max_error_ratio, 1)} (${worst.variant} on ${coresOf(worst.cores)}).` : "there is no fit."),
      el("details", {}, el("summary", {}, "How it was measured"), terms([["Method", profile.method], ["Source", profile.source || null],
        ["Load while measuring", profile.load_rps === null ? null : `${plain(profile.load_rps)} rps`]])));
  }

  pick(name, label, choices) {
    const id = `profiles-${name}`;
    const choose = () => {
      this.set[name] = select.value;
      this.tools.replace(this.set);
      this.draw();
    };
    const select = el("select", { id, onchange: choose }, choices.map((each) => el("option", { value: String(each), selected: String(each) === this.set[name] ? "" : null }, String(each))));
    if (!choices.map(String).includes(this.set[name])) this.set[name] = select.value = String(choices[0]);
    this.pickers.append(el("label", { for: id }, label, select));
  }

  draw() {
    const measured = this.profile.variants.find((each) => each.variant === this.set.variant);
    const { fits } = this.fits.variants.find((each) => each.variant === this.set.variant);
    const on = (cores) => measured.points.filter((point) => point.cores === cores).sort((one, other) => one.batch_size - other.batch_size);
    const colour = (index) => COLOURS[index % COLOURS.length];
    this.figures.batch.show({
      x_title: "batch size", ...this.axis(measured.points),
      series: fits.flatMap((fit, index) => [
        { name: `fit on ${coresOf(fit.cores)}`, kind: "line", colour: colour(index), ...curve(fit) },
        { name: `measured on ${coresOf(fit.cores)}`, kind: "points", beyond: true, colour: colour(index), x: on(fit.cores).map((it) => it.batch_size), y: on(fit.cores).map((it) => 1000 * it.latency_s) },
      ]),
    });
    this.figures.residuals.show({
      x_title: "batch size",
      series: fits.map((fit, index) => ({
        name: coresOf(fit.cores), kind: "points", colour: colour(index), x: fit.batch_sizes,
        y: on(fit.cores).map((it, at) => 100 * (fit.latencies_s[at] / it.latency_s - 1)),
      })),
    });
    this.drawCores();
    this.drawTrade();
    this.drawFits(measured, fits);
  }

  /** The axis of latencies: it ends at the SLA if any comes near it or is above it. */
  axis(points) {
    const sla = 1000 * this.sla_s, most = 1000 * Math.max(...points.map((it) => it.latency_s));
    if (most < 0.5 * sla) return {};
    return { limit: { name: `SLA of the pipeline, ${seconds(this.sla_s)}`, value: sla }, ...(most > sla ? { y_max: 1.15 * sla } : {}) };
  }

  drawCores() {
    const batch = Number(this.set.batch);
    this.figures.cores.show({
      x_title: `cores of a replica, at batches of ${batch}`,
      empty: `No variant was measured at batches of ${batch}.`,
      ...this.axis(this.profile.variants.flatMap((each) => each.points.filter((it) => it.batch_size === batch))),
      series: this.profile.variants.map((variant, index) => {
        const points = variant.points.filter((it) => it.batch_size === batch).sort((one, other) => one.cores - other.cores);
        return { name: variant.variant, kind: "line", beyond: true, colour: COLOURS[index % COLOURS.length], x: points.map((it) => it.cores), y: points.map((it) => 1000 * it.latency_s) };
      }).filter((each) => each.x.length),
    });
  }

  drawTrade() {
    const best = this.profile.variants.map((variant) => ({ variant, rate: Math.max(...variant.points.map((it) => perCore(it))) }));
    this.figures.accuracy.show({
      x_title: "items a second for each core",
      series: [{ name: "variants", kind: "points", x: best.map(({ rate }) => rate), y: best.map(({ variant }) => variant.accuracy), labels: best.map(({ variant }) => variant.variant), text: best.map(({ variant }) => variant.variant) }],
    });
  }

  drawFits(measured, fits) {
    this.fit.replaceChildren(el("h2", {}, `Fits of ${measured.variant}`), table(`Fits of ${measured.variant}`,
      ["Cores", "Form", figure("Batches"), figure("R²"), figure("Worst error"), figure("Leave-one-out error"), figure("Latency at 1st and last")],
      fits.map((fit) => [plain(fit.cores), fit.form, `${fit.batch_min} to ${fit.batch_max}`, number(fit.r2_ratio, 3), percent(fit.max_error_ratio, 1), percent(fit.loo_error_ratio, 1),
        `${seconds(fit.latencies_s[0])} to ${seconds(fit.latencies_s.at(-1))}`])));
  }

  variants() {
    const worst = (name) => Math.max(...this.fits.variants.find((each) => each.variant === name).fits.map((fit) => fit.max_error_ratio));
    const range = (values) => (values.length === 1 ? plain(values[0]) : `${plain(values[0])} to ${plain(values.at(-1))}`);
    // Without the columns that no variant has.
    const has = (name) => this.profile.variants.some((each) => each[name] !== null);
    const ready = has("readiness_s"), memory = has("memory_gib");
    return el("section", { class: "card fit", "aria-label": "All variants" }, el("h2", {}, `Variants of ${this.stage}`), table("Variants",
      ["Variant", figure("Accuracy"), figure("Points"), figure("Cores"), figure("Batches"), figure("Worst error of a fit"), ...(ready ? [figure("Ready in")] : []), ...(memory ? [figure("Memory")] : [])],
      this.profile.variants.map((each) => [each.variant, number(each.accuracy, 3), String(each.points.length), range(unique(each.points.map((it) => it.cores))),
        range(unique(each.points.map((it) => it.batch_size))), percent(worst(each.variant), 1), ...(ready ? [each.readiness_s === null ? UNMEASURED : seconds(each.readiness_s)] : []), ...(memory ? [each.memory_gib === null ? UNMEASURED : `${plain(each.memory_gib)} GiB`] : [])])));
  }

  close() {
    for (const figure of Object.values(this.figures)) figure.close();
  }
}

/** The fit at 33 batch sizes of its domain. */
function curve({ coefficients: [c0, c1, c2], batch_min, batch_max }) {
  const x = batch_min === batch_max ? [batch_min] : Array.from({ length: 33 }, (_, index) => batch_min + ((batch_max - batch_min) * index) / 32);
  return { x, y: x.map((batch) => 1000 * (c0 + c1 * batch + c2 * batch ** 2)) };
}

const perCore = (point) => (point.throughput_rps ?? point.batch_size / (point.latency_mean_s ?? point.latency_s)) / point.cores;

// The list of decisions: changes, reasons, and links.

import { el, when } from "./dom.js";
import { chip, coresOf } from "./parts.js";
import { formatRoute } from "./router.js";

/** The decisions, newest first; a run of equal holds is one row. */
export function decisions(list, withHolds) {
  const rows = [];
  for (const decision of list) {
    const last = rows[rows.length - 1];
    if (decision.action === "hold" && !withHolds) continue;
    if (last && decision.action === "hold" && last.decision.reason === decision.reason) last.count += 1;
    else rows.push({ decision, count: 1 });
  }
  if (!rows.length) return [el("li", { class: "empty" }, "Nothing was changed yet.")];
  return rows.map(({ decision, count }) => row(decision, count));
}

function row(decision, count) {
  const [verb, word] = decision.reason.split(".");
  const kind = verb === "apply" ? (word === "rollback" ? "bad" : "good") : "";
  const changes = decision.action === "apply" ? decision.configs.flatMap((config) => change(config, decision.previous)) : [];
  return el("li", {},
    el("time", { datetime: decision.at }, when(decision.at), el("span", { class: "tick" }, `tick ${decision.tick}`)),
    el("a", { href: formatRoute({ view: "decision", path: [decision.decision_id] }) }, chip(kind, `${word.replaceAll("_", " ")}${count > 1 ? ` ×${count}` : ""}`, decision.reason)),
    el("div", {}, changes.length ? el("div", { class: "change" }, changes) : "", el("div", { class: "detail" }, remark(decision))));
}

/** The detail without the changes, which are shown above it. */
function remark({ detail, configs, previous, action }) {
  if (action !== "apply") return detail;
  const text = (config) => (config ? `${config.stage}=${words(config).join(" ")}` : "nothing");
  const told = configs.map((config) => `${text(before(config, previous))} → ${text(config)}`)
    .filter((line) => detail.includes(line)).join(", ");
  return (told ? detail.replace(told, "") : detail).replace(/;\s*;/, ";").replace(/[\s:;,]+$/, "");
}

function change(config, previous) {
  const old = before(config, previous);
  const [was, is] = [old ? words(old) : [], words(config)];
  if (was.join() === is.join()) return [];
  const parts = is.flatMap((word, index) => (word === was[index] ? [`${word} `]
    : [old ? el("del", {}, `${was[index]} → `) : "", el("ins", {}, word), " "]));
  return [el("code", {}, `${config.stage}: `, ...parts)];
}

/** The configuration it replaces: of the same variant, or of the stage if that has a single one. */
function before(config, previous) {
  const others = previous.filter((other) => other.stage === config.stage);
  const same = others.find((other) => other.variant === config.variant);
  return same ?? (others.length === 1 && config.share_percent === 100 ? others[0] : undefined);
}

const words = (config) => [config.variant, `b${config.batch_size}`, `${config.replicas}×${coresOf(config.cores)}`,
  ...(config.share_percent === 100 ? [] : [`for ${config.share_percent} %`])];

// Helpers for elements and numbers.

const SVG = "http://www.w3.org/2000/svg";
const SHAPES = new Set(["svg", "path", "line", "circle", "rect", "text", "g", "clipPath", "title"]);

/**
 * Creates an element with attributes and children; text is never parsed as markup. A function is the listener of
 * the event that its name has after "on"; a form is not sent by the browser.
 */
export function el(tag, attributes = {}, ...children) {
  const node = SHAPES.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  if (tag === "form") node.addEventListener("submit", (event) => event.preventDefault());
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

/** The text of a number with a true minus sign. */
export const minus = (text) => String(text).replaceAll("-", "−");

/** The number with `digits` decimals; a dash if it is missing. */
export function number(value, digits = 1) {
  return value === null || value === undefined ? "–" : minus(value.toFixed(digits));
}

/** The number with at most two decimals and no trailing zeros; a dash if it is missing. */
export function plain(value) {
  return value === null || value === undefined ? "–" : minus(Math.round(value * 100) / 100);
}

/** The share in percent, with `digits` decimals; a dash if it is missing. */
export function percent(ratio, digits = 0) {
  return ratio === null || ratio === undefined ? "–" : `${number(100 * ratio, digits)} %`;
}

const LONG = /(?<![\w.-])([≥≤] )?(\d+\.(?:\d{3,}|\d{2}(?= rps)))(?![\w.]* ?%)(?![\w-])(?=( rps)?)/g;

/**
 * A sentence of the service with its numbers rounded: rates to a tenth, others to three digits, limits to the side
 * on which they hold. Minus signs are true ones. Names such as v6-240 stay.
 */
export function people(text) {
  return text.replace(/(^|[\s(,])-(?=\d)/g, "$1−").replace(LONG, (_, sign, digits, unit) => {
    const value = Number(digits), decimals = unit && value >= 1 ? 1 : Math.max(2 - Math.floor(Math.log10(value || 1)), 0);
    const scale = 10 ** decimals, near = value * scale;
    const whole = sign === "≥ " ? Math.ceil(near - 1e-9) : sign === "≤ " ? Math.floor(near + 1e-9) : Math.round(near);
    return `${sign ?? ""}${Number((whole / scale).toFixed(decimals))}`;
  });
}

/** [value, unit]: seconds below one are in milliseconds. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return ["–", ""];
  return seconds < 1 ? [(seconds * 1000).toFixed(0), "ms"] : [seconds.toFixed(2), "s"];
}

/** The duration as [value, element with its unit]. */
export function timed(seconds) {
  const [value, unit] = duration(seconds);
  return [value, el("small", {}, ` ${unit}`)];
}

let clocks = null;

/** The local time of day, from 00:00:00 to 23:59:59. */
export function clock(at) {
  // Made at the first call: it takes longer than all that it formats.
  clocks ??= new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  return clocks.format(new Date(at));
}

/** The month and day, with the year unless it is this one. */
export function day(at) {
  const then = new Date(at), year = then.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
  return then.toLocaleDateString([], { month: "short", day: "numeric", ...year });
}

/** The time of day, with the date unless it is today. */
export const when = (at) => (new Date(at).toDateString() === new Date().toDateString() ? clock(at) : `${day(at)} ${clock(at)}`);

/** The text with its first letter large. */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** A bar filled to `ratio`. */
export function meter(ratio, kind) {
  const width = Math.max(0, Math.min(ratio ?? 0, 1)) * 100;
  return el("div", { class: "meter" },
    el("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
      el("rect", { class: `fill ${kind}`, width, height: 6 })));
}

/**
 * Returns put(node, facts, make): fills `node` with the result of `make`, only if `facts` have changed.
 * A link that has the focus keeps it.
 */
export function putter() {
  const shown = new Map();
  return (node, facts, make) => {
    const key = JSON.stringify(facts);
    if (shown.get(node) === key) return false;
    shown.set(node, key);
    const focused = node.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    node.replaceChildren(...[make()].flat());
    if (focused) [...node.querySelectorAll("a[href]")].find((link) => link.getAttribute("href") === focused)?.focus();
    return true;
  };
}

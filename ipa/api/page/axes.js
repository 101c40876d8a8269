// The axes of a chart: kinds, ranges and ticks.

import { clock, day, minus, plain } from "./dom.js";

const TIME = /^\d{4}-\d\d-\d\dT/;
const DAY_MS = 86400000;
const STEPS_MS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200].map((s) => s * 1000);

// A prediction of this many times the highest observed value is a mark at the top of the figure.
const ABSURD = 2;

/** The x axis of the series: {kind, place(x) → number, from, to}. */
export function xAxis(series, range) {
  const all = series.flatMap((one) => one.x);
  const first = all.find((x) => x !== null && x !== undefined);
  const kind = isTime(first) ? "time" : "number";
  const place = kind === "time" ? (x) => (typeof x === "number" ? x : Date.parse(x)) : Number;
  const [low, high] = extent(all.map(place));
  const from = range ? place(range[0]) : low, to = range ? place(range[1]) : high;
  return { kind, place, from, to: to > from ? to : from + 1 };
}

/**
 * The y axis: from zero or the lowest negative value to a round number above all values. Values of series that may
 * go `beyond` count only if they are not absurd beside the others.
 */
export function yAxis(series, { y_min: floor, y_max: ceiling, limit }) {
  const of = (some) => some.flatMap((one) => [...(one.y ?? []), ...(one.lower ?? []), ...(one.upper ?? [])]).filter(isNumber);
  const sure = [0, ...of(series.filter((one) => !one.beyond)), limit ? limit.value * 1.12 : 0];
  const most = ABSURD * extent(sure)[1] || Infinity;
  const [low, high] = extent([...sure, ...of(series.filter((one) => one.beyond)).filter((value) => value <= most)]);
  return { from: floor ?? (low < 0 ? -round(-low * 1.06) : 0), to: ceiling ?? round(high * 1.06 || 1) };
}

/** True if it is a time in the service's format. */
export const isTime = (value) => typeof value === "string" && TIME.test(value);

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (!isNumber(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low > high ? [0, 1] : [low, high];
}

/** The next round number, so that the axis does not jump with every sample. */
function round(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return ([1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8].find((step) => step * unit >= value * 0.9999) ?? 10) * unit;
}

/** About `most` ticks of an axis of numbers. */
export function numberTicks({ from, to }, most) {
  const raw = (to - from) / Math.max(most, 1), unit = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 2.5, 5].find((each) => each * unit >= raw) ?? 10) * unit;
  const begin = Math.ceil(from / step - 1e-6), count = Math.floor(to / step + 1e-6) - begin + 1;
  return Array.from({ length: Math.max(count, 0) }, (_, index) => (begin + index) * step);
}

/** Ticks at times that are round in the reader's time zone. */
export function timeTicks({ from, to }, most) {
  const step = STEPS_MS.find((each) => (to - from) / each <= most) ?? DAY_MS * Math.ceil((to - from) / DAY_MS / most);
  const zone = new Date(from).getTimezoneOffset() * 60000;
  const found = [];
  for (let t = Math.ceil((from - zone) / step) * step + zone; t <= to; t += step) found.push(t);
  return found;
}

/** The text of an x; a time is `exact` with its seconds. */
export function readX({ kind, from, to }, value, exact = false) {
  if (kind === "number") return readY(value);
  return `${to - from > DAY_MS ? `${day(value)} ` : ""}${exact ? clock(value) : clock(value).slice(0, 5)}`;
}

/** The number with its significant digits. */
export function readY(value) {
  if (value === Infinity) return "without bound";
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000000) return `${plain(value / 1000000)} M`;
  if (size >= 100 || size === 0) return minus(value.toFixed(0));
  return minus(Number(value.toPrecision(3)));
}

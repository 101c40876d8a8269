// The exports of a figure: its numbers as rows and CSV, its picture as PNG.

import { isTime } from "./axes.js";
import { el } from "./dom.js";

const TYPES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "opacity", "fill-opacity",
  "font-size", "font-weight", "font-family"];
const SCALE = 2, MARGIN = 16, HEAD = 44;

/** The figure's numbers: {head: [names with units], rows: [[x, …]]}, a row for each x. */
export function tableOf({ series, x_title: title, marks = [] }, unit) {
  const columns = series.flatMap((one) => columnsOf(one, one.unit ?? unit));
  const rows = new Map();
  for (const column of columns) {
    const times = new Map();
    column.x.forEach((x, index) => {
      // Points may share an x: each has its row.
      const count = times.get(x) ?? 0;
      times.set(x, count + 1);
      const key = `${x} ${count}`;
      if (!rows.has(key)) rows.set(key, { x, cells: new Map() });
      rows.get(key).cells.set(column, column.values[index]);
    });
  }
  const first = series.find((one) => one.x.length)?.x[0];
  const sorted = [...rows.values()];
  if (isTime(first) || typeof first === "number") sorted.sort((a, b) => (a.x < b.x ? -1 : a.x > b.x ? 1 : 0));
  const marked = new Map(marks.map(({ x, text }) => [x, text]));
  const head = [title || (isTime(first) ? "time" : "x"), ...columns.map((column) => column.name), ...(marks.length ? ["change"] : [])];
  return { head, rows: sorted.map(({ x, cells }) => [x, ...columns.map((column) => cells.get(column) ?? null), ...(marks.length ? [marked.get(x) ?? null] : [])]) };
}

function columnsOf(one, unit) {
  const named = (part) => [one.name, part].filter(Boolean).join(" ") + (unit ? ` (${unit})` : "");
  return [...(one.y ? [{ name: named(""), x: one.x, values: one.y }] : []),
    // A band that begins at its own line has no separate lower end.
    ...(one.lower && one.lower !== one.y ? [{ name: named("lower"), x: one.x, values: one.lower }] : []),
    ...(one.upper ? [{ name: named("upper"), x: one.x, values: one.upper }] : []),
    ...(one.text ? [{ name: `${one.name} text`, x: one.x, values: one.text }] : [])];
}

/** CSV by RFC 4180. Text that a spreadsheet would run as a formula is escaped. */
export function csv({ head, rows }) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(value);
    const text = /^[=+@\t\r-]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [head, ...rows].map((row) => row.map(cell).join(",")).join("\r\n").concat("\r\n");
}

/** The chart as a PNG, with its title and its legend. */
export async function png(svg, title, legend) {
  const { clientWidth: width, clientHeight: height } = svg;
  const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name).trim();
  const copy = svg.cloneNode(true);
  const originals = [svg, ...svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((node, index) => {
    const seen = getComputedStyle(originals[index]);
    // As attributes, since styles do not apply inside the image.
    for (const name of TYPES) node.setAttribute(name, seen.getPropertyValue(name));
    for (const name of ["class", "tabindex"]) node.removeAttribute(name);
  });
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  const source = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  const picture = new Image();
  picture.src = source;
  await picture.decode();
  const canvas = el("canvas", { width: (width + 2 * MARGIN) * SCALE, height: (height + HEAD + MARGIN) * SCALE });
  const to = canvas.getContext("2d");
  const font = getComputedStyle(document.body).fontFamily;
  to.scale(SCALE, SCALE);
  to.fillStyle = colour("--card");
  to.fillRect(0, 0, canvas.width, canvas.height);
  to.fillStyle = colour("--text");
  to.font = `600 14px ${font}`;
  to.fillText(title, MARGIN, 24);
  to.font = `12px ${font}`;
  let right = width + MARGIN;
  for (const [name, kind] of [...legend].reverse()) {
    right -= to.measureText(name).width;
    to.fillStyle = colour("--soft");
    to.fillText(name, right, 24);
    to.fillStyle = colour(`--${kind}`);
    to.fillRect(right - 18, 19, 12, 3);
    right -= 34;
  }
  to.drawImage(picture, MARGIN, HEAD - 8, width, height);
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
}

/** Downloads it as a file. */
export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = el("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

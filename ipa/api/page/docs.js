// The API's documentation, made from its OpenAPI document: operations by group, each with a form that tries it.

import { request } from "./auth.js";
import { newKey } from "./confirm-dialog.js";
import { el } from "./dom.js";

// What is shown of an answer, and how long a stream is read.
const MOST_CHARACTERS = 100000;
const STREAM_MS = 3000;
const spec = await (await fetch("/openapi.json")).json();
let first = null;

function resolve(schema) {
  return schema?.$ref ? spec.components.schemas[schema.$ref.split("/").pop()] : schema;
}

/** A schema in one line: the type, or the name of the object. */
function short(schema) {
  if (!schema) return "nothing";
  if (schema.$ref) return resolve(schema).enum ? short(resolve(schema)) : schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(short).join(" | ");
  if (schema.type === "array") return `${short(schema.items ?? {})}[]`;
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  return schema.type ?? "any";
}

/** The fields of an object, objects within it indented. */
function fields(schema, depth = 0, seen = []) {
  const found = resolve(schema);
  if (!found?.properties || depth > 3) return [];
  return Object.entries(found.properties).flatMap(([name, part]) => {
    const inner = part.$ref ?? part.items?.$ref ?? part.anyOf?.find((each) => each.$ref)?.$ref;
    const more = inner && !seen.includes(inner) ? fields({ $ref: inner }, depth + 1, [...seen, inner]) : [];
    const star = found.required?.includes(name) ? "" : "?";
    return [`${"  ".repeat(depth)}${name}${star}: ${short(part)}`, ...more];
  });
}

function block(title, schema) {
  const lines = fields(schema);
  return [el("h3", {}, `${title}: ${short(schema)}`), lines.length ? el("pre", { tabindex: "0" }, lines.join("\n")) : ""];
}

function operation(method, path, facts) {
  const [kind, content] = Object.entries(facts.requestBody?.content ?? {})[0] ?? [];
  const ok = Object.entries(facts.responses).find(([status]) => status.startsWith("2"));
  const answer = Object.values(ok?.[1].content ?? {})[0]?.schema;
  const parts = (facts.parameters ?? []).map((part) => el("li", {}, el("code", {}, part.name), ` in ${part.in}: ${short(part.schema)}${part.required ? "" : ", optional"}${part.description ? `: ${part.description}` : ""}`));
  const brief = (facts.description ?? facts.summary ?? "").split(/\.(?:\s|$)/)[0].replaceAll("`", "");
  const box = el("details", { class: "card", "data-words": `${method} ${path} ${facts.summary} ${facts.description}`.toLowerCase() },
    el("summary", {}, el("span", { class: `method ${method}` }, method.toUpperCase()), el("code", {}, path), el("span", {}, brief)));
  // Only what is opened is built: there are some fifty.
  box.addEventListener("toggle", () => {
    if (box.children.length > 1) return;
    box.append(...(facts.description ?? "").split("\n\n").map((text) => el("p", {}, ...text.split("`").map((part, at) => (at % 2 ? el("code", {}, part) : part)))), parts.length ? el("ul", { class: "parts" }, parts) : "",
      ...(content ? block("Body", content.schema) : []), answer ? el("details", {}, el("summary", {}, `Answer ${ok?.[0] ?? ""}: ${short(answer)}`), block("Fields", answer)) : "", new Trial(method, path, facts, kind, content).form);
  });
  return box;
}

/** The form that sends a request, and what came of it. */
class Trial {
  constructor(method, path, facts, kind, content) {
    Object.assign(this, { method: method.toUpperCase(), path, kind, inputs: new Map() });
    const id = `${facts.operationId}`;
    const rows = (facts.parameters ?? []).map((part) => this.row(part, `${id}-${part.name}`));
    const example = content && (content.example ?? resolve(content.schema).examples?.[0]);
    this.body = content ? el("textarea", { id: `${id}-body`, spellcheck: "false" }, example ? JSON.stringify(example, null, 2) : "") : null;
    const isSafe = this.method === "GET" || /(plans|frontiers|explanations|:replay)$/.test(path);
    this.sure = isSafe ? null : el("input", { type: "checkbox", required: "" });
    this.out = el("div", { "aria-live": "polite" });
    this.form = el("form", { class: "try", "aria-label": `Try ${this.method} ${path}` }, el("h3", {}, "Try it"), rows,
      this.body ? el("label", { for: `${id}-body` }, `Body, ${kind}`) : "", this.body ?? "",
      el("div", { class: "go" }, this.sure ? el("label", { class: "sure" }, this.sure, "This changes the service") : "", el("button", { type: "submit", class: "main" }, `Send ${this.method}`), this.copy()), this.out);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.fill();
  }

  row({ name, in: where, required, schema }, id) {
    const choices = resolve(schema)?.enum;
    const type = choices ? "" : schema?.type === "integer" ? "number" : "text";
    const input = choices ? el("select", { id }, ["", ...choices].map((value) => el("option", { value }, value))) : el("input", { id, type, autocomplete: "off", required: required ? "" : null, placeholder: schema?.default ?? null });
    if (name === "idempotency-key") input.value = newKey();
    this.inputs.set(name, { input, where });
    return el("div", { class: "row" }, el("label", { for: id }, name, required ? el("span", { class: "wanting", "aria-hidden": "true" }, " *") : ""), input, name === "if-match" ? this.ask() : "");
  }

  /** A button that reads the ETag of what will be changed. */
  ask() {
    const button = el("button", { type: "button" }, "Read it");
    button.addEventListener("click", async () => {
      const from = this.path.includes("{plan_id}") ? this.path.replace(":apply", "") : /(apply|rollback)$/.test(this.path) ? this.path.replace(/(apply|rollback)$/, "status") : "/v1/pipelines/{pipeline}";
      const answer = await request(this.filled(from));
      this.inputs.get("if-match").input.value = answer.headers.get("ETag") ?? "";
    });
    return button;
  }

  /** Fills in the first pipeline, once it is known. */
  async fill() {
    const name = this.inputs.get("pipeline");
    if (name?.where !== "path") return;
    first ??= request("/v1/pipelines").then((answer) => answer.json()).then((found) => found.pipelines?.[0]);
    const pipeline = await first;
    if (!pipeline) return;
    name.input.value ||= pipeline.pipeline;
    const stage = this.inputs.get("stage");
    if (stage) stage.input.value ||= pipeline.stages[0].stage;
  }

  filled(path) {
    return [...this.inputs].filter(([, { where }]) => where === "path").reduce((text, [name, { input }]) => text.replace(`{${name}}`, encodeURIComponent(input.value)), path);
  }

  get request() {
    const given = [...this.inputs].filter(([, { input }]) => input.value !== ""), of = (where) => given.filter(([, each]) => each.where === where).map(([name, { input }]) => [name, input.value]);
    const query = new URLSearchParams(of("query"));
    return { address: `${this.filled(this.path)}${query.size ? `?${query}` : ""}`, headers: { ...Object.fromEntries(of("header")), ...(this.body ? { "Content-Type": this.kind } : {}) } };
  }

  /** A button that copies the request as a line for a shell. The key of the page is not in it. */
  copy() {
    const button = el("button", { type: "button" }, "Copy as curl");
    const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
    button.addEventListener("click", async () => {
      const { address, headers } = this.request;
      const line = ["curl", "-X", this.method, quoted(`${location.origin}${address}`), ...Object.entries(headers).flatMap(([name, value]) => ["-H", quoted(`${name}: ${value}`)]), ...(this.body ? ["--data-binary", quoted(this.body.value)] : [])].join(" ");
      this.out.replaceChildren(el("pre", { tabindex: "0" }, line));
      // Over plain HTTP a page may not use the clipboard; the line is shown.
      await navigator.clipboard?.writeText(line).catch(() => {});
    });
    return button;
  }

  async send() {
    const { address, headers } = this.request, until = new AbortController();
    this.out.replaceChildren(el("p", {}, "Sent; waiting for the answer …"));
    const began = performance.now();
    try {
      const answer = await request(address, { method: this.method, headers, body: this.body?.value, signal: until.signal });
      const text = await read(answer, until), told = ["Location", "ETag", "Retry-After"].filter((name) => answer.headers.get(name)).map((name) => `${name}: ${answer.headers.get(name)}`);
      this.out.replaceChildren(el("p", { class: `status ${answer.ok ? "good" : "bad"}` }, `${answer.status} ${answer.statusText} in ${(performance.now() - began).toFixed(0)} ms`),
        told.length ? el("p", {}, el("code", {}, told.join(" · "))) : "", text ? el("pre", { tabindex: "0" }, text) : "");
    } catch (error) {
      this.out.replaceChildren(el("p", { class: "status bad" }, `No answer: ${error.message}`));
    }
    if (this.sure) this.sure.checked = false;
  }
}

/** The text of an answer, JSON indented, as much as is shown; a stream as far as it comes in some seconds. */
async function read(answer, until) {
  if ((answer.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) setTimeout(() => until.abort(), STREAM_MS);
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = (await reader?.read()) ?? { done: true };
      if (done) break;
      text += value;
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
  const shown = (answer.headers.get("Content-Type") ?? "").includes("json") && text ? JSON.stringify(JSON.parse(text), null, 2) : text;
  return shown.length > MOST_CHARACTERS ? `${shown.slice(0, MOST_CHARACTERS)}\n… ${shown.length} characters` : shown;
}

const all = Object.entries(spec.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, facts]) => ({ method, path, facts })));
const groups = spec.tags.map(({ name, description }) => ({ name, description, of: all.filter(({ facts }) => facts.tags.at(-1) === name) })).filter(({ of }) => of.length);
document.getElementById("groups").replaceChildren(...groups.map(({ name }) => el("a", { href: `#${name}` }, name)));
document.getElementById("operations").replaceChildren(...groups.map(({ name, description, of }) =>
  el("section", { id: name, "aria-label": name }, el("h2", {}, name), el("p", {}, description), of.map(({ method, path, facts }) => operation(method, path, facts)))));
document.getElementById("operations").removeAttribute("aria-busy");
document.getElementById("find").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const box of document.querySelectorAll("#operations section > details")) box.hidden = !words.every((word) => box.dataset.words.includes(word));
  for (const section of document.querySelectorAll("#operations section")) section.hidden = !section.querySelector("details:not([hidden])");
});
if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();

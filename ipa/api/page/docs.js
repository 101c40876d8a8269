// The API's documentation, made from its OpenAPI document: operations by group, each with its request for a shell.

import { el } from "./dom.js";

const spec = await (await fetch("/openapi.json")).json();

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
      ...(content ? block("Body", content.schema) : []), answer ? el("details", {}, el("summary", {}, `Answer ${ok?.[0] ?? ""}: ${short(answer)}`), block("Fields", answer)) : "",
      el("h3", {}, "Request"), el("pre", { tabindex: "0" }, curl(method.toUpperCase(), path, facts, kind, content)));
  });
  return box;
}

/** The request with its example as a line for a shell; the reader fills in the names in braces. */
function curl(method, path, { parameters = [] }, kind, content) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const required = parameters.filter((part) => part.required && part.in !== "path").map(({ name, in: where }) => [where, name]);
  const query = required.filter(([where]) => where === "query").map(([, name]) => `${name}={${name}}`).join("&");
  const headers = [...required.filter(([where]) => where === "header").map(([, name]) => `${name}: {${name}}`), ...(content ? [`Content-Type: ${kind}`] : [])];
  const example = content && (content.example ?? resolve(content.schema).examples?.[0]);
  return ["curl", "-X", method, quoted(`${location.origin}${path}${query && `?${query}`}`), ...headers.flatMap((text) => ["-H", quoted(text)]),
    ...(example ? ["--data-binary", quoted(JSON.stringify(example))] : [])].join(" ");
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

// The API's documentation, generated from its OpenAPI document.

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
  return [el("p", {}, el("b", {}, title), ` ${short(schema)}`), lines.length ? el("pre", {}, lines.join("\n")) : ""];
}

function operation(method, path, facts) {
  const body = facts.requestBody?.content["application/json"]?.schema;
  const ok = Object.entries(facts.responses).find(([status]) => status.startsWith("2"));
  const answer = Object.values(ok?.[1].content ?? {})[0]?.schema;
  return el("details", { class: "card" },
    el("summary", {}, el("span", { class: "method" }, method.toUpperCase()), el("code", {}, path), el("span", {}, facts.summary ?? "")),
    el("p", {}, facts.description ?? ""),
    (facts.parameters ?? []).map((part) => el("p", {}, el("code", {}, part.name), ` in ${part.in}: ${short(part.schema)}${part.required ? "" : ", optional"}${part.description ? `: ${part.description}` : ""}`)),
    body ? block("Body", body) : "",
    block(`Answer ${ok?.[0] ?? ""}`, answer));
}

document.getElementById("operations").replaceChildren(
  ...Object.entries(spec.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, facts]) => operation(method, path, facts))));

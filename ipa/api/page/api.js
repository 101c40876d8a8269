// The page's client of the service. auth.js adds the credentials.

import { request } from "./auth.js";

/** An error answer of the service: its problem document (RFC 9457), with `errors` as [{detail, pointer}]. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `the service answered ${status}`);
    this.name = "Refused";
    this.status = status;
    this.code = problem.code ?? "";
    this.detail = this.message;
    this.hint = problem.hint ?? "";
    this.errors = problem.errors ?? [];
  }
}

/** The service does not answer. */
export class Gone extends Error {}

/**
 * Returns the answer's JSON; null without one (204). A `body` that is not a string is sent as JSON.
 * Throws Refused (an error answer), Gone (no answer) or AbortError (`signal` aborted it).
 */
export async function callApi(path, options = {}) {
  return (await callApi.full(path, options)).body;
}

/** Returns the answer as {body, headers, status}; otherwise as `callApi`. */
callApi.full = async (path, { method = "GET", body, headers = {}, signal } = {}) => {
  const sent = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
  const kind = sent === undefined ? {} : { "Content-Type": "application/json" };
  const answer = await reached(() => request(path, { method, body: sent, signal, headers: { Accept: "application/json", ...kind, ...headers } }));
  const text = await reached(() => answer.text());
  const found = text && (answer.headers.get("Content-Type") ?? "").includes("json") ? JSON.parse(text) : null;
  if (!answer.ok) throw new Refused(answer.status, found ?? { detail: text.slice(0, 200) || answer.statusText });
  return { body: found, headers: answer.headers, status: answer.status };
};

async function reached(act) {
  try {
    return await act();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Gone("The service cannot be reached", { cause: error });
  }
}

// The page's client of the service: `callApi` for JSON, `listen` for events. auth.js adds the credentials.

import { request } from "./auth.js";

const AGAIN_MS = 2000;
// The polling interval without an event stream.
const POLL_MS = 5000;

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

/**
 * Calls `onEvent({id, kind, data})` for each event of the pipeline (null: of all) until `signal` aborts.
 * `kind` is decision, change, control, reset or store; or poll, without data, if there is no stream.
 */
export async function listen(pipeline, onEvent, signal) {
  const path = `/v1/events${pipeline ? `?pipeline=${encodeURIComponent(pipeline)}` : ""}`;
  let last = "";
  while (!signal.aborted) {
    let wait = AGAIN_MS;
    try {
      const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const answer = await request(path, { headers, signal });
      if (!answer.ok) throw new Refused(answer.status, {});
      for await (const event of events(answer.body)) {
        last = event.id || last;
        onEvent(event);
      }
    } catch (error) {
      if (signal.aborted) return;
      wait = POLL_MS;
      onEvent({ id: "", kind: "poll", data: null });
    }
    await pause(wait, signal);
  }
}

/** The events of a stream, without comments and lone `retry` fields. */
async function* events(stream) {
  let rest = "";
  for await (const part of read(stream)) {
    const blocks = (rest + part).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").filter((line) => line.indexOf(":") > 0)
        .map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]));
      if (fields.data) yield { id: fields.id ?? "", kind: fields.event ?? "message", data: JSON.parse(fields.data) };
    }
  }
}

async function* read(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

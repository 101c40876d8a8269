// The lines of Now about the pipeline itself: where its requests go, the latest edit of its file, and doubts of
// its profiles.

import { clock, el } from "../dom.js";
import { formatRoute } from "../router.js";
import { copyButton } from "../tables.js";

/** The address of the pipeline's requests, with a curl command to copy; `tools` are those of the view. */
export function requests({ address }, tools) {
  if (!address?.url) return [];
  const curl = `curl -sS '${address.url}' -H 'Content-Type: application/json' -d @request.json`;
  return [el("p", { class: "command" }, el("span", {}, "Requests: POST"), el("code", { tabindex: "0" }, address.url),
    copyButton(address.url, "The URL", tools), copyButton(curl, "The curl command", tools, "Copy curl")),
  address.note ? el("p", { class: "note" }, address.note.charAt(0).toUpperCase() + address.note.slice(1)) : ""];
}

/** The latest edit of the pipeline while it ran: what changed, or why it is not in force. */
export function latestEdit({ edit }) {
  if (!edit) return [];
  if (edit.state === "taken") {
    return [el("p", { class: "note" }, `Changed ${edit.by ? `by ${edit.by} ` : ""}at ${clock(edit.at)} (${edit.source}): ${edit.changes.join("; ")}`)];
  }
  const head = edit.state === "refused" ? "Edit refused" : "Edit waits";
  return [el("p", { class: "banner warn", role: "status" }, el("b", {}, head), el("span", {}, `${edit.message}. The version before it is in force.`))];
}

/** The profiles that are not credible: a warning if the mode writes by them. */
export function profileDoubts({ pipeline, control }) {
  const doubts = control.profile_doubts ?? [];
  if (!doubts.length) return [];
  const text = doubts.map((each) => each.charAt(0).toUpperCase() + each.slice(1)).join(". ");
  const link = el("a", { href: formatRoute({ view: "profiles", path: [pipeline] }) }, "Profiles");
  if (!["guarded", "active"].includes(control.mode)) return [el("p", { class: "note" }, `${text}. `, link)];
  return [el("p", { class: "banner warn" }, el("b", {}, "Plans may be wrong"), el("span", {}, `${text}. `, link))];
}

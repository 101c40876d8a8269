// The confirmation dialog of an action on a pipeline: it asks for the reason, carries the action out, and shows the outcome.

import { Gone } from "./api.js";
import { el } from "./dom.js";
import { refusal } from "./tables.js";

// Statuses after which the request may be repeated: it was not carried out, or would not be carried out twice.
const AGAIN = new Set([429, 503, 504]);
// The name that a person gave without authentication, until the page is reloaded.
let called = "";

/** A new idempotency key. `crypto.randomUUID` is not available over plain HTTP. */
export const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export class ConfirmDialog {
  /**
   * `words`: elements that describe the action. `verb`: the text of the button.
   * act({reason, by?}) → {title, parts}: carries it out; throws as `callApi`. Repeated with the same values if nothing answers.
   * `mend` {text, act} is offered if the action was refused because something changed meanwhile (412).
   */
  constructor({ title, words, fields = [], verb, act, mend = null, tools }) {
    Object.assign(this, { title, words, fields, verb, act, mend, tools });
    this.head = el("h2", { id: "confirm-title", tabindex: "-1" }, title);
    this.body = el("div", {});
    const stay = (event) => { if (this.isActing) event.preventDefault(); };
    this.box = el("dialog", { class: "confirm", "aria-labelledby": "confirm-title", oncancel: stay, onclose: () => this.leave() }, this.head, this.body);
    this.showForm();
  }

  open() {
    document.body.append(this.box);
    this.box.showModal();
    (this.stops.hidden ? this.why : this.head).focus();
  }

  close() { this.box.close(); }

  /** Removes the dialog. The browser has returned the focus already, and the user may have moved it since. */
  leave() {
    this.isOver = true;
    this.box.remove();
  }

  /** Shows what would refuse the action now, as [{text, todo}]; the button is disabled while there is any. */
  stop(reasons) {
    const key = JSON.stringify(reasons);
    if (key === this.stopped || !this.stops || this.isActing) return;
    this.stopped = key;
    this.stops.hidden = !reasons.length;
    this.stops.replaceChildren(el("p", {}, el("b", {}, "The service would refuse this now")),
      el("ul", {}, reasons.map(({ text, todo }) => el("li", {}, text, todo ? el("small", {}, ` ${todo}`) : ""))));
    this.go.disabled = reasons.length > 0;
  }

  showForm() {
    const isNamed = Boolean(this.tools.me.name);
    this.stops = el("div", { class: "stops", hidden: "" });
    this.why = el("textarea", { id: "confirm-why", name: "reason", required: "", maxlength: "1000", rows: "2" });
    const by = isNamed ? "" : el("input", { id: "confirm-by", name: "by", maxlength: "253", autocomplete: "name", value: called });
    this.go = el("button", { type: "submit", class: "main" }, this.verb);
    this.said = el("div", { "aria-live": "assertive" });
    const send = () => {
      if (by) called = by.value.trim();
      return this.carryOut({ reason: this.why.value.trim(), ...(by && called ? { by: called } : {}) });
    };
    this.form = el("form", { onsubmit: send }, ...this.words, this.stops, ...this.fields, el("label", { for: "confirm-why" }, "Why? The reason is kept in the record."), this.why,
      ...(isNamed ? [el("p", { class: "note" }, `It is recorded as done by ${this.tools.me.name}.`)] : [el("label", { for: "confirm-by" }, "Who are you? (optional)"), by]),
      this.said, el("p", { class: "command" }, this.go, this.button("Cancel", () => this.close())));
    this.body.replaceChildren(this.form);
  }

  async carryOut(said) {
    if (this.isActing) return;
    this.isActing = true;
    this.box.setAttribute("aria-busy", "true");
    for (const each of this.body.querySelectorAll("button, textarea, input, select")) each.disabled = true;
    this.said?.replaceChildren(el("p", { class: "note" }, "Sent; waiting for the answer …"));
    try {
      const { title, parts } = await this.act(said);
      this.tell(title, parts);
    } catch (error) {
      this.refused(error, said);
    }
    this.isActing = false;
    this.box.removeAttribute("aria-busy");
  }

  refused(error, said) {
    if (error instanceof Gone) {
      return this.tell("The outcome is unknown", [el("p", {}, "The service did not answer. Ask again: the action is not carried out twice.")],
        this.button("Ask again", () => this.carryOut(said), true));
    }
    const isAgain = AGAIN.has(error.status) || error.code === "conflict.in_progress";
    const more = isAgain ? [this.button("Try again", () => this.carryOut(said), true)] : this.mend && error.status === 412 ? [this.button(this.mend.text, () => { this.close(); this.mend.act(); }, true)] : [];
    return this.tell("Nothing was changed", [refusal(error)], ...more);
  }

  /** Shows the outcome in place of the form. */
  tell(title, parts, ...buttons) {
    if (this.isOver) return this.tools.say(title);
    this.stops = this.said = null;
    this.head.textContent = title;
    this.body.replaceChildren(el("div", { class: "outcome" }, parts), el("p", { class: "command" }, buttons, this.button("Close", () => this.close(), !buttons.length)));
    this.head.focus();
    return undefined;
  }

  button(text, act, isMain) {
    return el("button", { type: "button", class: isMain ? "main" : null, onclick: act }, text);
  }
}

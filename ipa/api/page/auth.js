// Requests in the name of who looks: a key or token that this tab keeps, asked for where the service wants one.

import { el } from "./dom.js";

// Until the tab is closed; no cookie, so that no other page can ask in this name.
const KEPT = "ipa-token";
let asking = null;

/** The answer of the service, as `fetch`; where it wants to know who asks, once that is said. */
export async function request(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEPT);
    const said = token ? { Authorization: `Bearer ${token}` } : {};
    const answer = await fetch(path, { ...options, credentials: "omit", headers: { ...options.headers, ...said } });
    if (answer.status !== 401) return answer;
    // Another request may have been told a new one meanwhile.
    if (sessionStorage.getItem(KEPT) === token) await signIn(Boolean(token));
  }
}

/** Resolves once a key was given; all who wait share one form. */
function signIn(wasRefused) {
  sessionStorage.removeItem(KEPT);
  asking ??= new Promise((resolve) => {
    const input = el("input", { id: "token", type: "password", autocomplete: "off", required: "", spellcheck: "false" });
    const form = el("form", {},
      el("h2", { id: "sign-in" }, "Sign in"),
      el("p", { role: "alert" }, wasRefused ? "The service does not accept this one." : ""),
      el("label", { for: "token" }, "Your key or token"),
      input,
      el("button", { type: "submit" }, "Sign in"),
      el("p", {}, "It is kept until this tab is closed. ", el("code", {}, "ipa key create"), " makes one."));
    const dialog = el("dialog", { class: "sign-in", "aria-labelledby": "sign-in" }, form);
    // Nothing is shown without it, so there is nothing to go back to.
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!input.value.trim()) return;
      sessionStorage.setItem(KEPT, input.value.trim());
      dialog.close();
      dialog.remove();
      asking = null;
      showSignOut();
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
  return asking;
}

/** A way to forget the key, where there is one. */
function showSignOut() {
  if (!sessionStorage.getItem(KEPT) || document.getElementById("sign-out")) return;
  const button = el("button", { id: "sign-out", type: "button" }, "Sign out");
  button.addEventListener("click", () => {
    sessionStorage.removeItem(KEPT);
    // What was shown to who was here goes as well.
    location.reload();
  });
  document.querySelector("footer nav")?.append(button);
}

showSignOut();

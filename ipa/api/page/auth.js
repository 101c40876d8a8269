// Authenticated requests: the tab keeps a key or token, which the user enters if the service requires one.

import { el } from "./dom.js";

// In the session storage of the tab, not in a cookie, so that no other page can use it.
const KEPT = "ipa-token";
let asking = null;

/** The answer of the service, as `fetch`. If the service requires a key, it waits for the user to sign in. */
export async function request(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEPT);
    const said = token ? { Authorization: `Bearer ${token}` } : {};
    const answer = await fetch(path, { ...options, credentials: "omit", headers: { ...options.headers, ...said } });
    if (answer.status !== 401) return answer;
    // Another request may have got a new token meanwhile.
    if (sessionStorage.getItem(KEPT) === token) await signIn(Boolean(token));
  }
}

/** Resolves once the user entered a key; concurrent requests share one form. */
function signIn(wasRefused) {
  sessionStorage.removeItem(KEPT);
  asking ??= new Promise((resolve) => {
    const input = el("input", { id: "token", type: "password", autocomplete: "off", required: "", spellcheck: "false" });
    const keep = () => {
      if (!input.value.trim()) return;
      sessionStorage.setItem(KEPT, input.value.trim());
      dialog.close();
      dialog.remove();
      asking = null;
      showSignOut();
      resolve();
    };
    const form = el("form", { onsubmit: keep },
      el("h2", { id: "sign-in" }, "Sign in"),
      el("p", { role: "alert" }, wasRefused ? "The service does not accept this key or token." : ""),
      el("label", { for: "token" }, "Your key or token"),
      input,
      el("button", { type: "submit" }, "Sign in"),
      el("p", {}, "It is kept until this tab is closed. ", el("code", {}, "ipa key create"), " makes one."));
    // There is no content without a key, so the dialog cannot be cancelled.
    const dialog = el("dialog", { class: "sign-in", "aria-labelledby": "sign-in", oncancel: (event) => event.preventDefault() }, form);
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
  return asking;
}

/** Adds the button that discards the key, if there is a key. */
function showSignOut() {
  if (!sessionStorage.getItem(KEPT) || document.getElementById("sign-out")) return;
  const leave = () => {
    sessionStorage.removeItem(KEPT);
    // The content of the former user must go as well.
    location.reload();
  };
  document.querySelector("footer nav")?.append(el("button", { id: "sign-out", type: "button", onclick: leave }, "Sign out"));
}

showSignOut();

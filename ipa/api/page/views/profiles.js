// Profiles: not there yet.

import { el } from "../dom.js";

export const title = "Profiles";

export async function open(root) {
  root.append(el("p", { class: "empty" }, "Profiles"));
  return {};
}

// Fleet: not there yet.

import { el } from "../dom.js";

export const title = "Fleet";

export async function open(root) {
  root.append(el("p", { class: "empty" }, "Fleet"));
  return {};
}

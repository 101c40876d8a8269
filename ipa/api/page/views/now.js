// Now: not there yet.

import { el } from "../dom.js";

export const title = "Now";

export async function open(root) {
  root.append(el("p", { class: "empty" }, "Now"));
  return {};
}

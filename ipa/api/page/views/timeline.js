// Timeline: not there yet.

import { el } from "../dom.js";

export const title = "Timeline";

export async function open(root) {
  root.append(el("p", { class: "empty" }, "Timeline"));
  return {};
}

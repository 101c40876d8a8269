// Experiments: not there yet.

import { el } from "../dom.js";

export const title = "Experiments";

export async function open(root) {
  root.append(el("p", { class: "empty" }, "Experiments"));
  return {};
}

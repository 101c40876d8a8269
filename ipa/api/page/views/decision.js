// Decision: not there yet.

import { el } from "../dom.js";

export const title = "Decision";

export async function open(root) {
  root.append(el("p", { class: "empty" }, "Decision"));
  return {};
}

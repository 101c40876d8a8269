// What-if: not there yet.

import { el } from "../dom.js";

export const title = "What-if";

export async function open(root) {
  root.append(el("p", { class: "empty" }, "What-if"));
  return {};
}

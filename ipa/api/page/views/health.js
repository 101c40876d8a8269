// Health: not there yet.

import { el } from "../dom.js";

export const title = "Health";

export async function open(root) {
  root.append(el("p", { class: "empty" }, "Health"));
  return {};
}

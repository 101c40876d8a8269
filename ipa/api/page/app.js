// The page: the view that is shown, its pipeline, and its updates.
//
// A view is views/NAME.js, loaded when it is first shown. It exports `title` and
//   async open(root, place, tools): fills the empty section `root`; returns {update?(), close?()}
//     place = {view, path: [segments], query: URLSearchParams}
//     tools = {pipelines: Map(name → PipelineView), me, may(operation, pipeline), go(hash), replace(query), say(text)}
//   update() is awaited at most once a second while the tab is visible; close() on leaving.

import { Gone, Refused, callApi } from "./api.js";
import { clock, el } from "./dom.js";
import { formatRoute, parseRoute } from "./router.js";

const TURN_MS = 1000;
const PIPELINES_MS = 15000;
const $ = (id) => document.getElementById(id);

// The views in the navigation.
const VIEWS = {
  now: { name: "Now", of: true, load: () => import("./views/now.js") },
  timeline: { name: "Timeline", of: true, load: () => import("./views/timeline.js") },
  decision: { name: "Decision", of: true, asQuery: true, load: () => import("./views/decision.js") },
  "what-if": { name: "What-if", of: true, load: () => import("./views/what-if.js") },
  profiles: { name: "Profiles", of: true, load: () => import("./views/profiles.js") },
  fleet: { name: "Fleet", load: () => import("./views/fleet.js") },
  health: { name: "Health", load: () => import("./views/health.js") },
};

const tools = {
  pipelines: new Map(),
  /** The caller: MeView of the API. */
  me: { name: "", pipelines: [] },
  /** True if the caller may do the operation (read, what-if, control, apply, define) with the pipeline. */
  may: (operation, name) => tools.me.pipelines.some((each) => each.pipeline === name && each.operations.includes(operation)),
  go: (hash) => { location.hash = hash; },
  /** Replaces the query of the view, without opening it anew or adding a history entry. */
  replace: (query) => {
    here.place.query = new URLSearchParams(query);
    history.replaceState(null, "", formatRoute({ ...here.place, query }));
  },
  say: (text) => { $("said").textContent = text; },
};
// The shown view: its route, its handle, and true if it is open.
let here = { place: null, handle: null, root: null, isOpen: false };
let chosen = "";
let seenAt = null;
let pipelinesAt = 0;
let timer = 0;
let isTurning = false;

/** Shows the view of the address. */
function arrive() {
  const place = parseRoute(location.hash);
  const view = VIEWS[place.view];
  if (!view || !location.hash.startsWith("#/")) return location.replace(formatRoute(addressOf("now", place.path[0] || chosen)));
  here.handle?.close?.();
  // Not on the first load, and not away from the pipeline selector.
  const takesFocus = here.isOpen && document.activeElement !== $("pipelines");
  const root = el("section", { "aria-busy": "true", class: `view view-${place.view}` });
  here = { place, handle: null, root, isOpen: false };
  // In parallel with the request for the pipelines; a failed load is retried when the view is opened.
  view.load().catch(() => {});
  chosen = named(place) || chosen;
  $("view").replaceChildren(root);
  dress();
  if (takesFocus) {
    window.scrollTo(0, 0);
    $("title").focus({ preventScroll: true });
  }
  return turn();
}

/** The pipeline of a route. */
function named({ view, path, query }) {
  if (!VIEWS[view].of) return "";
  return VIEWS[view].asQuery ? query.get("pipeline") : path[0];
}

function addressOf(view, pipeline) {
  const { of, asQuery } = VIEWS[view];
  if (!of || !pipeline) return { view };
  return asQuery ? { view, path: [""], query: { pipeline } } : { view, path: [pipeline] };
}

/** Updates title, navigation and pipeline selector. */
function dress() {
  const { place } = here;
  const view = VIEWS[place.view];
  const words = [view.name, ...(view.of && chosen ? [chosen] : [])];
  document.title = [...words, "ipa"].join(" · ");
  $("title").replaceChildren(view.name, ...words.slice(1).map((word) => el("small", {}, word)));
  $("views").replaceChildren(...Object.entries(VIEWS).map(([name, { name: text }]) =>
    el("a", { href: formatRoute(addressOf(name, chosen)), "aria-current": name === place.view ? "page" : null }, text)));
  const names = [...tools.pipelines.keys()];
  $("pipelines").hidden = names.length < 2 || !view.of;
  $("pipelines").replaceChildren(...names.map((name) => el("option", { value: name, selected: name === chosen }, name)));
}

/** Reads the pipelines, which may be created and removed while the page is open. */
async function lookAtPipelines() {
  const [{ pipelines }, me] = await Promise.all([callApi("/v1/pipelines"), callApi("/v1/me")]);
  tools.me = me;
  pipelinesAt = performance.now();
  const before = [...tools.pipelines.keys()].join("\n");
  tools.pipelines.clear();
  for (const pipeline of pipelines) tools.pipelines.set(pipeline.pipeline, pipeline);
  chosen ||= pipelines[0]?.pipeline ?? "";
  return before !== [...tools.pipelines.keys()].join("\n");
}

/** Opens or updates the view, and schedules the next update. */
async function turn() {
  if (isTurning) return;
  isTurning = true;
  clearTimeout(timer);
  const mine = here;
  try {
    if (!document.hidden && mine.place) {
      if (!tools.pipelines.size || performance.now() - pipelinesAt > PIPELINES_MS) {
        if (await lookAtPipelines()) dress();
      }
      if (here === mine) await (mine.isOpen ? mine.handle?.update?.() : openIn(mine));
    }
    seenAt = Date.now();
    trouble(null);
  } catch (error) {
    if (here === mine && error.name !== "AbortError") trouble(error);
  }
  isTurning = false;
  // The address changed meanwhile.
  if (here !== mine) turn();
  else timer = setTimeout(turn, TURN_MS);
}

async function openIn(mine) {
  const { place, root } = mine;
  const wanted = named(place) || (VIEWS[place.view].of && !place.path[0] ? chosen : "");
  if (VIEWS[place.view].of && !tools.pipelines.size) {
    // The view opens as soon as there is a pipeline.
    root.removeAttribute("aria-busy");
    return root.hasChildNodes() ? undefined : root.replaceChildren(noPipelines());
  }
  if (wanted && !tools.pipelines.has(wanted)) return finish(mine, unknown(place.view, wanted));
  if (wanted && !named(place)) {
    const address = addressOf(place.view, wanted);
    return location.replace(formatRoute({ ...address, query: { ...address.query, ...Object.fromEntries(place.query) } }));
  }
  const module = await VIEWS[place.view].load();
  root.replaceChildren();
  try {
    const handle = await module.open(root, place, tools);
    if (here !== mine) return handle?.close?.();
    mine.handle = handle;
    return finish(mine);
  } catch (error) {
    if (!(error instanceof Refused) || error.status >= 500) throw error;
    if (here !== mine) return undefined;
    return finish(mine, refusal(error));
  }
}

function finish(mine, ...instead) {
  if (instead.length) mine.root.replaceChildren(...instead);
  mine.isOpen = true;
  mine.root.removeAttribute("aria-busy");
}

const refusal = (error) => el("div", { class: "card empty" }, el("p", {}, error.message), el("p", {}, error.hint),
  error.errors.map((each) => el("p", {}, each.detail)));

const noPipelines = () => el("div", { class: "card empty" },
  el("p", {}, "There is no pipeline that you may see."),
  el("p", {}, "Write one with ", el("code", {}, "ipa init"), " and start the service with its file, or ",
    el("a", { href: "/openapi.json" }, "create one over the API"), ". It then appears here."));

const unknown = (view, name) => el("div", { class: "card empty" },
  el("p", {}, `There is no pipeline ${name} that you may see. There are:`),
  el("ul", {}, [...tools.pipelines.keys()].map((each) => el("li", {}, el("a", { href: formatRoute(addressOf(view, each)) }, each)))));

/** Shows or clears the banner about an error, over the last content, which is greyed out. */
function trouble(error) {
  const isNew = document.body.classList.contains("lost") !== Boolean(error);
  document.body.classList.toggle("lost", Boolean(error));
  if (!error) {
    if (isNew) $("trouble").replaceChildren();
    return;
  }
  const isAnswer = error instanceof Gone || error instanceof Refused;
  const head = isAnswer ? "No answer from the service" : "The page failed";
  const since = seenAt ? `The page shows the state of ${clock(seenAt)}. ` : "";
  const text = `${error.message.replace(/\.$/, "")}. ${error.hint ? `${error.hint} ` : ""}${since}The page retries every second.`;
  if ($("trouble").textContent === head + text) return;
  if (!isAnswer) console.error(error);
  $("trouble").replaceChildren(el("p", { class: "banner bad" }, el("b", {}, head), el("span", {}, text)));
}

$("pipelines").addEventListener("change", (event) => {
  tools.go(formatRoute(addressOf(here.place.view, event.target.value)));
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("title").focus();
});
window.addEventListener("hashchange", arrive);
document.addEventListener("visibilitychange", () => { if (!document.hidden) turn(); });
arrive();

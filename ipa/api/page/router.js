// Where the page is: the hash, taken apart and put together.

/** {view, path: [segments], query} of a hash such as `#/timeline/ocr?from=…`; view is "" where none is named. */
export function parseRoute(hash) {
  const text = hash.replace(/^#/, "");
  // What older links look like: the pipeline alone.
  if (text && !text.startsWith("/")) return { view: "now", path: [plainly(text)], query: new URLSearchParams() };
  const [path, query = ""] = text.split(/\?(.*)/s);
  const [view = "", ...segments] = path.split("/").slice(1).map(plainly);
  return { view, path: segments.filter(Boolean), query: new URLSearchParams(query) };
}

/** The hash of a place. Of `query` what is null, undefined or empty is left out. */
export function formatRoute({ view, path = [], query = {} }) {
  const pairs = query instanceof URLSearchParams ? [...query] : Object.entries(query);
  const said = new URLSearchParams(pairs.filter(([, value]) => value !== null && value !== undefined && value !== ""));
  return `#/${[view, ...path].map(encodeURIComponent).join("/")}${said.size ? `?${said}` : ""}`;
}

function plainly(text) {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    if (error instanceof URIError) return text;
    throw error;
  }
}

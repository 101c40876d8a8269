// Routes: parsing and formatting of the URL's hash.

/** Parses a hash such as `#/timeline/ocr?from=…` to {view, path: [segments], query}; view is "" without one. */
export function parseRoute(hash) {
  const text = hash.replace(/^#/, "");
  // The form of older links: the pipeline alone.
  if (text && !text.startsWith("/")) return { view: "now", path: [plainly(text)], query: new URLSearchParams() };
  const [path, query = ""] = text.split(/\?(.*)/s);
  const [view = "", ...segments] = path.split("/").slice(1).map(plainly);
  return { view, path: segments.filter(Boolean), query: new URLSearchParams(query) };
}

/** Formats a route as a hash, without the entries of `query` that are null, undefined or empty. */
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

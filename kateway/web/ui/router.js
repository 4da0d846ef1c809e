// Which page the URL names: everything is behind its '#', so that a path prefix before /ui/ changes nothing.

const routes = [];

/** `pattern` is a path with names in braces; `load` fills a view. */
export const route = (pattern, load) => routes.push({ parts: pattern.split("/"), load });

export function href(segments, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const search = new URLSearchParams(given).toString();
  return `#/${segments.map((each) => encodeURIComponent(each)).join("/")}${search ? `?${search}` : ""}`;
}

export function current() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  let segments;
  try {
    segments = path.split("/").map(decodeURIComponent);
  } catch {
    segments = ["?"];
  }
  return { segments, query: Object.fromEntries(new URLSearchParams(search)) };
}

export function find(segments) {
  for (const { parts, load } of routes) {
    if (parts.length !== segments.length) continue;
    const names = {};
    const fits = parts.every((part, place) => (part.startsWith("{") && segments[place]
      ? (names[part.slice(1, -1)] = segments[place]) : part === segments[place]));
    if (fits) return { load, names };
  }
  return null;
}

/** Changes the query in the URL; the page that shows it knows already. */
export function noteQuery(changes) {
  const { segments, query } = current();
  history.replaceState(null, "", href(segments, { ...query, ...changes }));
}

export function go(target) {
  if (location.hash === target) window.dispatchEvent(new HashChangeEvent("hashchange"));
  else location.hash = target;
}

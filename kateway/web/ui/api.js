// Calls of the admin API, and what comes back: data with its etag, or a problem.

const BASE = new URL("../admin/v1/", document.baseURI);
const STORED = "kateway-session";
const listeners = { signedOut: () => {} };

/** A failure with what a person needs of it: title, detail, the request's id. */
export class Problem extends Error {
  constructor(members) {
    super(members.detail || members.title);
    this.title = members.title || "That did not work";
    this.detail = members.detail || "";
    this.status = members.status ?? 0;
    this.code = (members.type || "").split(":").pop();
    this.id = members.instance || "";
    this.problems = members.problems ?? [];
  }
}

export const path = (...segments) => segments.map((each) => encodeURIComponent(each)).join("/");

export function url(where, query = {}) {
  const target = new URL(where, BASE);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") target.searchParams.set(name, value);
  }
  // a plus is a plus to the gateway
  target.search = target.search.replaceAll("+", "%20");
  return target;
}

export const sessionHalf = {
  get: () => localStorage.getItem(STORED),
  set: (half) => (half ? localStorage.setItem(STORED, half) : localStorage.removeItem(STORED)),
};

export const onSessionElsewhere = (callback) => window.addEventListener("storage", ({ key }) => (key === STORED || key === null) && callback());
export const onSignedOut = (callback) => { listeners.signedOut = callback; };

/** The raw response of a call; a `Problem` is thrown for anything but a success. */
export async function fetched(method, where, { query, json, body, headers = {}, accept, signal } = {}) {
  const sent = { Accept: accept ?? "application/json", ...headers };
  const half = sessionHalf.get();
  if (half) sent["Kateway-Session"] = half;
  if (json !== undefined) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url(where, query), {
      method, headers: sent, body: json === undefined ? body : JSON.stringify(json), signal, cache: "no-store",
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "The gateway does not answer", detail: `${method} ${where}: ${error.message}` });
  }
  if (response.ok) return response;
  const text = await response.text();
  let members;
  try {
    members = JSON.parse(text);
  } catch {
    members = { title: `Status ${response.status}`, detail: text.slice(0, 300) };
  }
  // of a batch of one record: its own problem
  members = members.results?.find((each) => each.title) ?? members;
  members.instance ||= response.headers.get("X-Request-Id");
  members.status ??= response.status;
  if (response.status === 401 && where !== "session") listeners.signedOut();
  throw new Problem(members);
}

export async function call(method, where, options) {
  const response = await fetched(method, where, options);
  const text = response.status === 204 ? "" : await response.text();
  const json = (response.headers.get("Content-Type") || "").includes("json");
  return {
    status: response.status,
    etag: response.headers.get("ETag"),
    id: response.headers.get("X-Request-Id"),
    data: json && text ? JSON.parse(text) : text,
  };
}

export const get = async (where, query, signal) => (await call("GET", where, { query, signal })).data;
const absent = new Set();

/** What a call answers; null where this gateway has no such call, or nothing of the object that is asked about. */
export async function known(where, query, signal) {
  if (absent.has(where)) return null;
  try {
    return await get(where, query, signal);
  } catch (error) {
    if (error.status !== 404) throw error;
    if (!query?.object) absent.add(where);
    return null;
  }
}

/** The same call for a shell. The token is named, not shown: a page that shows one gives it away. */
export function curl(method, where, { query, body, type, headers = {}, signedIn } = {}) {
  const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
  const parts = ["curl"];
  if (method !== "GET") parts.push("-X", method);
  if (signedIn) parts.push("-H", '"Authorization: Bearer $TOKEN"');
  if (type) parts.push("-H", quoted(`Content-Type: ${type}`));
  for (const [name, value] of Object.entries(headers)) parts.push("-H", quoted(`${name}: ${value}`));
  if (body !== undefined && body !== null) parts.push("--data-binary", quoted(body));
  parts.push(quoted(url(where, query).href));
  return parts.join(" ");
}

// Builds elements. Text is always a text node, so that nothing that a record or a name holds is ever markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" && "value" in element) element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

export function append(element, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false || child === "") continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export function replace(element, ...children) {
  element.replaceChildren();
  return append(element, ...children);
}

let numbered = 0;

export function freshId(prefix) {
  numbered += 1;
  return `${prefix}-${numbered}`;
}

export const button = (label, onclick, attributes = {}) => h("button", { type: "button", onclick, ...attributes }, label);
export const link = (label, href, attributes = {}) => h("a", { href, ...attributes }, label);

/** A name whose lines may break behind its slashes. */
export const named = (name) => name.split("/").map((part, place) => (place ? ["/", h("wbr"), part] : part));

/** A section with a heading of the second level. */
export const section = (title, ...children) => sectionWith(title, null, ...children);

/** The same with what can be done beside its heading. */
export function sectionWith(title, action, ...children) {
  const id = freshId("section");
  return h("section", { class: "card", "aria-labelledby": id }, h("div", { class: "sectionhead" }, h("h2", { id }, title), action), ...children);
}

/** Pairs of a term and its figure, as tiles. */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([term, value, more]) =>
    h("div", null, h("dt", null, term), h("dd", null, value, more && h("small", null, more)))));
}

/** Pairs of a term and its value, one a line. */
export const pairs = (found) => h("dl", { class: "pairs" }, found.map(([term, value]) => h("div", null, h("dt", null, term), h("dd", null, value))));

/** A handler of a form that is submitted: the page stays. */
export const submitted = (work) => (event) => {
  event.preventDefault();
  return work(event);
};

/** A state as a word, a shape and a colour. */
export function mark(kind, word) {
  const shape = { ok: "●", warn: "▲", bad: "■", off: "○" }[kind] ?? "○";
  return h("span", { class: `mark ${kind}` }, h("span", { "aria-hidden": "true" }, shape), " ", word);
}

export async function copyText(text, from) {
  try {
    await navigator.clipboard.writeText(text);
    from.textContent = "Copied";
  } catch {
    from.textContent = "Select and copy it";
  }
  setTimeout(() => { from.textContent = "Copy"; }, 2000);
}

/** A line to copy: a command, a secret. */
export function copyable(text, label) {
  const copy = button("Copy", () => copyText(text, copy), { class: "plain small", "aria-label": `Copy ${label}` });
  return h("div", { class: "copyable" }, h("pre", { tabindex: "0", role: "group", "aria-label": label }, text), copy);
}

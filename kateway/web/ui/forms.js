// Fields of forms and what was put into them.
import { call, get, Problem } from "./api.js";
import { conflictDialog } from "./dialogs.js";
import { freshId, h } from "./dom.js";
import { bytes, number } from "./format.js";
/** A labelled field. `options` make it a list to choose from, `rows` a text of several lines. */
export function field(label, name, { options, rows, hint, type = "text", value = "", ...attributes } = {}) {
  const id = freshId("field");
  const hintId = hint && `${id}-hint`;
  const common = { id, name, "aria-describedby": hintId, ...attributes };
  let input;
  if (options) {
    input = h("select", common, options.map((each) => {
      const [key, text] = Array.isArray(each) ? each : [each, each];
      return h("option", { value: key, selected: key === value }, text);
    }));
  } else if (rows) {
    input = h("textarea", { ...common, rows, value, spellcheck: "false" });
  } else if (type === "checkbox") {
    input = h("input", { ...common, type, checked: Boolean(value) });
    return h("div", { class: "field check" }, input, h("label", { for: id }, label), hint && h("small", { id: hintId }, hint));
  } else {
    input = h("input", { ...common, type, value, autocomplete: "off", spellcheck: "false" });
  }
  return h("div", { class: "field" }, h("label", { for: id }, label), input, hint && h("small", { id: hintId }, hint));
}

/** The number in a field; undefined where it is empty. */
export function numberOf(form, name) {
  const text = form.elements[name].value.trim();
  if (text === "") return undefined;
  const value = Number(text);
  if (Number.isNaN(value)) throw new Problem({ title: "That is no number", detail: `${name}: ${text}` });
  return value;
}

export const textOf = (form, name) => form.elements[name].value.trim();

/** The JSON in a field. */
export function jsonOf(form, name) {
  try {
    return JSON.parse(form.elements[name].value || "null");
  } catch (error) {
    throw new Problem({ title: "That is no JSON", detail: `${name}: ${error.message}` });
  }
}

/** Fields of a quota, an empty one is no limit; and the series that says how much of it is used. */
export const QUOTA = [
  ["publish_records_per_second", "Records published a second", "in_records", number], ["publish_bytes_per_second", "Bytes published a second", "in_bytes", bytes],
  ["subscribe_bytes_per_second", "Bytes read a second", "out_bytes", bytes], ["readers", "Readers at a time", null, number],
];

/** A limit, and what is used of it where that is known: `figures` are an application's last ones. */
export function useOf([name, , series, shown], quota, figures) {
  const limit = quota?.[name] ?? null;
  const used = series && figures ? figures[series] ?? null : null;
  return [used !== null && shown(used), limit === null ? (used === null ? "no limit" : ", no limit") : `${used === null ? "" : " of "}${shown(limit)}`];
}

export function quotaFields(quota) {
  return QUOTA.map(([name, label]) => field(label, name, { type: "number", min: "0", value: quota?.[name] ?? "", hint: "Empty: no limit" }));
}

export const quotaOf = (form) => Object.fromEntries(QUOTA.map(([name]) => [name, numberOf(form, name)]).filter(([, value]) => value !== undefined));

/** Puts an entry over the version that was read. Where another came before it, both are shown: true when mine is in force. */
export async function putOver(where, name, etag, mine) {
  try {
    await call("PUT", where, { json: mine, headers: etag ? { "If-Match": etag } : { "If-None-Match": "*" } });
    return true;
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 412) throw error;
    const theirs = await get(where);
    if ((await conflictDialog(name, theirs, mine)) !== "mine") return false;
    await call("PUT", where, { json: mine });
    return true;
  }
}

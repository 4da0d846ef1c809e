// Records in a table: of a peek, of a tail, of dead letters.
import { button, closing, copyable, dialog, h, moment, pairs, plural } from "./parts.js";
const SHORT = 120;

export function valueText(record) {
  if (record.value_base64 !== undefined) return `base64 ${record.value_base64}`;
  return record.value === null ? "null (a tombstone)" : String(record.value);
}

export function keyText(record) {
  if (record.key_base64 !== undefined && record.key_base64 !== null) return `base64 ${record.key_base64}`;
  return record.key ?? "";
}

const headerText = (record) => (record.headers ?? []).map((each) =>
  `${each.name}: ${each.value ?? (each.value_base64 ? `base64 ${each.value_base64}` : "null")}`);

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** One record whole, in a dialog. */
export function showRecord(record, more = () => []) {
  return dialog(`Record ${record.partition}:${record.offset}`, (close) => [
    pairs([["Written", moment(record.timestamp)], ["Key", keyText(record) || "none"], ["Headers", headerText(record).join("\n") || "none"]]),
    copyable(pretty(valueText(record)), "Value"),
    record.truncated && h("p", { class: "muted" }, `Cut: the whole value has ${plural(record.value_bytes, "byte")}.`),
    more(close, record),
    closing(close),
  ], { wide: true });
}

/** Columns of records; `actions(record)` adds buttons. */
export function recordColumns({ actions, choose, more, headers = true } = {}) {
  return [
    choose && { title: "Choose", cell: choose },
    {
      title: "Place", class: "name",
      cell: (record) => button(`${record.partition}:${record.offset}`, () => showRecord(record, more), {
        class: "linklike", "aria-label": `Record ${record.partition}:${record.offset}`,
      }),
    },
    { title: "Written", cell: (record) => moment(record.timestamp) }, { title: "Key", class: "text", cell: (record) => shortened(keyText(record), 40) },
    { title: "Value", class: "text", cell: (record) => shortened(valueText(record), SHORT) },
    headers && { title: "Headers", class: "text", cell: (record) => shortened(headerText(record).join(", "), 80) },
    actions && { title: "Actions", cell: actions },
  ].filter(Boolean);
}

const shortened = (text, most) => text.length > most ? `${text.slice(0, most)}…` : text;

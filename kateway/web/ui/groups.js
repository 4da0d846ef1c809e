// A group's state in words, its link, its columns: what several pages say of groups.
import { duration, h, href, link, mark, named, number, path } from "./parts.js";
export const KINDS = {
  "keeping-up": "ok", "catching-up": "ok", idle: "off", unknown: "off", abandoned: "bad", poisoned: "bad",
  throttled: "warn", store: "bad", blocked: "warn", "leases-run-out": "warn", "too-few-readers": "warn",
};

export const groupNames = (row) => [row.reader, row.application, row.topic, row.version, row.group];
export const groupPath = (row) => `groups/${path(...groupNames(row))}`;
export const groupLink = (row) =>
  link(named(row.name), href(["groups", ...groupNames(row)], row.queue ? { queue: row.queue } : {}));

/** What is wrong with a group, in words; null where nothing is known to be. */
export function trouble(row) {
  const state = row.verdict?.state ?? "unknown";
  if (state === "unknown") return row.lag > 0 && !readerCount(row) ? `${number(row.lag)} records behind, and nobody reads it` : null;
  return ["ok", "off"].includes(KINDS[state]) ? null : `${state}, ${row.verdict.reason}`;
}

/** Troubled groups by their verdicts, in the order in which the first of each comes. */
export const troublesByKind = (rows) => Object.entries(Object.groupBy(rows.filter(trouble), (row) => row.verdict?.state ?? "unknown"));

/** The verdict as a mark; where no history can say one, whether the group is read. */
export function verdict(row) {
  const state = row.verdict?.state;
  if (state && state !== "unknown") return mark(KINDS[state] ?? "off", state);
  if (row.lag > 0 && !readerCount(row)) return mark("bad", "no reader");
  if (readerCount(row)) return mark("ok", row.state ?? "reading");
  return mark("off", row.state ?? "unknown");
}

const cause = (row) => [verdict(row), h("small", null, row.verdict?.reason)];

export const GROUP_COLUMNS = [
  { title: "Group", sort: "name", cell: groupLink, class: "name wide" }, { title: "State", class: "text", cell: cause },
  { title: "Lag", sort: "lag", number: true, cell: (row) => number(row.lag) }, { title: "Oldest", number: true, cell: (row) => duration(row.oldest_seconds) },
  { title: "Unacknowledged", sort: "unacknowledged_records", number: true, cell: (row) => number(row.unacknowledged_records) },
  { title: "Readers", sort: "readers", number: true, cell: (row) => number(readerCount(row)) },
];

export const readerCount = (row) => (Array.isArray(row.readers) ? row.readers.length : row.readers);

// Errors: what failed, for whom, and what took longest.
import { asOf, button, callerOf, duration, get, h, list, moment, number, openMode, rate, section, table } from "../parts.js";
const SLOW_COLUMNS = [
  { title: "Operation", class: "name", cell: (row) => row.operation }, { title: "Took", number: true, cell: (row) => duration(row.seconds) },
  { title: "Phases", cell: (row) => Object.entries(row.phases ?? {}).map(([phase, seconds]) => `${phase} ${duration(seconds)}`).join(", ") },
  { title: "When", cell: (row) => moment(row.at) }, { title: "Application", cell: callerOf },
  { title: "Topic", cell: (row) => row.topic ?? "" }, { title: "Status", cell: (row) => row.status },
  { title: "Request id", cell: (row) => requestId(row.request_id) },
];

export async function errors(view) {
  await openMode(view);
  view.heading("Errors", { below: "What failed, for whom, and what took longest." });
  view.add(section("Errors", list(view, {
    caption: "Errors", path: "errors", live: "errors", promql: [rate("kateway_publish_errors_total", {}), rate("kateway_http_rejected_total", {})],
    columns: [
      { title: "Reason", class: "name", cell: (row) => row.reason },
      { title: "Application", cell: (row) => callerOf({ actor: row.samples[0]?.actor, ...row }) },
      { title: "Topic", cell: (row) => row.topic ?? "" }, { title: "Count", sort: "count", number: true, cell: (row) => number(row.count) },
      { title: "First", cell: (row) => moment(row.first) }, { title: "Last", cell: (row) => moment(row.last) },
      { title: "Request ids", class: "text", cell: (row) => h("span", { class: "rowactions" }, row.samples.map((sample) => requestId(sample.request_id))) },
    ],
    empty: () => "Nothing has failed.",
  }).element));
  view.add(slowest(view, 100));
}

/** The slowest requests and their phases. */
export function slowest(view, limit) {
  const slow = table("Slowest", SLOW_COLUMNS, [], { empty: "Nothing was slow." });
  const source = asOf(view, "slow", { query: { limit } });
  view.every(10, async () => {
    const { items } = await get("slow", { limit }, view.signal);
    if (!slow.body.matches(":hover") && !slow.body.contains(document.activeElement)) slow.paint(items);
    source.tell();
  });
  return section("Slowest requests and their phases", slow.element, source);
}

export function requestId(id) {
  if (!id) return "";
  return button(id, () => navigator.clipboard.writeText(id), { class: "linklike code", "aria-label": `Copy request id ${id}` });
}

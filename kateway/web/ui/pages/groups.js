// Groups: which lag, since when, whose fault.
import { h, list } from "../parts.js";
import { GROUP_COLUMNS, KINDS } from "../groups.js";
const STATES = ["reading", "lingering", "not-read-here", ...Object.keys(KINDS)];

export async function groups(view) {
  view.heading("Groups", { below: "Which lag, since when, whose fault, when done." });
  view.add(list(view, {
    caption: "Groups",
    path: "groups", live: "groups", promql: ["kateway_group_lag_records", "kateway_group_oldest_seconds"],
    filters: [{ name: "state", label: "State", any: "any state", options: STATES }],
    columns: GROUP_COLUMNS,
    empty: () => "No group is read through this gateway just now. One begins with: curl -N http://GATEWAY:9090/v1/topics/TOPIC/GROUP",
  }).element);
  view.add(h("p", { class: "muted" }, "Groups that are read through this gateway. One that is not can be opened from its topic's tab Groups."));
}

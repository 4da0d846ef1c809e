// Audit: who did what, filtered, to be saved.
import { button, fetched, list, mark, moment, tried } from "../parts.js";
import { save } from "../profile.js";
import { requestId } from "./errors.js";
export async function audit(view) {
  view.heading("Audit", {
    below: "Who did what.",
    actions: [button("Export", async () => {
      await tried(async () => {
        save("kateway-audit.ndjson", await (await fetched("GET", "audit", { accept: "application/x-ndjson", query: { limit: 1000 } })).text());
      });
    }, { class: "plain" })],
  });
  view.add(list(view, {
    caption: "Audit", path: "audit", search: false,
    filters: ["actor", "action", "object", "outcome"].map((name) => ({ name, label: name[0].toUpperCase() + name.slice(1) })),
    columns: [
      { title: "Time", cell: (row) => moment(row.time) }, { title: "Actor", cell: (row) => row.actor },
      { title: "Action", class: "name", cell: (row) => row.action }, { title: "Object", class: "text", cell: (row) => row.object },
      { title: "Outcome", cell: (row) => mark(row.outcome === "ok" ? "ok" : "bad", row.outcome) },
      { title: "Change", class: "text", cell: (row) => difference(row.before, row.after) }, { title: "Address", cell: (row) => row.address },
      { title: "Request id", cell: (row) => requestId(row.request_id) },
    ],
    empty: () => "Nothing was changed yet.",
  }).element);
}

/** What a change made of an entry: the members that differ. */
function difference(before, after) {
  if (!before || !after) return after ? `made ${JSON.stringify(after)}` : before ? `was ${JSON.stringify(before)}` : "";
  return Object.keys({ ...before, ...after }).filter((member) => JSON.stringify(before[member]) !== JSON.stringify(after[member]))
    .map((member) => `${member}: ${JSON.stringify(before[member])} → ${JSON.stringify(after[member])}`).join(", ");
}

// A topic's transforms: its steps as JSON, tried on its last records before they are in force.
import { button, call, confirmDeletion, copyable, duration, field, get, go, h, href, jsonOf, path, plural, putOver, replace, say, section, table, tried } from "./parts.js";
const EXAMPLE = { in: [{ require: "record.json.amount > 0", message: "amount must be positive" }], out: [{ mask: ["/card/number"], with: "****" }] };
const shortJson = (value) => (value === null || value === undefined ? "" : JSON.stringify(value));

export async function transforms(view, names) {
  const where = `transforms/${path(...names)}`;
  let entry = null;
  let etag = null;
  const { items } = await get("transforms", { contains: names.join("/") }, view.signal);
  if (items.some((each) => each.name === names.join("/"))) {
    ({ data: entry, etag } = await call("GET", where, { signal: view.signal }));
  }
  const here = href(["topics", ...names], { tab: "transforms" });
  const outcome = h("div");
  const shown = table("Tried records", [
    { title: "Place", cell: (row) => (row.offset === null || row.offset === undefined ? "given" : `${row.partition ?? "?"}:${row.offset}`) },
    { title: "Outcome", cell: (row) => row.outcome }, { title: "Before", class: "text", cell: (row) => shortJson(row.before) },
    { title: "After", class: "text", cell: (row) => shortJson(row.after) },
    { title: "Steps", class: "text", cell: (row) => row.steps.map((step) => `${step.step}${step.error ? `: ${step.error.detail}` : step.dropped ? ": dropped" : ""}`).join("; ") },
    { title: "Time", number: true, cell: (row) => duration(row.seconds) },
  ], [], { empty: "Nothing was tried yet." });
  const attempt = async () => {
    const direction = form.elements.direction.value;
    await tried(async () => {
      const steps = jsonOf(form, "steps")?.[direction] ?? [];
      const given = form.elements.sample.value.trim();
      const json = { direction, steps };
      if (given) json.records = [{ value: given }];
      else json.last = 10;
      const { data } = await call("POST", `${where}/try`, { json });
      shown.paint(data.records);
      replace(outcome, h("p", { role: "status" }, `${plural(data.records.length, "record")} tried; nothing is changed.`));
    }, outcome);
  };
  const save = async (event) => {
    event.preventDefault();
    await tried(async () => {
      const mine = await putOver(where, `The transforms of ${names.join("/")}`, etag, jsonOf(form, "steps"));
      say(mine ? "The transforms are in force." : "The version in force stays.", { keep: true });
      go(here);
    }, outcome);
  };
  const form = h("form", { onsubmit: save },
    field("Steps", "steps", {
      rows: 12, value: JSON.stringify(entry ?? { in: [], out: [] }, null, 2),
      hint: `in: before a record is written; out: before it is read. For example ${JSON.stringify(EXAMPLE)}`,
    }),
    h("div", { class: "columns" },
      field("Try the direction", "direction", { options: ["in", "out"] }),
      field("On this value", "sample", { hint: "Empty: on the topic's last ten records" })),
    outcome,
    h("div", { class: "actions" },
      button("Try", attempt, { class: "plain" }),
      h("button", { type: "submit", class: "primary" }, "Put in force"),
      entry && view.may("delete_transforms") && button("Delete", async () => {
        const name = names.join("/");
        if (await confirmDeletion(`transforms of ${name}`, name, () => call("DELETE", where), { consequence: "Records pass unchanged from then on." })) {
          say("The transforms are deleted.", { keep: true });
          go(here);
        }
      }, { class: "danger" })));
  if (!view.may("put_transforms", names[0])) {
    view.add(section("Transforms", entry ? copyable(JSON.stringify(entry, null, 2), "Steps") : h("p", { class: "muted" }, "It has none: records pass as they are.")));
    return;
  }
  view.add(section("Transforms", !entry && h("p", { class: "muted" }, "It has none: records pass as they are."), form), shown.element);
}

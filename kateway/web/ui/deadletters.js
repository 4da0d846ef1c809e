// The dead letters of a group: looked at; one, some or all published to their topic again, or discarded.
import { button, call, confirmDeletion, field, formDialog, get, h, number, numberOf, path, plural, Problem, problemBox, replace, say, section, table, tried } from "./parts.js";
import { recordColumns } from "./records.js";
const DONE = { redrive: "redriven", discard: "discarded" };
const placeOf = ({ partition, offset }) => ({ partition, offset });

export async function deadLetters(view, row, where) {
  const name = `${row.reader}/${row.group}`;
  const progress = h("div", { role: "status" });
  const trouble = h("div");
  const chosen = new Map();
  const choices = h("span", { class: "rowactions" });
  const may = { redrive: view.may("redrive"), discard: view.may("discard") };
  const start = async (what, json, told) => {
    await tried(async () => {
      await call("POST", `${where}/${what}`, { json });
      say(told);
      await follow(what);
    });
  };
  const some = (what, letters) => start(what, { records: letters.map(placeOf) },
    `${plural(letters.length, "dead letter")} ${what === "redrive" ? "on the way to the topic" : "being discarded"}.`);
  const discard = async (letters) => {
    const count = letters ? plural(letters.length, "dead letter") : "all dead letters";
    let sure = false;
    await confirmDeletion(`${count} of ${name}`, name, () => { sure = true; }, {
      label: "Discard", consequence: "They are acknowledged in the queue and published nowhere: no reader of it gets them again.",
    });
    if (sure) await (letters ? some("discard", letters) : start("discard", { all: true }, "The dead letters are being discarded."));
  };
  const choose = () => replace(choices, chosen.size > 0 && [
    may.redrive && button(`Redrive ${chosen.size} chosen`, () => some("redrive", [...chosen.values()]), { class: "plain" }),
    may.discard && button(`Discard ${chosen.size} chosen`, () => discard([...chosen.values()]), { class: "plain" })]);
  const shown = table("Records", recordColumns(may.redrive || may.discard ? {
    choose: (record) => {
      const place = `${record.partition}:${record.offset}`;
      const choice = h("input", { type: "checkbox", "aria-label": `Choose ${place}`, onchange: () => {
        if (choice.checked) chosen.set(place, record);
        else chosen.delete(place);
        choose();
      } });
      return choice;
    },
    actions: may.redrive && ((record) => button("Redrive", () => some("redrive", [record]), { class: "plain small", "aria-label": `Redrive ${record.partition}:${record.offset}` })),
  } : {}), [], { empty: "Not looked at yet: every look is in the audit." });
  const look = async () => {
    chosen.clear();
    choose();
    try {
      const found = await get(`records/${path(row.application, row.topic, row.version)}`, { queue: "dead", group: name, last: 100 }, view.signal);
      replace(trouble);
      shown.paint(found.records, "It has no dead letters.");
    } catch (error) {
      if (error.status === 404) shown.paint([], "It has no dead letters.");
      else if (error.name !== "AbortError") replace(trouble, problemBox(error));
    }
  };
  const follow = async (what) => {
    while (!view.left) {
      let state;
      try {
        state = await get(`${where}/${what}`, {}, view.signal);
      } catch (error) {
        // none has been started yet
        if (error instanceof Problem && error.status === 404) return;
        throw error;
      }
      const of = state.total === null || state.total === undefined ? "" : ` of ${number(state.total)}`;
      replace(progress, h("p", null, `${what === "redrive" ? "Redrive" : "Discard"} ${state.state}: ${number(state[DONE[what]])}${of} ${DONE[what]}, ${number(state.failed)} failed.`,
        state.missing?.length > 0 && ` ${plural(state.missing.length, "letter")} not met: done with before, with a client, or too far behind others that stay.`,
        state.error && ` ${state.error.detail}`));
      if (state.ended) break;
      await new Promise((resolve) => { setTimeout(resolve, 1000); });
    }
    await look();
  };
  const all = async () => {
    const json = await formDialog("Redrive all dead letters", {
      intro: h("p", null, `Each is published to ${row.application}/${row.topic}/${row.version} again and acknowledged in the queue. Every group of the topic reads it again.`),
      fields: [field("Records a second", "pace", { type: "number", min: "0", step: "any", hint: "Empty: as fast as they go" })],
      label: "Redrive",
      submit: (form) => ({ all: true, per_second: numberOf(form, "pace") }),
    });
    if (json) await start("redrive", json, "The redrive has begun.");
  };
  view.add(section("Dead letters",
    h("p", { class: "muted" }, "Records that it could not deliver. The last hundred that are in the queue are shown, those that are done with too."),
    h("div", { class: "actions" }, button("Look", look, { class: "plain" }), may.redrive && button("Redrive all", all, { class: "plain" }),
      may.discard && button("Discard all", () => discard(null), { class: "plain" }), choices),
    progress, trouble, shown.element));
}

// Moves a group, after a look at what that would change.
import { button, call, field, formDialog, h, jsonOf, number, problemBox, replace, say, table, textOf } from "./parts.js";
function wanted(form) {
  const to = form.elements.to.value;
  if (to === "timestamp") return { timestamp: new Date(textOf(form, "moment")).getTime() };
  if (to === "offsets") return { offsets: jsonOf(form, "offsets") };
  return { to };
}

export async function moveDialog(where, query, moved) {
  const preview = h("div");
  let looked = null;
  const look = async (form) => {
    try {
      const json = wanted(form);
      const { data } = await call("PUT", `${where}/offsets`, { query: { ...query, dry_run: "1" }, json });
      looked = JSON.stringify(json);
      replace(preview,
        data.readers > 0 && h("p", { class: "notice warn" }, `It has ${number(data.readers)} readers: a group can be moved only when nobody reads it.`),
        changes(data.partitions));
    } catch (error) {
      looked = null;
      replace(preview, problemBox(error));
    }
    form.dispatchEvent(new Event("input"));
  };
  const done = await formDialog("Move offsets", {
    intro: h("p", null, "The group reads on from another place. Records before it are skipped, those after it are read again."),
    fields: [
      field("To", "to", { options: [["earliest", "the first record there is"], ["latest", "the end: only what is written from now on"], ["timestamp", "a time"], ["offsets", "offsets by partition"]] }),
      field("Time", "moment", { type: "datetime-local", step: "1" }),
      field("Offsets", "offsets", { rows: 2, hint: "JSON, for example {\"0\": 17, \"1\": 4}" }),
      button("Preview", (event) => look(event.target.form), { class: "plain" }),
      preview,
    ],
    label: "Move offsets",
    // only what was looked at is done
    ready: (form) => {
      const to = form.elements.to.value;
      form.elements.moment.closest(".field").hidden = to !== "timestamp";
      form.elements.offsets.closest(".field").hidden = to !== "offsets";
      try {
        return looked !== null && looked === JSON.stringify(wanted(form));
      } catch {
        return false;
      }
    },
    submit: async (form) => {
      await call("PUT", `${where}/offsets`, { query, json: wanted(form) });
      return true;
    },
  });
  if (!done) return;
  say("The group is moved.");
  await moved();
}

function changes(moves) {
  const shown = (value) => (value === null ? "none" : number(value));
  return table("Preview", Object.keys(moves[0] ?? {}).map((member) => ({
    title: member.replaceAll("_", " "), number: true, cell: (move) => shown(move[member]),
  })), moves).element;
}

// The keys of an application: made and rotated with the secret shown once, revoked.
import { ago, button, call, closing, confirmDeletion, copyable, dialog, field, formDialog, h, list, moment, numberOf, path, putOver, quotaFields, quotaOf, say, sectionWith, textOf } from "./parts.js";
const KINDS = { pub: "publishes", sub: "reads" };

export function keysTable(view, app) {
  const where = `applications/${path(app)}/keys`;
  const keys = list(view, {
    caption: "Keys",
    path: where,
    prefix: "keys-",
    columns: [
      { title: "Key", sort: "name", class: "name", cell: (row) => h("code", null, row.key) },
      { title: "Kind", sort: "kind", cell: (row) => `${row.kind}: ${KINDS[row.kind] ?? ""}` }, { title: "Made", sort: "made", cell: (row) => moment(row.made) },
      { title: "Last used", cell: (row) => ago(row.last_used) },
      { title: "Old secret until", cell: (row) => (row.old_secret_until ? moment(row.old_secret_until) : "") },
      {
        title: "Actions",
        cell: (row) => h("span", { class: "rowactions" },
          view.may("rotate_key") && button("Rotate", () => rotate(where, row, keys), { "aria-label": `Rotate ${row.key}`, class: "plain small" }),
          view.may("set_key_quota") && !view.session.application && button("Limits", () => limits(where, row, keys), { "aria-label": `Limits of ${row.key}`, class: "plain small" }),
          view.may("delete_key") && button("Revoke", () => revoke(where, row, keys), { "aria-label": `Revoke ${row.key}`, class: "plain small" })),
      },
    ],
    empty: () => "There is no key yet: without one the application can neither publish nor read.",
  });
  return sectionWith("Keys", view.may("make_key") && button("Create key", () => create(view, app, where, keys), { class: "primary" }), keys.element);
}

async function create(view, app, where, keys) {
  const made = await formDialog(`Create key of ${app}`, {
    fields: [
      field("Kind", "kind", { options: [["pub", "pub: publishes"], ["sub", "sub: reads"]] }),
      !view.session.application && field("Name", "key", { pattern: "[A-Za-z0-9_\\-]{1,64}", hint: "Empty: the gateway makes one up" }),
    ],
    label: "Create",
    submit: async (form) => {
      const json = { kind: form.elements.kind.value, key: form.elements.key?.value.trim() || undefined };
      return (await call("POST", where, { json })).data;
    },
  });
  if (!made) return;
  await showSecret(made, "made");
  say(`The key ${made.key} is made.`);
  await keys.reload();
}

async function rotate(where, row, keys) {
  const made = await formDialog(`Rotate ${row.key}`, {
    intro: h("p", null, "The key gets a new secret. The old one works on for as long as you say."),
    fields: [field("Seconds that the old secret works on", "grace", { type: "number", min: "0", value: "3600" })],
    label: "Rotate",
    submit: async (form) => (await call("POST", `${where}/${path(row.key)}/rotate`, { json: { grace_seconds: numberOf(form, "grace") } })).data,
  });
  if (!made) return;
  await showSecret(made, "rotated");
  say(`The key ${made.key} has a new secret.`);
  await keys.reload();
}

function showSecret(made, what) {
  return dialog(`The key ${made.key} is ${what}`, (close) => [
    h("p", null, h("strong", null, "The secret is shown this once."), " The gateway keeps only a hash of it."),
    copyable(made.secret, "Secret"),
    h("p", null, "As headers of a request:"),
    copyable(`${made.kind === "pub" ? "Pubkey" : "Subkey"}: ${made.key}\nSecret: ${made.secret}`, "Headers"),
    closing(close, "I have it"),
  ]);
}

async function limits(where, row, keys) {
  const place = `${where}/${path(row.key)}`;
  const read = await call("GET", place);
  let overtaken = false;
  const done = await formDialog(`Limits of ${row.key}`, {
    intro: h("p", null, "Of this key alone, beside its application's."),
    fields: quotaFields(read.data.quota),
    label: "Save",
    submit: async (form) => {
      const quota = quotaOf(form);
      overtaken = !(await putOver(place, row.key, read.etag, { quota: Object.keys(quota).length ? quota : null }));
      return true;
    },
  });
  if (done) say(overtaken ? `The limits of ${row.key} stay as they were.` : `The limits of ${row.key} are in force.`);
  await keys.reload();
}

async function revoke(where, row, keys) {
  const gone = await confirmDeletion(`key ${row.key}`, row.key, () => call("DELETE", `${where}/${path(row.key)}`), {
    consequence: "Requests with it fail from now on, and its open streams end within a second.", label: "Revoke",
  });
  if (gone) say(`The key ${row.key} is revoked.`);
  await keys.reload();
}

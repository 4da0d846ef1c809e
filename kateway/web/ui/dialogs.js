// Dialogs: a form in one, a deletion that asks for the typed name, two versions side by side. Focus goes back.
import { Problem } from "./api.js";
import { button, freshId, h, replace, submitted } from "./dom.js";
import { problemBox } from "./notices.js";
/** Shows a dialog; `build(close)` gives its content. Resolves with what `close` is given, undefined when escaped. */
export function dialog(title, build, { wide = false } = {}) {
  const before = document.activeElement;
  const id = freshId("dialog");
  const element = h("dialog", { "aria-labelledby": id, class: wide ? "wide" : null });
  return new Promise((resolve) => {
    let answer;
    const close = (value) => {
      answer = value;
      element.close();
    };
    element.append(h("h2", { id }, title), ...build(close));
    element.addEventListener("close", () => {
      element.remove();
      (before?.isConnected ? before : document.getElementById("title"))?.focus();
      resolve(answer);
    });
    document.body.append(element);
    element.showModal();
  });
}

/** What ends a dialog that only shows something. */
export const closing = (close, label = "Close", ...more) => h("div", { class: "actions" }, more, button(label, () => close(), { class: "primary" }));

/** A form in a dialog. `submit(form)` does it: a problem is shown and the dialog stays. */
export function formDialog(title, { fields, label, submit, danger = false, intro, ready = () => true }) {
  return dialog(title, (close) => {
    const trouble = h("div");
    const send = h("button", { type: "submit", class: danger ? "danger" : "primary" }, label);
    const form = h("form", {
        onsubmit: submitted(async () => {
          send.disabled = true;
          replace(trouble);
          try {
            close(await submit(form));
          } catch (error) {
            if (!(error instanceof Problem)) console.error(error);
            replace(trouble, problemBox(error));
          }
          check();
        }),
        oninput: () => check(),
      },
      intro && h("div", { class: "intro" }, intro),
      fields,
      trouble,
      h("div", { class: "actions" }, send, button("Cancel", () => close(undefined), { class: "plain" })),
    );
    const check = () => { send.disabled = !ready(form); };
    check();
    return [form];
  });
}

/** Asks for the typed name before something is gone. Resolves true when it was done. */
export async function confirmDeletion(what, name, remove, { consequence, fields = [], label = "Delete" } = {}) {
  const id = freshId("typed");
  const done = await formDialog(`${label} ${what}`, {
    intro: [h("p", null, consequence), h("p", null, "Type ", h("strong", null, name), " to go on.")],
    fields: [
      h("div", { class: "field" }, h("label", { for: id }, "Name"), h("input", { id, name: "typed", autocomplete: "off", spellcheck: "false" })),
      fields,
    ],
    label,
    danger: true,
    ready: (form) => form.elements.typed.value === name,
    submit: async (form) => {
      await remove(form);
      return true;
    },
  });
  return done === true;
}

/** Two versions side by side, for a change that somebody else has come before. Resolves "theirs" or "mine". */
export function conflictDialog(name, theirs, mine) {
  const members = [...new Set([...Object.keys(theirs), ...Object.keys(mine)])];
  const shown = (value) => (value === undefined ? "" : JSON.stringify(value));
  return dialog(`${name} was changed meanwhile`, (close) => [
    h("p", null, "Somebody else changed it after this page had read it. Both versions:"),
    h("table", null,
      h("caption", null, "Versions"),
      h("thead", null, h("tr", null, ["Member", "In force", "Yours"].map((each) => h("th", { scope: "col" }, each)))),
      h("tbody", null, members.map((member) => {
        const differs = shown(theirs[member]) !== shown(mine[member]);
        return h("tr", { class: differs ? "differs" : null }, h("th", { scope: "row" }, member, differs && " (differs)"),
          h("td", null, shown(theirs[member])), h("td", null, shown(mine[member])));
      }))),
    h("div", { class: "actions" },
      button("Keep what is in force", () => close("theirs"), { class: "primary" }),
      button("Put mine in its place", () => close("mine"), { class: "plain" })),
  ], { wide: true });
}

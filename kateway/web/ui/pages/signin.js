// Sign in: with the admin token, or by the link of an application's portal.
import { field, get, go, h, href, replace, sessionHalf, submitted, textOf, tried } from "../parts.js";
import { signIn } from "../session.js";
export async function signin(view) {
  const { gateway, version } = await get("session");
  view.heading("Sign in", { below: `To ${gateway ?? "the gateway"} at ${location.host}, kateway ${version ?? ""}.` });
  const trouble = h("div");
  const onwards = () => go(view.query.then?.startsWith("#/") ? view.query.then : href([]));
  const enter = async (secret) => {
    replace(trouble);
    await tried(async () => {
      await signIn(secret);
      onwards();
    }, trouble);
  };
  if (view.session?.needed && !view.query.link) {
    onwards();
    return;
  }
  if (view.session && !sessionHalf.get()) {
    view.add(h("p", null, "This gateway has no admin token: it takes every call that comes over this listener, and there is nothing to sign in to."));
    return;
  }
  if (view.query.link) {
    // used up by this: it must not stay in the history of the browser
    const link = view.query.link;
    view.note({ link: "" });
    view.add(trouble, h("p", null, "The link is being redeemed…"));
    await enter({ link });
    return;
  }
  const form = h("form", {
      class: "card narrow",
      onsubmit: submitted(async () => {
        const token = textOf(form, "token");
        form.elements.token.value = "";
        await enter({ token });
      }),
    },
    field("Admin token", "token", {
      type: "password", required: true, hint: "The line in the file that [admin] token_file names. It is sent once and kept nowhere.",
    }),
    trouble,
    h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Sign in")),
  );
  view.add(form);
  form.elements.token.focus();
}

// A profile of ten seconds of the running gateway: its hottest stacks, all of them to be saved.
import { button, closing, dialog, fetched, h, number, say, table, tried } from "./parts.js";
export async function profile(event) {
  say("The gateway is being sampled for 10 seconds…");
  await tried(async () => {
    const response = await fetched("POST", "profile", { json: { seconds: 10 }, accept: "text/plain" });
    const lines = (await response.text()).trim().split("\n");
    say("The profile is made.");
    await show(lines);
  }, null, event.target);
}

function show(lines) {
  const stacks = lines.map((line) => {
    const space = line.lastIndexOf(" ");
    return { frames: line.slice(0, space).split(";"), samples: Number(line.slice(space + 1)) };
  }).sort((a, b) => b.samples - a.samples);
  const all = stacks.reduce((sum, each) => sum + each.samples, 0) || 1;
  return dialog("Profile of 10 seconds", (close) => [
    table("Hottest stacks", [
      { title: "Share", number: true, cell: (row) => `${number(Math.round((row.samples / all) * 1000) / 10)} %` },
      { title: "Where", class: "text", cell: (row) => row.frames.at(-1) },
      { title: "Called from", class: "text", cell: (row) => row.frames.slice(-4, -1).join(" › ") },
    ], stacks.slice(0, 15)).element,
    closing(close, "Close", button("Save all stacks", () => save("kateway-profile.txt", lines.join("\n")), { class: "plain" })),
  ], { wide: true });
}

export function save(name, text) {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

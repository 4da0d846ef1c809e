// One group: its lag by partition, its readers, moves of it, its dead letters.
import { asOf, button, duration, facts, get, h, href, link, mark, number, openMode, replace, section, table } from "../parts.js";
import { deadLetters } from "../deadletters.js";
import { groupNames, groupPath, readerCount, verdict } from "../groups.js";
import { moveDialog } from "../offsets.js";
import { promqlOf, usage } from "../usage.js";
export async function group(view) {
  const { reader, app, topic, version, group: name } = view.names;
  const row = { reader, application: app, topic, version, group: name };
  const where = groupPath(row);
  const dead = view.query.queue === "dead";
  const query = dead ? { queue: "dead" } : {};
  const move = view.may("move_group") && button("Move offsets", () => moveDialog(where, query, () => refresh()), { class: "plain" });
  view.heading(`${reader}/${name}`, {
    above: ["Groups", href(["groups"])],
    below: h("span", null, dead ? "The readers of the dead letters of " : "Reads ", view.may("topic", app) ? link(`${app}/${topic}/${version}`, href(["topics", app, topic, version])) : `${app}/${topic}/${version}`),
    actions: [move],
  });
  const shortName = groupNames(row).slice((await openMode(view)) ? 1 : 0).join("/");
  const source = asOf(view, where, { query, promql: promqlOf("group", groupNames(row).join("/"), ["kateway_group_lag_records", "kateway_group_oldest_seconds", "kateway_group_unacknowledged_records"]) });
  const words = h("div");
  const figures = h("div");
  const partitions = table("Partitions", [
    { title: "Partition", number: true, cell: (each) => String(each.partition) }, { title: "End", number: true, cell: (each) => number(each.end) },
    { title: "Committed", number: true, cell: (each) => number(each.committed) }, { title: "Lag", number: true, cell: (each) => number(each.lag) },
    { title: "Leased", number: true, cell: (each) => number(each.leased) }, { title: "Oldest", number: true, cell: (each) => duration(each.oldest_seconds) },
    { title: "Oldest leased", number: true, cell: (each) => duration(each.oldest_leased_seconds) },
  ], [], { empty: "Its topic has no partition." });
  const readers = table("Readers", [
    { title: "Application", cell: (each) => each.caller }, { title: "Address", cell: (each) => each.address },
    { title: "Reads by", cell: (each) => `${each.kind}, acknowledges ${each.mode === "auto" ? "by reading" : "itself"}` },
    { title: "Since", number: true, cell: (each) => duration(each.seconds) },
    { title: "State", cell: (each) => (each.blocked || each.blocked_share >= 0.5 ? mark("warn", "blocked") : mark("ok", each.waiting ? "waits for records" : "reading")) },
    { title: "Blocked", number: true, cell: (each) => (each.blocked_share === null ? "–" : `${number(Math.round(each.blocked_share * 100))} %`) },
    { title: "Partitions", cell: (each) => each.partitions.join(", ") }, { title: "Unsettled", number: true, cell: (each) => number(each.unsettled_records) },
  ], [], { empty: "Nobody reads it through this gateway." });
  view.add(words, figures, source, section("Lag over time", await usage(view, shortName, "group")),
    section("Partitions", partitions.element), section("Readers", readers.element));
  const tell = (found) => {
    const reason = found.verdict?.state !== "unknown" && found.verdict?.reason;
    replace(words, h("p", { class: "verdictline" }, verdict(found), reason && ` ${reason}`,
      found.rebalancing && " It is rebalancing.", found.last_error && ` Last error: ${found.last_error}`));
    replace(figures, facts([
      ["Lag", number(found.lag), found.lag_age_seconds > 5 ? `records, ${duration(found.lag_age_seconds)} ago` : "records"],
      ["Oldest", duration(found.oldest_seconds)],
      ["Unacknowledged", number(found.unacknowledged_records)],
      ["Readers", number(readerCount(found))],
      ["Done in", duration(found.drain_seconds), found.drain_seconds === null ? "unknown" : "at this rate"],
    ]));
    source.tell();
  };
  let asked = null;
  const refresh = async () => {
    asked = await get(where, query, view.signal);
    tell(asked);
    partitions.paint(asked.partitions);
    readers.paint(asked.readers);
  };
  await view.every(5, refresh);
  // of a group that is not read here a row has a lag of a minute ago: what the store has said since is better
  const newest = (row) => (asked && row.lag_age_seconds > 5 ? { ...row, lag: asked.lag, lag_age_seconds: asked.lag_age_seconds, oldest_seconds: asked.oldest_seconds } : row);
  view.live("groups", (rows) => rows.map(newest).forEach(tell), [shortName + (dead ? "?queue=dead" : "")]);
  if (!dead && view.may("peek", app)) await deadLetters(view, row, where);
}

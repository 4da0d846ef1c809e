// Series of /history as points, null where nothing is known; what changed meanwhile, as marks.
import { get, known } from "./api.js";
import { h } from "./dom.js";
const WINDOWS = { "15m": "15 min", "3h": "3 hours", "24h": "24 hours", "7d": "7 days" };
const LEAST = 13;
const KINDS = { start: "deploy", reload: "reload", breaker: "breaker", drain: "drain" };
/** A choice of the charts' window, kept in the URL. */
export function windowChoice(view, changed) {
  const choice = h("select", { "aria-label": "Window", onchange: () => {
    view.note({ window: choice.value });
    changed();
  } }, Object.entries(WINDOWS).map(([value, title]) => h("option", { value, selected: value === (view.query.window ?? "15m") }, title)));
  return choice;
}

/** Points of the named series; null where the gateway has no history. */
export async function series(names, window, object, signal) {
  const found = await known("history", { series: names.join(","), window, object }, signal);
  if (!found) return null;
  const from = Date.parse(found.from);
  const points = {};
  // it begins with what is known: the time before the gateway's first start says nothing
  const whole = Object.values(found.series);
  const known_ = whole[0].findIndex((_, place) => whole.some((values) => values[place] !== null));
  const start = Math.max(0, Math.min(known_ < 0 ? 0 : known_, whole[0].length - LEAST));
  for (const [name, values] of Object.entries(found.series)) {
    points[name] = values.slice(start).map((value, place) => [from + (start + place) * found.step_seconds * 1000, value]);
  }
  return points;
}

/** What a chart marks: when, its kind, and all of it in words. */
export async function marks(view) {
  if (!view.may("events")) return [];
  const { items } = await get("events", { limit: 200 }, view.signal);
  return items.filter((each) => KINDS[each.kind]).map((each) => ({
    at: Date.parse(each.at), kind: KINDS[each.kind], words: `${KINDS[each.kind]} ${each.object} ${each.outcome}`,
  }));
}

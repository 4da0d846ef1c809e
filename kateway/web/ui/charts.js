// Line charts as SVG: a hole where nothing is known, a cursor by arrow keys and pointer, marks of what changed, and behind
// each the figures as a table, as curl and as PromQL.
import { curl } from "./api.js";
import { copyable, h, replace, svg } from "./dom.js";
import { moment } from "./format.js";
const HEIGHT = 160;
const LEFT = 66;
const BOTTOM = 22;
const TOP = 14;
const MOST_POINTS = 300;
const WORD = 46;

/** Thins points out, keeping the largest of each few: a peak must not vanish. */
export function thinned(points, most = MOST_POINTS) {
  if (points.length <= most) return points;
  const size = Math.ceil(points.length / most);
  const kept = [];
  for (let start = 0; start < points.length; start += size) {
    const few = points.slice(start, start + size).filter(([, value]) => value !== null);
    kept.push(few.length ? few.reduce((a, b) => (b[1] > a[1] ? b : a)) : points[start]);
  }
  return kept;
}

/** A round figure at or above the largest. */
export function ceiling(largest) {
  if (!(largest > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(largest));
  return [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= largest);
}

/** The line's path; a null lifts the pen. */
export function pathOf(points, x, y) {
  let pen = "M";
  let path = "";
  points.forEach(([at, value], place) => {
    if (value === null) {
      pen = "M";
      return;
    }
    const alone = pen === "M" && (points[place + 1]?.[1] ?? null) === null;
    path += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    // a point between two holes is seen as one
    if (alone) path += "h1";
    pen = "L";
  });
  return path;
}

const largestOf = (lines) => Math.max(...lines.flatMap((each) => each.points.map(([, value]) => value)).filter((value) => value !== null), 0);

/** Puts new charts in place of the old, but not while one is looked at: a cursor or an open table would go. */
export function repaint(holder, charts) {
  if (holder.matches(":hover") || holder.contains(document.activeElement) || holder.querySelector("details[open]")) return;
  replace(holder, charts);
}

/**
 * `series`: name and points of [milliseconds, value or null], its own `shown` where it has an axis of its own, at the right;
 * `shown` formats a value; `marks` as of `history.js`; `source`: the view, the query of /history, queries of PromQL.
 */
export function chart(title, series, shown, { marks = [], source, empty = "Nothing is known of it yet." } = {}) {
  const lines = series.map((each) => ({ ...each, points: thinned(each.points), format: each.shown ?? shown }));
  const all = lines.flatMap((each) => each.points);
  const caption = h("figcaption", null, title);
  if (!all.some(([, value]) => value !== null)) return h("figure", { class: "chart" }, caption, h("p", { class: "muted" }, empty));
  const times = all.map(([at]) => at);
  const from = Math.min(...times);
  const to = Math.max(...times, from + 1);
  const right = lines.some((each) => each.shown) ? LEFT : 8;
  const width = window.innerWidth < 640 ? 320 : 600;
  const x = (at) => LEFT + ((at - from) / (to - from)) * (width - LEFT - right);
  const y = (share) => HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP);
  const tops = [lines.filter((each) => !each.shown), lines.filter((each) => each.shown)].map((each) => ceiling(largestOf(each)));
  const topOf = (line) => tops[line.shown ? 1 : 0];
  const seen = marks.filter((each) => each.at >= from && each.at <= to).sort((a, b) => a.at - b.at);
  // a word has room where the last one that is written ends before it
  const side = (each) => (x(each.at) > width / 2 ? "end" : "start");
  const worded = seen.reduce((kept, each) => (kept.length && x(each.at) - x(kept.at(-1).at) < WORD * (side(each) === side(kept.at(-1)) ? 1 : 2) ? kept : [...kept, each]), []);
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  const readout = h("output", { class: "readout" });
  const longest = lines.reduce((a, b) => (b.points.length > a.points.length ? b : a)).points;
  let place = longest.length - 1;
  const told = (each, value) => (value === null || value === undefined ? "unknown" : each.format(value));
  const tell = (to_) => {
    place = Math.min(longest.length - 1, Math.max(0, to_));
    const at = longest[place][0];
    const near = (longest[1]?.[0] ?? at) - longest[0][0];
    cursor.setAttribute("x1", x(at));
    cursor.setAttribute("x2", x(at));
    cursor.setAttribute("visibility", "visible");
    replace(readout, `${moment(at)}: `,
      lines.map((each) => `${lines.length > 1 ? `${each.name} ` : ""}${told(each, each.points[place]?.[1])}`).join(", "),
      seen.filter((each) => Math.abs(each.at - at) <= near).map((each) => `; ${moment(each.at)} ${each.words}`));
  };
  const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
  const last = lines.map((each) => told(each, each.points.findLast(([, value]) => value !== null)?.[1]));
  const picture = svg("svg",
    {
      viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", tabindex: "0",
      "aria-label": `${title}: now ${last.join(" and ")}. Arrow keys move a cursor.`,
      onkeydown: (event) => {
        if (!(event.key in step)) return;
        event.preventDefault();
        tell(place + step[event.key]);
      },
      onpointermove: (event) => {
        const box = picture.getBoundingClientRect();
        const at = from + (((event.clientX - box.left) / box.width) * width - LEFT) / (width - LEFT - right) * (to - from);
        const next = longest.findIndex(([time]) => time >= at);
        tell(next < 0 ? longest.length - 1 : next);
      },
    },
    [0, 0.5, 1].map((share) => [
      svg("line", { class: "grid", x1: LEFT, x2: width - right, y1: y(share), y2: y(share) }),
      (share === 1 || shown(share * tops[0]) !== shown(tops[0])) && svg("text", { class: "tick", x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, shown(share * tops[0])),
      right > 8 && svg("text", { class: "tick", x: width - right + 6, y: y(share) + 4 }, lines.find((each) => each.shown).shown(share * tops[1])),
    ]),
    svg("text", { class: "tick", x: LEFT, y: HEIGHT - 5 }, moment(from)),
    svg("text", { class: "tick", x: width - right, y: HEIGHT - 5, "text-anchor": "end" }, moment(to)),
    seen.map((each) => svg("g", { class: "event" }, svg("title", null, `${moment(each.at)} ${each.words}`),
      svg("line", { x1: x(each.at), x2: x(each.at), y1: TOP, y2: HEIGHT - BOTTOM }),
      worded.includes(each) && svg("text", { x: x(each.at), y: TOP - 4, "text-anchor": side(each) }, each.kind))),
    lines.map((each, number) => svg("path", { class: `line line${number}`, d: pathOf(each.points, x, (value) => y(value / topOf(each))) })),
    cursor);
  const legend = h("span", { class: "legend" }, lines.map((each, number) => h("span", { class: `key key${number}` }, each.name)));
  return h("figure", { class: "chart" }, caption, legend, picture, readout, behind(title, lines, told, source));
}

function behind(title, lines, told, source) {
  const details = h("details", null, h("summary", null, source ? "As a table, by curl, as PromQL" : "As a table"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("table")) return;
    details.append(h("div", { class: "frame tall", tabindex: "0", role: "group", "aria-label": `${title} as a table` },
      h("table", { class: "plaintable" },
        h("caption", { class: "hidden" }, title),
        h("thead", null, h("tr", null, h("th", { scope: "col" }, "Time"),
          lines.map((each) => h("th", { scope: "col", class: "number" }, each.name)))),
        h("tbody", null, lines[0].points.map(([at], place) => h("tr", null, h("th", { scope: "row" }, moment(at)),
          lines.map((each) => h("td", { class: "number" }, told(each, each.points[place]?.[1]))))))))) ;
    if (!source) return;
    details.append(copyable(curl("GET", "history", { query: source.query, signedIn: source.view.session.needed }), "By curl"),
      ...source.promql.map((each) => copyable(each, "As PromQL")));
  });
  return details;
}

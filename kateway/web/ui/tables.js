// Tables: rows at hand, and lists that the server filters, sorts and pages. On a narrow screen each row is a card, so
// the roles are said as well: a browser forgets a table's meaning with its layout.
import { get } from "./api.js";
import { append, button, freshId, h, replace } from "./dom.js";
import { problemBox } from "./notices.js";
import { asOf } from "./source.js";
const PAGE = 100;

function cellOf(column, row) {
  const content = column.cell ? column.cell(row) : row[column.name];
  return h("td", { role: "cell", class: column.number ? "number" : column.class, "data-label": column.title }, h("span", null, content));
}

/** A table with its caption. `columns`: title, cell(row), number, sort (the member that the server sorts by). */
export function table(caption, columns, rows, { head = (column) => column.title, empty, sortOf = () => null } = {}) {
  const body = h("tbody", { role: "rowgroup" });
  const [id, lines] = [freshId("caption"), new Map()];
  const element = h("table", { role: "table", "aria-labelledby": id }, h("caption", { id }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((column) =>
      h("th", { scope: "col", role: "columnheader", class: column.number ? "number" : null, "aria-sort": sortOf(column) },
        head(column))))), body);
  const paint = (given, none = empty) => {
    lines.clear();
    replace(body, given.map((row) => {
      const line = h("tr", { role: "row" }, columns.map((column) => cellOf(column, row)));
      lines.set(row.name, line);
      return line;
    }));
    if (!given.length) {
      append(body, h("tr", { role: "row", class: "empty" }, h("td", { role: "cell", colspan: columns.length }, none ?? "There is nothing yet.")));
    }
  };
  /** Paints what has changed of a row, where it is: nothing moves. */
  const update = (row) => columns.forEach((column, place) => {
    const old = lines.get(row.name)?.cells[place];
    if (!old || old.contains(document.activeElement)) return;
    const cell = cellOf(column, row);
    if (cell.textContent !== old.textContent) old.replaceWith(cell);
  });
  paint(rows);
  const frame = h("div", { class: "frame", tabindex: "0", role: "group", "aria-labelledby": id }, element);
  return { element: frame, paint, update, body, table: element };
}

/**
 * A list of the API: filtered, sorted and paged on the server, its state in the URL (with `prefix` where a page has
 * several; `keep` picks those that a text cannot). `live` is a view of GET live whose rows `merge` into those shown, as
 * they change and where they are; the list is read again each so many seconds, but never under the pointer.
 */
export function list(view, { caption, path, columns, query = {}, filters = [], prefix = "", empty, live, merge = (row, fresh) => fresh, promql = [], search = true, keep = () => true }) {
  const name = (member) => `${prefix}${member}`;
  const state = {};
  for (const member of ["contains", "sort", "desc", "after", ...filters.map((each) => each.name)]) {
    state[member] = view.query[name(member)] ?? "";
  }
  const holder = h("div", { class: "list" });
  const trouble = h("div");
  const foot = h("div", { class: "pager" });
  const source = asOf(view, path, { promql });
  const items = new Map();
  let asked = {};
  let turn = 0;
  const change = (changes) => {
    Object.assign(state, { after: "" }, changes);
    view.note(Object.fromEntries(Object.entries(state).map(([member, value]) => [name(member), value])));
    for (const th of shown.table.querySelectorAll("thead th")) {
      const order = sortOf(columns[th.cellIndex]);
      if (order) th.setAttribute("aria-sort", order);
    }
    return load(true);
  };
  const sortOf = (column) => {
    if (!column.sort) return null;
    if (column.sort !== (state.sort || "name")) return "none";
    return state.desc ? "descending" : "ascending";
  };
  const head = (column) => (column.sort
    ? button(column.title, () => {
      const same = (state.sort || "name") === column.sort;
      change({ sort: column.sort, desc: same ? (state.desc ? "" : "1") : column.number ? "1" : "" });
    }, { class: "sort" })
    : column.title);
  const shown = table(caption, columns, [], { head, sortOf, empty: "Reading…" });
  const follower = live && view.live(live, (rows) => {
    for (const fresh of rows.filter((each) => items.has(each.name))) {
      items.set(fresh.name, merge(items.get(fresh.name), fresh));
      shown.update(items.get(fresh.name));
    }
    source.tell(asked);
  }, undefined);
  const load = async (anyway) => {
    const at = shown.body;
    if (!anyway && (at.matches(":hover") || at.contains(document.activeElement))) return;
    const mine = (turn += 1);
    asked = { ...query, ...Object.fromEntries(Object.entries(state).filter(([, value]) => value)), limit: PAGE };
    let page;
    try {
      page = await get(path, asked, view.signal);
    } catch (error) {
      if (error.name !== "AbortError" && mine === turn) replace(trouble, problemBox(error));
      return;
    }
    // another question was asked meanwhile: its answer counts
    if (mine !== turn) return;
    replace(trouble);
    items.clear();
    for (const row of page.items.filter(keep)) {
      const fresh = follower?.rows.get(row.name);
      items.set(row.name, fresh ? merge(row, fresh) : row);
    }
    const filtered = state.contains || filters.some((each) => state[each.name]);
    shown.paint([...items.values()], filtered ? "Nothing fits the search." : empty?.());
    source.tell(asked);
    replace(foot,
      state.after && button("First page", () => change({ after: "" }), { class: "plain" }),
      page.next && button(`Next ${PAGE}`, () => change({ after: page.next }), { class: "plain" }),
      h("span", { class: "muted" }, items.size ? `${items.size} shown` : ""), source);
    follower?.only([...items.keys()]);
  };
  const find = h("input", { type: "search", class: "search", "aria-label": `Search ${caption}`, placeholder: "Search", value: state.contains, autocomplete: "off" });
  let waiting;
  find.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change({ contains: find.value }), 150);
  });
  append(holder,
    (search || filters.length > 0) && h("div", { class: "filters" }, search && find, filters.map((each) => {
      if (!each.options) {
        const text = h("input", { "aria-label": each.label, placeholder: each.label, value: state[each.name], onchange: () => change({ [each.name]: text.value.trim() }) });
        return text;
      }
      const choice = h("select", { "aria-label": each.label, onchange: () => change({ [each.name]: choice.value }) },
        [["", each.any], ...each.options.map((option) => [option, option])].map(([key, text]) =>
          h("option", { value: key, selected: key === state[each.name] }, text)));
      return choice;
    })),
    trouble, shown.element, foot);
  view.every(live ? 15 : 5, () => load(false));
  return { element: holder, reload: () => load(true) };
}

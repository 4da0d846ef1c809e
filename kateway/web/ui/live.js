// Rows as they change: one stream an open page while it is seen. Where too many are open the state is asked for each 5 s.
import { fetched, get } from "./api.js";
import { partial } from "./notices.js";
const AGAIN = 5000; // after that the state is asked for again, and a stream on which nothing has come is held back
const STREAMS = 4;
// an address of so many characters is taken by any proxy
const LONGEST = 6000;
// a proxy may keep a stream back until its end: where nothing comes the page asks, and opens no other
let heldBack = false;

/** Takes whole events out of a text, and gives the rest of it. */
export function parsed(text) {
  const blocks = text.split("\n\n");
  const rest = blocks.pop();
  const events = blocks.map((block) => Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s, 2))))
    .filter((fields) => fields.data).map((fields) => ({ kind: fields.event, data: JSON.parse(fields.data) }));
  return { events, rest };
}

/** Calls back for each event of a stream until that ends. */
export async function follow(where, query, signal, told, heard = () => {}) {
  const response = await fetched("GET", where, { query, signal, accept: "text/event-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    heard();
    const { value, done } = await reader.read();
    if (done) return;
    const { events, rest } = parsed(text + value);
    text = rest;
    for (const { kind, data } of events) told(kind, data);
  }
}

/** Has one of the streams that this browser may open, if any is left: no other tab need be refused one then. */
async function withStream(work) {
  for (let place = 0; navigator.locks && place < STREAMS; place += 1) {
    const had = await navigator.locks.request(`kateway-live-${place}`, { ifAvailable: true }, async (lock) => lock && (await work(true), true));
    if (had) return;
  }
  await work(!navigator.locks);
}

const pause = (milliseconds, signal) => new Promise((resolve) => {
  setTimeout(resolve, milliseconds);
  signal.addEventListener("abort", resolve);
});

/** Rows of `name`, a view of GET live. `told(rows)` hears which have changed; `rows` has all of them. */
export class Live {
  constructor(view, name, told) {
    this.view = view;
    this.name = name;
    this.told = told;
    this.rows = new Map();
    this.source = view.source();
    this.turn = new AbortController();
    this.running = false;
    const again = () => this.turn.abort();
    document.addEventListener("visibilitychange", again, { signal: view.signal });
    view.signal.addEventListener("abort", again);
  }
  /** Follows those of these names from now on; `null`: the first ones. */
  only(names) {
    let room = LONGEST;
    const ids = names?.filter((each) => (room -= encodeURIComponent(each).length + 3) > 0).join(",");
    if (this.running && ids === this.ids) return;
    this.ids = ids;
    if (this.running) this.turn.abort();
    else this.run();
  }
  async run() {
    this.running = true;
    while (!this.view.left) {
      this.turn = new AbortController();
      const { signal } = this.turn;
      let wait = AGAIN;
      try {
        if (document.hidden || this.ids === "") {
          this.source.heard();
          wait = 2 ** 31 - 1;
        } else {
          await withStream(async (streaming) => { wait = await this.once(streaming, signal); });
        }
      } catch (error) {
        this.source.trouble(error);
      }
      if (!signal.aborted) await pause(wait, signal);
    }
  }
  /** A stream to its end, or the state once; gives how long to wait behind it. */
  async once(streaming, signal) {
    const query = { view: this.name, ids: this.ids };
    if (streaming && !heldBack) {
      let checked = 0;
      const impatient = new AbortController();
      const patience = setTimeout(() => impatient.abort(), AGAIN);
      const check = setInterval(async () => {
        // a connection may be dead without an end: where nothing comes, any answer will do
        if (Date.now() - Math.max(this.source.at, checked) < AGAIN) return;
        checked = Date.now();
        await get("session", {}, AbortSignal.any([signal, AbortSignal.timeout(AGAIN)])).then(this.source.heard, () => {});
      }, 1000);
      try {
        await follow("live", query, AbortSignal.any([signal, impatient.signal]), (kind, data) => {
          clearTimeout(patience);
          this.take(data, kind === "state");
        }, this.source.heard);
        return 250;
      } catch (error) {
        heldBack = impatient.signal.aborted && !signal.aborted;
        if (!heldBack && error.status !== 429) throw error;
      } finally {
        clearTimeout(patience);
        clearInterval(check);
      }
    }
    this.take(await get("live", query, signal), true);
    this.source.heard();
    return AGAIN;
  }
  take({ rows, gone = [], unanswered_processes }, whole) {
    if (whole) this.rows.clear();
    for (const name of gone) this.rows.delete(name);
    for (const row of rows) this.rows.set(row.name, row);
    if (this.view.left) return;
    partial(unanswered_processes);
    this.told(rows);
  }
}

// The images of this page: the one that is shown, the next one already here, and answers on their way to the server.
//
// Answers are sent one after the other, while the next image is shown already. Each asks for the image after the next,
// so that one request does for one image. What this page holds is leased to it: renewed while it is looked at, given
// back when it is left.

import { ask, byId, picture, Refused, say } from "./api.js";

const RENEW = 60_000; // milliseconds; a lease is minutes
const AGAIN = 5_000; // an empty queue is asked again
const MOST_SKIPPED = 400;
const KEPT = 50; // answers that can be taken back: their pixels are kept

export class Queue {
  /** show(held | null): an image, or that there is none; count(waiting); fail(message | null). */
  constructor({ show, count, fail }) {
    this.show = show;
    this.count = count;
    this.fail = fail;
    this.current = null;
    this.ahead = []; // promises of held images
    this.holds = new Set(); // ids leased to this page
    this.skipped = [];
    this.answers = []; // what was answered, the last one last
    this.waiting = { queued: 0, mine: 0, others: 0 };
    this.chain = Promise.resolve();
    this.stuck = null; // an answer that did not arrive
    setInterval(() => this.renew(), RENEW);
    setInterval(() => this.look(), AGAIN);
    document.addEventListener("visibilitychange", () => this.renew());
    addEventListener("pagehide", () => this.leave());
    addEventListener("pageshow", (event) => event.persisted && location.reload());
  }

  /** The first image, and the second behind it. */
  async begin() {
    await this.more();
    await this.forward();
    await this.more();
  }

  wanted() {
    return { having: [...this.holds].slice(0, 8), skipped: this.skipped.slice(-MOST_SKIPPED) };
  }

  /** One after the other, whatever happened to the one before. */
  after(work) {
    const done = this.chain.then(work);
    this.chain = done.catch(() => {});
    return done;
  }

  more() {
    return this.after(async () => this.came(await ask("POST", "review/next", this.wanted()))).catch((error) => this.trouble(error));
  }

  /** Keep what the server gave; its pixels begin to come. */
  came({ item, waiting }) {
    this.waiting = waiting;
    this.count(waiting);
    if (!item || this.holds.has(item.sample)) return;
    this.holds.add(item.sample);
    const coming = picture(item.sample).then((pixels) => ({ item, pixels }), (error) => ({ item, error }));
    this.ahead.push(coming);
  }

  /** Show the next one that is here, else wait for what is on its way. */
  async forward() {
    this.current = null;
    if (!this.ahead.length) await this.chain;
    const coming = this.ahead.shift();
    if (!coming) {
      this.show(null);
      return;
    }
    const held = await coming;
    if (!this.holds.has(held.item.sample)) return this.forward(); // it went to somebody else
    this.current = held;
    this.show(held);
  }

  /** Send an answer, and go on. kept: what to show if it is taken back. */
  async answer(body, kept = null) {
    const held = this.current;
    if (!held || this.stuck) return;
    this.answers.push({ held, kept });
    if (this.answers.length > KEPT) drop(this.answers.shift().held);
    this.current = null;
    const sent = this.send(held, body);
    await this.forward();
    await sent;
  }

  send(held, body) {
    const { sample } = held.item;
    return this.after(async () => {
      this.holds.delete(sample);
      try {
        this.came(await ask("POST", `review/${sample}/answer`, { ...body, next: this.wanted() }));
      } catch (error) {
        this.answers = this.answers.filter((one) => one.held !== held);
        if (["conflict", "missing"].includes(error.code)) {
          this.came(await ask("POST", "review/next", this.wanted()));
          this.fail(error.message, null);
        } else {
          this.stuck = { held, body };
          this.fail(say("failed", { why: error.message }), () => this.retry());
        }
      }
    }).catch((error) => this.trouble(error));
  }

  async retry() {
    const { held, body } = this.stuck;
    this.stuck = null;
    this.fail(null);
    this.answers.push({ held, kept: null });
    this.holds.add(held.item.sample);
    await this.send(held, body);
    if (!this.current) await this.forward();
  }

  async skip() {
    const held = this.current;
    if (!held || this.stuck) return;
    const { sample } = held.item;
    this.current = null;
    this.skipped.push(sample);
    const sent = this.after(async () => {
      this.holds.delete(sample);
      this.came(await ask("POST", `review/${sample}/skip`, this.wanted()));
    }).catch((error) => this.trouble(error));
    await this.forward();
    drop(held);
    await sent;
    if (!this.current && this.ahead.length) await this.forward();
  }

  /** Take back the last answer and show its image again; the image in hand comes after it. Whether there was one. */
  async takeBack() {
    await this.chain;
    const last = this.answers.pop();
    if (!last) return false;
    const { sample } = last.held.item;
    try {
      const { item, waiting } = await this.after(() => ask("POST", `review/${sample}/undo`));
      this.holds.add(sample);
      this.waiting = waiting;
      this.count(waiting);
      if (this.current) this.ahead.unshift(Promise.resolve(this.current));
      this.current = { ...last.held, item, kept: last.kept };
      this.show(this.current);
      return true;
    } catch (error) {
      this.trouble(error);
      return false;
    }
  }

  /** What was skipped is asked for again. */
  async again() {
    this.skipped = [];
    await this.more();
    await this.forward();
  }

  /** Whether something has come, where nothing was left. */
  async look() {
    if (this.current || this.ahead.length || this.stuck || document.hidden || byId("empty").hidden) return;
    await this.more();
    if (this.ahead.length) {
      await this.forward();
      await this.more();
    }
  }

  /** Look on, while somebody looks: a hidden page lets its leases run out. */
  async renew() {
    if (document.hidden || !this.holds.size) return;
    await this.after(async () => {
      const asked = [...this.holds];
      const { samples } = await ask("POST", "review/renew", { samples: asked });
      const lost = asked.filter((id) => !samples.includes(id));
      for (const id of lost) this.holds.delete(id);
      const shown = this.current?.item.sample;
      if (shown && lost.includes(shown)) {
        this.fail(say("said_lost"), null);
        this.came(await ask("POST", "review/next", this.wanted()));
        this.forward();
      }
    }).catch((error) => this.trouble(error));
  }

  /** The page is left: its images are for others. */
  leave() {
    if (!this.holds.size) return;
    const body = new Blob([JSON.stringify({ samples: [...this.holds] })], { type: "application/json" });
    navigator.sendBeacon("/api/v1/review/return", body);
  }

  trouble(error) {
    if (!(error instanceof Refused)) throw error;
    this.fail(error.message, null);
  }
}

/** An image that is not shown again. */
function drop({ pixels }) {
  if (pixels) URL.revokeObjectURL(pixels.url);
}

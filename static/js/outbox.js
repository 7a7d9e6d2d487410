// What a person said waits here until the server has given a receipt for it: in the browser's storage,
// so that neither a reload nor a cut network loses it, one entry an answer, sent in the order given.
// Every entry carries its own key, by which the server stores it once however often it arrives.

const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 30000;
const TIMEOUT_MS = 20000; // for a server to begin its reply
const CHARACTER_MS = 0.75; // of what is sent, beside that: three bytes on a line of 4 kB a second
const REPLY_MS = 180000; // for the rest of the reply
const TOO_OLD = "data-too-old"; // in the page that refuses what carries the token of an earlier login
const MOST_KEPT_ALIVE = 20000; // characters; browsers refuse to outlive a page with more than 64 KiB

export function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  // randomUUID exists on secure origins only; a server in a local network may be without TLS.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export function csrfToken() {
  // From the cookie at each sending: a fresh login in another tab changes it.
  return document.cookie.match(/(?:^|; )csrftoken=([^;]+)/)?.[1] ?? "";
}

// One POST, in the name of the person whose page this is. It never rejects; resolves to {done, reply} |
// {refused, message, status} | {signedOut, other: whether somebody else is signed in} | {failed, faulty: whether
// the server was there and could not cope with it}.
export async function post(url, values) {
  const body = JSON.stringify(values);
  const person = document.querySelector("[data-person]")?.dataset.person;
  const tooLong = new AbortController();
  let timer = setTimeout(() => tooLong.abort(), TIMEOUT_MS + body.length * CHARACTER_MS);
  let response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        "X-CSRFToken": csrfToken(),
        Accept: "application/json",
        ...(person && { "X-Person": person }),
      },
      body,
      keepalive: body.length < MOST_KEPT_ALIVE,
      redirect: "error",
      signal: tooLong.signal,
    });
  } catch {
    return { failed: true };
  } finally {
    clearTimeout(timer);
  }
  timer = setTimeout(() => tooLong.abort(), REPLY_MS);
  let reply = null;
  let text = "";
  try {
    text = await response.text();
    reply = JSON.parse(text);
  } catch {
    // not ours: a proxy's page, or Django's
  } finally {
    clearTimeout(timer);
  }
  const unasked = response.status === 403 && (reply || text.includes(TOO_OLD));
  if (response.status === 401 || unasked) return { signedOut: true, other: Boolean(reply?.other) };
  // What a filter on the way dislikes is kept, and holds back nothing else.
  if (response.status === 500 || !reply) return { failed: true, faulty: [400, 403, 413, 500].includes(response.status) };
  if (response.ok) return { done: true, reply };
  if ([400, 404, 409, 410, 413].includes(response.status)) {
    return { refused: true, message: reply.message ?? "", status: response.status };
  }
  return { failed: true };
}

export class Outbox {
  // on: what to call with an entry and the server's word on it (delivered, refused), with of how many comparisons something
  // waits and why (waiting), and when none does (emptied, with whether it was said what became of each). They run in the
  // tab that sends, and what became of an entry is told in every tab that knows of it.
  constructor(name, on) {
    this.prefix = `${name}:`;
    this.on = on;
    this.memory = new Map(); // in case the browser keeps no storage for us
    this.known = new Set(this.ids()); // entries that were here before this page, or were added in it, and wait
    this.heard = new Set(); // entries of which was told what became of them
    this.tabs = globalThis.BroadcastChannel && new BroadcastChannel(name);
    this.tabs?.addEventListener("message", ({ data }) => this.known.has(data.entry.id) && this.hear(data));
    this.failing = new Set(); // the assignments of what the server could not cope with when it was sent last
    this.retryMs = FIRST_RETRY_MS;
    this.count = 0;
    addEventListener("online", () => this.flush());
    addEventListener("beforeunload", (event) => this.memory.size && event.preventDefault());
  }

  add(url, body, about = {}) {
    const newest = Number(this.ids().at(-1)?.slice(this.prefix.length, this.prefix.length + 15) ?? 0);
    const now = Math.max(Date.now(), newest + 1); // a clock set back must not send an undo before its answer
    const stamp = String(now).padStart(15, "0") + String(this.count++).padStart(6, "0");
    const id = `${this.prefix}${stamp}:${newKey()}`;
    this.known.add(id);
    this.keep(id, { url, body, about, tried: false });
    this.flush();
    return id;
  }

  keep(id, entry) {
    const text = JSON.stringify(entry);
    try {
      localStorage.setItem(id, text);
      this.memory.delete(id);
    } catch {
      this.memory.set(id, text);
    }
  }

  ids() {
    const stored = [];
    try {
      for (let i = 0; i < localStorage.length; i++) {
        const id = localStorage.key(i);
        if (id.startsWith(this.prefix)) stored.push(id);
      }
    } catch {
      // no storage: what there is, is in memory
    }
    return [...stored, ...this.memory.keys()].sort();
  }

  entry(id) {
    try {
      const entry = JSON.parse(this.memory.get(id) ?? localStorage.getItem(id));
      return entry && { ...entry, id };
    } catch {
      return null; // no storage, or nothing that this page has written
    }
  }

  // Of how many comparisons something waits: an answer, what takes it back and the next one are of the same.
  get size() {
    return new Set(this.entries().map((entry) => entry.body.assignment)).size;
  }

  entries() {
    return this.ids().map((id) => this.entry(id)).filter(Boolean);
  }

  // Whether something is there of an assignment: what was typed beside it may be needed again.
  holds(assignment) {
    return this.entries().some((entry) => entry.body.assignment === assignment);
  }

  // Whether something is there that can be expected to arrive soon.
  get isMoving() {
    return this.entries().some((entry) => !this.failing.has(entry.body.assignment));
  }

  remove(id) {
    this.memory.delete(id);
    try {
      localStorage.removeItem(id);
    } catch {
      // as above
    }
  }

  // Take back what was never sent; false when it is gone or was tried, by whichever tab: without a receipt nobody
  // here knows whether the server has it.
  cancel(id) {
    if (this.entry(id)?.tried !== false) return false;
    this.known.delete(id);
    this.remove(id);
    return true;
  }

  // Send everything, oldest first. Tabs take turns, so that two of them do not send the same entry.
  // Resolves when all is sent (true) or has to wait (false).
  flush() {
    if (!this.flushing) clearTimeout(this.timer);
    this.flushing ??= this.takeTurns(() => this.sendAll())
      .catch((error) => {
        reportError(error); // a fault of ours, and no reason to keep back what else was said
        return this.wait();
      })
      .then((emptied) => {
        this.flushing = null;
        // Something may have come in after the last look and before the turn was over.
        if (emptied && this.ids().length) return this.flush();
        if (emptied) this.on.emptied(!this.known.size);
        return emptied;
      });
    return this.flushing;
  }

  tell(became, entry, ...told) {
    this.tabs?.postMessage({ became, entry, told });
    this.hear({ became, entry, told });
  }

  // Once: without locks two tabs may send the same entry.
  hear({ became, entry, told }) {
    if (this.heard.has(entry.id)) return;
    this.heard.add(entry.id);
    this.known.delete(entry.id);
    this.on[became](entry, ...told);
  }

  async takeTurns(work) {
    return navigator.locks ? navigator.locks.request(`${this.prefix}flush`, work) : work();
  }

  wait() {
    this.timer = setTimeout(() => this.flush(), this.retryMs);
    this.retryMs = Math.min(this.retryMs * 2, LONGEST_RETRY_MS);
    return false;
  }

  async sendAll() {
    const faulty = new Set(); // assignments with something that the server could not cope with: later, in their order
    const next = () => this.ids().find((id) => !faulty.has(this.entry(id)?.body.assignment));
    for (let id = next(); id; id = next()) {
      const entry = this.entry(id);
      if (!entry) {
        this.remove(id);
        continue;
      }
      if (!entry.tried) this.keep(id, { ...entry, tried: true });
      const outcome = await post(entry.url, entry.body);
      if (outcome.faulty) {
        faulty.add(entry.body.assignment);
        this.failing.add(entry.body.assignment);
        continue;
      }
      if (outcome.failed || outcome.signedOut) {
        this.on.waiting(this.size, outcome);
        return this.wait();
      }
      this.retryMs = FIRST_RETRY_MS;
      this.failing.delete(entry.body.assignment);
      this.remove(id);
      if (outcome.done) this.tell("delivered", entry, outcome.reply, this.ids().length);
      else this.tell("refused", entry, outcome.message, outcome.status);
    }
    if (!faulty.size) return true;
    this.on.waiting(this.size, { faulty: true });
    return this.wait();
  }
}

// What a person said waits here until the server has given a receipt for it: in the browser's storage,
// so that neither a reload nor a cut network loses it, one entry an answer, sent in the order given.
// Every entry carries its own key, by which the server stores it once however often it arrives.

const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 30000;
const TIMEOUT_MS = 20000;
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

// One POST. Resolves to {done, reply} | {refused, message, status} | {signedOut} | {failed}; it never rejects.
export async function post(url, values) {
  const body = JSON.stringify(values);
  let response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": csrfToken(), Accept: "application/json" },
      body,
      keepalive: body.length < MOST_KEPT_ALIVE,
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch {
    return { failed: true };
  }
  if (response.status === 401 || response.status === 403) return { signedOut: true };
  let reply = null;
  try {
    reply = await response.json();
  } catch {
    return { failed: true };
  }
  if (response.ok) return { done: true, reply };
  if ([400, 404, 409, 410, 413].includes(response.status)) {
    return { refused: true, message: reply.message ?? "", status: response.status };
  }
  return { failed: true };
}

export class Outbox {
  constructor(name, { delivered, refused, waiting }) {
    this.prefix = `${name}:`;
    this.on = { delivered, refused, waiting };
    this.memory = new Map(); // in case the browser keeps no storage for us
    this.inFlight = null;
    this.retryMs = FIRST_RETRY_MS;
    this.count = 0;
    addEventListener("online", () => this.flush());
  }

  add(url, body, about = {}) {
    const stamp = String(Date.now()).padStart(15, "0") + String(this.count++).padStart(6, "0");
    const id = `${this.prefix}${stamp}:${newKey()}`;
    const entry = JSON.stringify({ url, body, about });
    try {
      localStorage.setItem(id, entry);
    } catch {
      this.memory.set(id, entry);
    }
    this.flush();
    return id;
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
    let text = this.memory.get(id);
    try {
      text ??= localStorage.getItem(id);
    } catch {
      // as above
    }
    return text ? JSON.parse(text) : null;
  }

  entries() {
    return this.ids().map((id) => this.entry(id)).filter(Boolean);
  }

  remove(id) {
    this.memory.delete(id);
    try {
      localStorage.removeItem(id);
    } catch {
      // as above
    }
  }

  // Take back what was not sent yet; false when it is on its way or gone.
  cancel(id) {
    if (id === this.inFlight || !this.entry(id)) return false;
    this.remove(id);
    return true;
  }

  // Send everything, oldest first. Tabs take turns, so that two of them do not send the same entry.
  // Resolves when all is sent (true) or has to wait (false).
  flush() {
    clearTimeout(this.timer);
    this.flushing ??= this.takeTurns(() => this.sendAll()).then((emptied) => {
      this.flushing = null;
      // Something may have come in after the last look and before the turn was over.
      return emptied && this.ids().length ? this.flush() : emptied;
    });
    return this.flushing;
  }

  takeTurns(work) {
    return navigator.locks ? navigator.locks.request(`${this.prefix}flush`, work) : work();
  }

  async sendAll() {
    for (let id = this.ids()[0]; id; id = this.ids()[0]) {
      const entry = this.entry(id);
      if (!entry) {
        this.remove(id);
        continue;
      }
      this.inFlight = id;
      const outcome = await post(entry.url, entry.body);
      this.inFlight = null;
      if (outcome.failed || outcome.signedOut) {
        this.on.waiting(this.ids().length, outcome);
        this.timer = setTimeout(() => this.flush(), this.retryMs);
        this.retryMs = Math.min(this.retryMs * 2, LONGEST_RETRY_MS);
        return false;
      }
      this.retryMs = FIRST_RETRY_MS;
      this.remove(id);
      if (outcome.done) this.on.delivered(entry, outcome.reply, this.ids().length);
      else this.on.refused(entry, outcome.message, outcome.status);
    }
    return true;
  }
}

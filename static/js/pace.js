// How many answers stand, as the page shows it: what the server counted when it was loaded, and with it what was said
// since or waits in this browser, in whichever tab it was said. Each entry of the outbox counts once.

const { answerUrl, undoUrl, last } = document.querySelector("#stage").dataset;
const shown = [...document.querySelectorAll("[data-count]")];
const counted = new Map(); // what each entry of the outbox has changed, by its id
const never = new Set(); // answers that never stood, by their keys: taking one back takes nothing away

function worth({ url, body }) {
  if (url === answerUrl) return body.revises ? 0 : 1;
  const takesAway = url === undoUrl && !body.put_aside && !never.has(body.client_key);
  return takesAway ? -1 : 0; // other projects have a pace of their own
}

// No number falls below nothing: an answer of yesterday that is taken back is none of today's. Returns what was changed.
function change(by) {
  return shown.map((one, at) => {
    const before = Number(one.textContent);
    one.textContent = Math.max(0, before + by[at]);
    return Number(one.textContent) - before;
  });
}

export function addToPace(by) {
  return change(shown.map(() => by));
}

// judgment: by which number the server has it. What it had when the page was loaded it has counted itself: its receipt
// was lost, and it was sent again.
export function count(entry, judgment = Infinity) {
  if (judgment <= Number(last ?? 0)) return uncount(entry);
  if (!counted.has(entry.id)) counted.set(entry.id, { entry, changed: addToPace(worth(entry)) });
}

// What was refused, never sent, or found nothing to take back; what was never counted here changes nothing.
export function uncount({ id }) {
  const changed = counted.get(id)?.changed;
  counted.delete(id);
  if (changed) change(changed.map((by) => -by));
}

// What the server refused. What takes such an answer back may wait behind it, and takes nothing away.
export function uncountRefused(entry) {
  const { client_key: key } = entry.body;
  if (entry.about.kind === "answer") {
    const behind = [...counted.values()].map((one) => one.entry).filter((one) => one.url === undoUrl);
    for (const one of behind) if (one.body.client_key === key) uncount(one);
    never.add(key);
  }
  uncount(entry);
}

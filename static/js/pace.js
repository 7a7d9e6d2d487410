// How many answers stand, as the page shows it: what the server counted when it was loaded, and with it what was said
// since or waits in this browser, in whichever tab it was said. Each entry of the outbox counts once.

const { answerUrl, undoUrl, last } = document.querySelector("#stage").dataset;
const counted = new Map(); // entries, by their ids
const never = new Set(); // answers that never stood, by their keys: taking one back takes nothing away

function worth({ url, body }) {
  if (url === answerUrl) return body.revises ? 0 : 1;
  const takesAway = url === undoUrl && !body.put_aside && !never.has(body.client_key);
  return takesAway ? -1 : 0; // other projects have a pace of their own
}

export function addToPace(by) {
  for (const shown of document.querySelectorAll("[data-count]")) {
    shown.textContent = Math.max(0, Number(shown.textContent) + by);
  }
}

// judgment: by which number the server has it. What it had when the page was loaded it has counted itself: its receipt
// was lost, and it was sent again.
export function count(entry, judgment = Infinity) {
  if (judgment <= Number(last ?? 0)) return uncount(entry);
  if (counted.has(entry.id)) return;
  counted.set(entry.id, entry);
  addToPace(worth(entry));
}

// What was refused or never sent; what was never counted here changes nothing.
export function uncount(entry) {
  if (counted.delete(entry.id)) addToPace(-worth(entry));
}

// What the server refused. What takes such an answer back may wait behind it, and takes nothing away.
export function uncountRefused(entry) {
  uncount(entry);
  if (entry.about.kind !== "answer") return;
  const { client_key: key } = entry.body;
  for (const one of [...counted.values()].filter(({ body }) => body.client_key === key)) uncount(one);
  never.add(key);
}

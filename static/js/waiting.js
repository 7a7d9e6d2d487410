// A page without the desk sends what waits in this browser, and says what becomes of it.

import { Drafts } from "./drafts.js";
import { Outbox } from "./outbox.js";
import { words } from "./words.js";

const line = document.querySelector("[data-waiting]");

const drafts = new Drafts(line.dataset.person);
let waits = false; // whether the line says so

function say(sentence) {
  waits = false;
  line.textContent = sentence;
  line.hidden = false;
}

const outbox = new Outbox(`tastemaker:${line.dataset.person}`, {
  delivered: (entry, reply, left) => {
    say(words(left ? "saving" : "saved"));
    if (entry.about.kind !== "undo" && !outbox.holds(entry.body.assignment)) drafts.forget(entry.body.assignment);
  },
  refused: (_, message) => say(message || words("refused")),
  waiting: (left, { signedOut, other, faulty }) => {
    const why = other ? "other" : signedOut ? "signed-out" : faulty ? "faulty" : "offline";
    say(words(`kept-${why}`, { count: left }));
    waits = true;
  },
  emptied: () => {
    if (waits) line.hidden = true; // another tab has sent them
  },
});

outbox.flush();

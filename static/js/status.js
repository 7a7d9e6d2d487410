// The line at the foot of the page that says what has become of an answer.

import { words } from "./words.js";

const status = document.querySelector(".status");
const { loginUrl, logoutUrl } = document.querySelector("#stage").dataset;
const READ_MS = 4000; // enough to read a refusal

let waitingLine = null; // what the line says of answers that wait
let heldSince = null; // since when the line has said what nothing in passing replaces

export function say(sentence, tone = "") {
  heldSince = null;
  status.className = `status ${tone}`;
  if (status.textContent !== sentence) status.textContent = sentence;
}

// What becomes of answers meanwhile.
export function sayInPassing(sentence, tone) {
  if (heldSince === null) say(sentence, tone);
}

// What the line says now stands until the person has had time to read it and has done something since.
export function hold() {
  heldSince = performance.now();
}

export function hasActed() {
  if (heldSince !== null && performance.now() - heldSince > READ_MS) heldSince = null;
}

export function sayWithLink(sentence, href, text, tone) {
  // Every retry says it again: the link stays the same one, so that it can be clicked and keeps the focus.
  if (status.textContent === `${sentence} ${text}`) return;
  say(`${sentence} `, tone);
  status.append(Object.assign(document.createElement("a"), { href, textContent: text }));
}

// The person whose page this is is not signed in; somebody else may be. left: how many answers wait.
export function saySignedOut({ other }, left = 0) {
  const count = { count: left };
  if (other) sayWithLink(words(left ? "kept-other" : "other", count), logoutUrl, words("sign-out"), "needs");
  else sayWithLink(words(left ? "kept-signed-out" : "signed-out", count), loginUrl, words("sign-in"), "needs");
}

// Why answers wait in this browser, and how many.
export function sayWaiting(outcome, left) {
  if (outcome.signedOut) saySignedOut(outcome, left);
  else if (outcome.faulty) sayInPassing(words("kept-faulty", { count: left }), "harm");
  else sayInPassing(words("kept-offline", { count: left }), "needs");
  waitingLine = heldSince === null ? status.textContent : null;
}

// None waits any more: another tab may have sent them. told: whether it was said what became of each that is known here.
export function endWaiting(told) {
  if (status.textContent === waitingLine) say("");
  if (status.textContent === words("saving")) say(told ? words("saved") : "");
  waitingLine = null;
}

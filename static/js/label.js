// The annotator's desk. The comparison after this one is always here already: an answer puts it on
// screen at once, and the answer itself goes out through the outbox.

import { Outbox, newKey, post } from "./outbox.js";

const stage = document.querySelector("#stage");
const status = document.querySelector(".status");
const drawer = document.querySelector("#guidelines");
const urls = stage.dataset;

const AHEAD = 1;
const LOOK_AGAIN_MS = 30000;
const HISTORY = 20;

let current = null; // the article on screen
let ahead = []; // articles that come next
let history = []; // what was answered in this page, newest last: {article, entry}
let filling = false;
let order = []; // a ranking in the making: groups of sides, best first
let tieNext = false;
let shownAt = performance.now();
let hiddenMs = 0;
let hiddenSince = null;

// One outbox a person, not a project: whichever desk is open sends what waits.
const outbox = new Outbox(`tastemaker:${urls.person}`, {
  delivered: (entry, reply, left) => {
    if (entry.about.kind === "answer") say(left ? "Saving" : "Last answer saved");
    if (entry.about.kind === "undo") say("Taken back");
    if (entry.about.kind === "skip") say("Skipped");
    if (entry.about.kind === "flag") say("Reported to a manager");
    forget(entry.body.assignment);
  },
  refused: (entry, message) => {
    say(message || "The server refused the last answer. Load the page again.", "harm");
    if (entry.about.kind === "answer") count(-1);
    if (entry.about.kind === "undo") {
      count(1);
      if (current && id(current) === entry.body.assignment) advance();
    }
  },
  waiting: (left, { signedOut }) => {
    const kept = left === 1 ? "1 answer is kept in this browser" : `${left} answers are kept in this browser`;
    if (signedOut) sayWithLogin(`You are signed out; ${kept}.`);
    else say(`No connection. ${kept} and will be sent.`, "needs");
  },
});

// What is on screen

function id(article) {
  return Number(article.dataset.assignment);
}

function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.querySelector("article");
}

function show(article) {
  const hadFocus = stage.contains(document.activeElement) && document.activeElement !== stage;
  current = article;
  stage.replaceChildren(...(article ? [article] : []));
  drawEmpty(article ? null : "coming");
  order = [];
  tieNext = false;
  shownAt = performance.now();
  hiddenMs = 0;
  if (article) {
    const ranking = Number(article.dataset.candidates) > 2;
    for (const group of document.querySelectorAll(".verdicts")) {
      group.hidden = (group.dataset.kind === "ranking") !== ranking;
    }
    article.querySelector(".answers").addEventListener("scroll", markTab, { passive: true });
    article.querySelector(".answers").scrollLeft = 0;
    if (ranking) drawRanking();
  }
  for (const button of document.querySelectorAll(".verdict:not(.send), [data-do=why], [data-do=skip], [data-do=flag]")) {
    button.disabled = !article;
  }
  drawWhy();
  scrollTo(0, 0);
  if (hadFocus) stage.focus({ preventScroll: true });
}

// Without a comparison the stage says why: on its way, nothing left, or no connection.
function drawEmpty(reason) {
  for (const words of document.querySelectorAll("[data-empty]")) words.hidden = words.dataset.empty !== reason;
}

function advance() {
  show(ahead.shift() ?? null);
  fill();
}

function say(words, tone = "") {
  status.className = `status ${tone}`;
  if (status.textContent !== words) status.textContent = words;
}

function sayWithLogin(words) {
  // Every retry says it again: the link stays the same one, so that it can be clicked and keeps the focus.
  if (status.textContent === `${words} Sign in again`) return;
  say(`${words} `, "needs");
  const link = document.createElement("a");
  link.href = urls.loginUrl;
  link.textContent = "Sign in again";
  status.append(link);
}

function count(by) {
  for (const shown of document.querySelectorAll("[data-count]")) {
    shown.textContent = Math.max(0, Number(shown.textContent) + by);
  }
}

// What comes next

function held() {
  const waiting = outbox.entries().map((entry) => entry.body.assignment);
  return [...new Set([...(current ? [current] : []), ...ahead].map(id).concat(waiting))];
}

async function fill() {
  if (filling) return;
  filling = true;
  try {
    while (!current || ahead.length < AHEAD) {
      const { done, reply, signedOut, refused, message } = await post(urls.nextUrl, { holding: held() });
      // With answers waiting, the outbox says it, and says how many.
      if (signedOut && !outbox.ids().length) sayWithLogin("You are signed out.");
      if (refused) say(message, "harm");
      if (!current && !done) drawEmpty("cut");
      if (!current && done && !reply.html) drawEmpty(outbox.ids().length ? "cut" : "nothing");
      if (!done || !reply.html) break;
      const article = parse(reply.html);
      if (held().includes(id(article))) break;
      if (current) ahead.push(article);
      else show(article);
    }
  } finally {
    filling = false;
  }
}

async function renew() {
  // An answer or an undo that has not arrived yet would make a lease look lost.
  if (!(await outbox.flush())) return;
  const articles = [...(current ? [current] : []), ...ahead];
  if (!articles.length) return;
  const { done, reply } = await post(urls.renewUrl, { assignments: articles.map(id) });
  if (!done) return;
  const lost = new Set(reply.lost);
  ahead = ahead.filter((article) => !lost.has(id(article)));
  if (current && lost.has(id(current))) {
    say("That comparison was away too long and went to someone else. Here is another.", "needs");
    advance();
  } else fill();
}

// What a person says

function answer(said) {
  if (!current) return;
  const article = current;
  const body = {
    assignment: id(article),
    client_key: newKey(),
    seconds_spent: Math.round((performance.now() - shownAt - hiddenMs) / 100) / 10,
    reason: draft(id(article)),
    ...said,
  };
  say("Saving");
  const entry = outbox.add(urls.answerUrl, body, { kind: "answer" });
  remember({ article, entry });
  count(1);
  advance();
  outbox.flush().then(fill);
}

function remember(answered) {
  history = [...history, answered].slice(-HISTORY);
  document.querySelector("[data-do=undo]").disabled = false;
}

function putAside(kind, reason, text) {
  if (!current) return;
  const body = { assignment: id(current), outcome: kind, reason, text };
  outbox.add(urls.putAsideUrl, body, { kind });
  advance();
  outbox.flush().then(fill);
}

async function undo() {
  const last = history.pop();
  if (last) {
    if (!outbox.cancel(last.entry)) outbox.add(urls.undoUrl, { assignment: id(last.article) }, { kind: "undo" });
    else say("Taken back");
    count(-1);
    putInFront(last.article);
    return;
  }
  await outbox.flush();
  const { done, reply, refused, message, signedOut } = await post(urls.undoUrl, {});
  if (signedOut) sayWithLogin("You are signed out.");
  else if (refused) say(message, "needs");
  else if (!done) say("No connection. Your last answer stands.", "needs");
  else {
    count(-1);
    say("Taken back");
    putInFront(parse(reply.html));
  }
}

function putInFront(article) {
  if (current) ahead.unshift(current);
  show(article);
}

// A ranking of three or more: numbers in order of preference, "=" ties the next with the one before

function rank(side) {
  if (order.flat().includes(side)) order = order.map((group) => group.filter((s) => s !== side)).filter((g) => g.length);
  else if (tieNext && order.length) order = [...order.slice(0, -1), [...order.at(-1), side]];
  else order = [...order, [side]];
  tieNext = false;
  drawRanking();
}

function drawRanking() {
  const letters = [...current.querySelectorAll(".answer .badge")].map((badge) => badge.textContent);
  const words = order.map((group) => group.map((side) => letters[side]).join(" = ")).join(" > ");
  const left = letters.length - order.flat().length;
  const waiting = tieNext ? " = ?" : "";
  const hint = left === letters.length ? "Press the numbers of the answers, best first." : `${words}${waiting}${left ? ` (${left} left)` : ""}`;
  document.querySelector("[data-order]").textContent = hint;
  document.querySelector("[data-do=send]").disabled = left > 0;
  for (const pick of current.querySelectorAll("[data-pick]")) {
    const place = order.findIndex((group) => group.includes(Number(pick.dataset.pick)));
    pick.setAttribute("aria-pressed", place >= 0);
    pick.querySelector(".rank").textContent = place < 0 ? "Pick" : `Place ${place + 1}`;
  }
}

function sendRanking() {
  const letters = current.querySelectorAll(".answer").length;
  if (order.flat().length < letters) return;
  answer(order.length === 1 ? { verdict: "tie" } : { verdict: "preferred", ranking_sides: order });
}

// One answer at a time on a phone: the row of answers scrolls sideways, the tabs say which is seen

function markTab() {
  const row = current.querySelector(".answers");
  const seen = Math.round(Math.abs(row.scrollLeft) / Math.max(1, row.firstElementChild.offsetWidth));
  current.querySelectorAll(".tabs button").forEach((tab, index) => {
    if (index === seen) tab.setAttribute("aria-current", "true");
    else tab.removeAttribute("aria-current");
  });
}

function showSide(side) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const answer = current?.querySelectorAll(".answer")[side];
  if (!answer) return;
  const row = answer.parentElement;
  const left = answer.offsetLeft - row.firstElementChild.offsetLeft;
  row.scrollTo({ left, behavior: calm ? "instant" : "smooth" });
}

function turnSide(by) {
  const tabs = [...(current?.querySelectorAll(".tabs button") ?? [])];
  const seen = tabs.findIndex((tab) => tab.hasAttribute("aria-current"));
  showSide(Math.min(tabs.length - 1, Math.max(0, seen + by)));
}

// Why: a draft per comparison, kept in the browser until its answer has arrived

function draftKey(assignment) {
  return `tastemaker-draft:${urls.person}:${assignment}`;
}

function draft(assignment) {
  try {
    return localStorage.getItem(draftKey(assignment)) ?? "";
  } catch {
    return document.querySelector("#why-text").value;
  }
}

function keepDraft() {
  if (!current) return;
  const words = document.querySelector("#why-text").value.trim();
  try {
    if (words) localStorage.setItem(draftKey(id(current)), words);
    else localStorage.removeItem(draftKey(id(current)));
  } catch {
    // no storage: the text stays in its field until the answer is given
  }
  drawWhy(false);
}

function forget(assignment) {
  if (current && id(current) === assignment) return;
  try {
    localStorage.removeItem(draftKey(assignment));
  } catch {
    // nothing was kept
  }
}

function drawWhy(fillField = true) {
  const words = current ? draft(id(current)) : "";
  if (fillField) document.querySelector("#why-text").value = words;
  document.querySelector("[data-do=why]").setAttribute("aria-pressed", Boolean(words));
}

// Hands: keys, clicks

function flash(button) {
  button.classList.add("given");
  setTimeout(() => button.classList.remove("given"), 180);
}

function press(button) {
  if (!button || button.disabled || !current) return;
  flash(button);
  if (button.dataset.side !== undefined) {
    answer({ verdict: "preferred", preferred_side: Number(button.dataset.side), strength: Number(button.dataset.strength) });
  } else answer({ verdict: button.dataset.verdict });
}

function toggleGuidelines() {
  drawer.hidden = !drawer.hidden;
  if (!drawer.hidden) drawer.querySelector("h2").focus();
  else document.querySelector("nav [data-do=guidelines]").focus();
}

const actions = {
  guidelines: toggleGuidelines,
  keys: () => document.querySelector("#keys").showModal(),
  why: () => current && document.querySelector("#why").showModal(),
  skip: () => current && document.querySelector("#skip").showModal(),
  flag: () => current && document.querySelector("#flag").showModal(),
  undo: () => document.querySelector("[data-do=undo]").disabled || undo(),
  look: fill,
  send: sendRanking,
  tied: () => {
    tieNext = order.length > 0 && !tieNext;
    drawRanking();
  },
  unrank: () => {
    order = [];
    tieNext = false;
    drawRanking();
  },
};

const letters = { c: "why", s: "skip", f: "flag", z: "undo", g: "guidelines", "?": "keys" };

function verdictButton(key) {
  const bar = document.querySelector(".verdicts:not([hidden])");
  return [...bar.querySelectorAll(".verdict:not([data-do])")].find(
    (button) => button.querySelector("kbd").textContent.toLowerCase() === key,
  );
}

// The key's meaning whatever the layout: "&" on a French keyboard is the key of 1, "я" that of Z.
function meaning(event) {
  const key = event.key.toLowerCase();
  if (/^[0-9a-z?=]$/.test(key) || key.length > 1 || event.shiftKey) return key;
  return event.code.match(/^(?:Digit|Numpad|Key)([0-9A-Z])$/)?.[1].toLowerCase() ?? key;
}

function onKey(event) {
  // Enter held down on a button would press it again and again.
  if (event.repeat && event.target.closest(".verdict")) event.preventDefault();
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  const dialog = document.querySelector("dialog[open]");
  if (dialog) return onDialogKey(event, dialog);
  // A dialog that Escape has closed keeps the focus for a moment; nobody writes in it any more.
  const closed = event.target.closest("dialog");
  if (!closed && event.target.closest("input, textarea, select, [contenteditable]")) return;
  const key = meaning(event);
  const ranking = current && Number(current.dataset.candidates) > 2;
  if (key === "escape" && !drawer.hidden) toggleGuidelines();
  else if (ranking && /^[1-8]$/.test(key) && Number(key) <= Number(current.dataset.candidates)) rank(Number(key) - 1);
  else if (ranking && key === "enter" && !event.target.closest("button, a")) sendRanking();
  else if (ranking && key === "=") actions.tied();
  else if (ranking && key === "backspace") actions.unrank();
  else if (verdictButton(key)) press(verdictButton(key));
  else if (key === "arrowleft") turnSide(-1);
  else if (key === "arrowright") turnSide(1);
  else if (letters[key]) actions[letters[key]]();
  else return;
  event.preventDefault();
}

function onDialogKey(event, dialog) {
  if (event.target.closest("textarea")) return;
  const choice = [...dialog.querySelectorAll(".choices button")][Number(meaning(event)) - 1];
  if (!choice) return;
  event.preventDefault();
  choice.click();
}

document.addEventListener("keydown", onKey);

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.do) actions[button.dataset.do]?.();
  else if (button.dataset.show) showSide(Number(button.dataset.show));
  else if (button.dataset.pick) rank(Number(button.dataset.pick));
  else if (button.classList.contains("verdict") && event.detail < 2) press(button); // a double click answers once
});

for (const form of document.querySelectorAll("[data-put-aside]")) {
  form.addEventListener("submit", (event) => {
    const words = form.querySelector("textarea");
    if (event.submitter?.value) putAside(form.dataset.putAside, event.submitter.value, words?.value.trim() ?? "");
    if (words) words.value = "";
  });
}

document.querySelector("#why").addEventListener("close", keepDraft);
document.querySelector("#why-text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) document.querySelector("#why").close();
});

// Start

document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenSince = performance.now();
  else {
    if (hiddenSince !== null) hiddenMs += performance.now() - Math.max(hiddenSince, shownAt);
    hiddenSince = null;
    renew();
  }
});

addEventListener("online", () => outbox.flush().then(fill));

function start() {
  // What was answered before a reload and has not arrived yet is not asked again.
  const waiting = new Set(outbox.entries().map((entry) => entry.body.assignment));
  const given = [stage.querySelector("article"), document.querySelector("#ahead").content.querySelector("article")];
  const fresh = given.filter((article) => article && !waiting.has(id(article)));
  ahead = fresh.slice(1);
  show(fresh[0] ?? null);
  outbox.flush().then(fill);
  setInterval(renew, (Number(urls.leaseSeconds) * 1000) / 3);
  setInterval(() => (current && ahead.length >= AHEAD) || document.hidden || fill(), LOOK_AGAIN_MS);
}

start();

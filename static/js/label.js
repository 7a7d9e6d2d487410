// The annotator's desk. The comparison after this one is always here already: an answer puts it on
// screen at once, and the answer itself goes out through the outbox.

import "./bar.js";
import { Better } from "./better.js";
import { Drafts } from "./drafts.js";
import { isGone, markGone } from "./gone.js";
import { actOf, isShortcut, place } from "./keys.js";
import { Outbox, newKey, post } from "./outbox.js";
import { addToPace, count, uncount, uncountRefused } from "./pace.js";
import { Ranking, drawNoRanking } from "./ranking.js";
import { focusOn, nextUnrated, rateByKey, ratingsOf, showRatings } from "./ratings.js";
import { followSides, offerDifferences, showLastTurn, showSide, toggleApart, toggleDifferences, turnByKey } from "./sides.js";
import { endWaiting, hasActed, hold, say, sayInPassing, saySignedOut, sayWaiting, sayWithLink } from "./status.js";
import { words } from "./words.js";

const stage = document.querySelector("#stage");
const drawer = document.querySelector("#guidelines");
const urls = stage.dataset;
const asks = JSON.parse(document.querySelector("#asks").textContent);
const drafts = new Drafts(urls.person);

const AHEAD = 1;
const LOOK_AGAIN_MS = 30000;
const LOOK_SOON_MS = 5000; // at first, with nothing on screen and no connection
const HISTORY = 20;

let current = null; // the article on screen
let ahead = []; // articles that come next
let history = []; // what was answered or put aside in this page, newest last: {article, entry, named, draft}
let last = Number(urls.last ?? 0); // the newest answer that the server has, by its number
let aside = Number(urls.aside ?? 0); // what was put aside after it, by its assignment
let filling = false;
let soon; // the timer of that look
let soonMs = LOOK_SOON_MS;
let askedAgain = false; // for what comes next, while an answer to that was on its way
let ranking = null; // of the comparison on screen, where it has three or more answers
let unsaid = null; // an answer that waits for its reason
let shownAt = performance.now();
let hiddenMs = 0;
let hiddenSince = null;

// One outbox a person, not a project: whichever desk is open sends what waits.
const outbox = new Outbox(`tastemaker:${urls.person}`, {
  delivered: (entry, reply, left) => {
    if (reply.took_back === false) uncount(entry);
    else count(entry, entry.url === urls.answerUrl ? reply.judgment : undefined);
    if (entry.about.kind === "answer") sayInPassing(words(left ? "saving" : "saved"));
    if (entry.about.kind === "undo") sayInPassing(words("taken-back"));
    if (entry.about.kind === "skip") sayInPassing(words("skipped"));
    if (entry.about.kind === "flag") sayInPassing(words("reported"));
    if (entry.url === urls.answerUrl) takeBackNext(reply.judgment);
    if (entry.url === urls.putAsideUrl) takeBackNext(last, reply.assignment);
    if (entry.url === urls.undoUrl) takeBackNext(reply.last, reply.aside);
    if (entry.about.kind !== "undo") {
      // Said in another tab, perhaps, while it stands here as well.
      if (here().some((article) => id(article) === entry.body.assignment)) renew();
      else if (!outbox.holds(entry.body.assignment)) drafts.forget(entry.body.assignment);
    }
    if (!current) fill(); // the connection is back
  },
  refused: (entry, message, status) => {
    uncountRefused(entry);
    // It did not fit what the project asks for by now: back to the person, with all that was said beside it.
    const given = history.find((one) => one.entry === entry.id);
    history = history.filter((one) => one !== given);
    offerUndo();
    if (given && status === 400) {
      sayNotAskedFor(message);
      comeBack(given.article, given.draft);
    } else say(message || words("refused"), "harm");
    hold();
    if (entry.about.kind === "undo" && current && id(current) === entry.body.assignment) lose(message);
    if (!current) fill();
  },
  waiting: (left, outcome) => sayWaiting(outcome, left),
  emptied: endWaiting,
});

function sayNotAskedFor(message) {
  const what = message.replace(/[.。]$/, ""); // some are sentences, and some are parts of one
  sayWithLink(words("not-asked-for", { message: what }), location.pathname, words("load-again"), "harm");
}

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
  // What was open belongs to another comparison; what was typed there is kept already, but for a report begun.
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  for (const text of document.querySelectorAll("[data-put-aside] textarea")) text.value = "";
  const hadFocus = holdsFocus();
  current = article;
  stage.replaceChildren(...(article ? [article] : []));
  drawEmpty(article ? null : "coming");
  ranking = article && Number(article.dataset.candidates) > 2 ? rankingOf(article) : null;
  if (!ranking) drawNoRanking();
  shownAt = performance.now();
  hiddenMs = 0;
  if (article) {
    for (const group of document.querySelectorAll(".verdicts")) {
      group.hidden = (group.dataset.kind === "ranking") !== Boolean(ranking);
    }
    followSides(article);
    showLastTurn(article);
    showRatings(article, drafts.read(id(article)).ratings);
  }
  enable(Boolean(article));
  // Nobody puts aside what was answered before.
  for (const act of ["skip", "flag"]) document.querySelector(`[data-do=${act}]`).disabled ||= Boolean(article?.dataset.revises);
  unsaid = null;
  offerDifferences(article);
  drawDraft();
  scrollTo(0, 0);
  // What had the focus may have gone with the comparison; keys and screen readers go on from the stage.
  if (hadFocus && !holdsFocus()) stage.focus({ preventScroll: true });
}

// What can be done with the comparison on screen.
function enable(is) {
  for (const button of document.querySelectorAll(".verdict:not(.send), .extras [data-do]:not([data-do=undo])")) {
    button.disabled = !is;
  }
}

function lose(why) {
  markGone(current, why);
  enable(false);
}

function rankingOf(article) {
  return new Ranking(article, asks, drafts.read(id(article)).order, (order) => drafts.change(id(article), { order }));
}

function holdsFocus() {
  const { activeElement } = document;
  return activeElement !== document.body && (activeElement.checkVisibility?.() ?? true); // Safari has it since 17.4
}

// Without a comparison the stage says why: on its way, nothing left, no connection, or a server that fails.
function drawEmpty(reason) {
  for (const card of document.querySelectorAll("[data-empty]")) card.hidden = card.dataset.empty !== reason;
}

function advance() {
  show(ahead.shift() ?? null);
  fill();
}

// What comes next

// What is on screen or ready, and has not gone.
function here() {
  return [current, ...ahead].filter((article) => article && !isGone(article));
}

function held() {
  const waiting = outbox.entries().map((entry) => entry.body.assignment);
  return [...new Set(here().map(id).concat(waiting))];
}

async function fill() {
  if (filling) {
    askedAgain = true;
    return;
  }
  filling = true;
  try {
    while (!current || ahead.length < AHEAD) {
      const outcome = await post(urls.nextUrl, { holding: held() });
      const { done, reply, signedOut, refused, message } = outcome;
      // With answers waiting, the outbox says it, and says how many.
      if (signedOut && !outbox.ids().length) saySignedOut(outcome);
      if (refused) say(message, "harm");
      // The page knows where to lead: to a qualification round that was switched on since, say.
      // With answers waiting it would come here again, and again: it has what one of them answers.
      if (refused && !current && !outbox.ids().length) return location.reload();
      if (done) soonMs = LOOK_SOON_MS;
      if (!current) drawLack(outcome);
      if (!done || !reply.html) break;
      const article = parse(reply.html);
      if (held().includes(id(article))) break;
      if (current) ahead.push(article);
      else show(article);
    }
  } finally {
    filling = false;
  }
  if (askedAgain) {
    askedAgain = false;
    fill();
  }
}

// Why nothing came: nobody is signed in, or somebody else; an answer has to arrive first; no connection, or no server that
// can tell; or nothing is left.
function drawLack({ done, reply, signedOut, other, refused, faulty }) {
  if (signedOut) drawEmpty(other ? "other" : "signed-out");
  else if (refused) drawEmpty("coming");
  else if (!done) lookSoon(faulty ? "failing" : "cut");
  else if (!reply.html) drawEmpty(outbox.isMoving ? "coming" : "nothing");
}

// Less and less often, and not in a tab that nobody looks at; one that is looked at again looks at once.
function lookSoon(why) {
  drawEmpty(why);
  clearTimeout(soon);
  soon = setTimeout(() => document.hidden || fill(), soonMs);
  soonMs = Math.min(soonMs * 2, LOOK_AGAIN_MS);
}

async function renew() {
  await outbox.flush();
  // An answer or an undo that has not arrived yet would make a lease look lost; what was answered before is nobody's.
  const waiting = new Set(outbox.entries().map((entry) => entry.body.assignment));
  const articles = here().filter((article) => !article.dataset.revises && !waiting.has(id(article)));
  if (!articles.length) return;
  const { done, reply } = await post(urls.renewUrl, { assignments: articles.map(id) });
  if (!done) return;
  const lost = new Set(reply.lost);
  ahead = ahead.filter((article) => !lost.has(id(article)));
  if (current && lost.has(id(current))) {
    const why = reply.why[id(current)];
    lose(why);
    say(why, "needs");
  }
  fill();
}

// What a person says

function secondsSpent() {
  return Math.round((performance.now() - shownAt - hiddenMs) / 100) / 10;
}

function answer(said) {
  if (!current || isGone(current) || lacks(said)) return;
  const article = current;
  const draft = draftOf(article);
  const ratings = ratingsOf(article);
  const body = {
    assignment: id(article),
    client_key: newKey(),
    ...(article.dataset.revises && { revises: Number(article.dataset.revises) }),
    seconds_spent: secondsSpent(),
    reason: draft.reason,
    reason_tags: draft.tags,
    ...(Object.keys(ratings).length && { rating_sides: ratings }),
    ...(draft.edit && { edit_side: draft.edit.side, edit_text: draft.edit.text }),
    ...said,
  };
  hasActed();
  sayInPassing(words("saving"));
  const entry = outbox.add(urls.answerUrl, body, { kind: "answer" });
  remember({ article, entry, named: { client_key: body.client_key }, draft: { ...draft, ratings } });
  count(outbox.entry(entry));
  advance();
  outbox.flush().then(fill);
}

// Whether the project asks for more before this answer may go; the person is led to what is missing.
function lacks(said) {
  const unrated = nextUnrated(current);
  if (unrated) {
    const letter = unrated.closest(".answer").querySelector(".badge").textContent;
    say(words("rate-first", { letter, criterion: unrated.dataset.criterion }), "needs");
    showSide(current, Number(unrated.dataset.side));
    focusOn(unrated);
    return true;
  }
  if (!reasonLacks()) return false;
  actions.why();
  unsaid = said;
  return true;
}

// What the project still wants of the reason, in a sentence.
function reasonLacks() {
  const { reason, tags } = draftOf(current);
  if (asks.commentRequired && !reason) return words("comment-needed");
  return asks.reasonRequired && !reason && !tags.length && words("reason-needed");
}

function remember(done) {
  history = [...history, done].slice(-HISTORY);
  offerUndo();
}

function takeBackNext(judgment, putAside) {
  last = judgment ?? 0;
  aside = putAside ?? 0;
  offerUndo();
}

function offerUndo() {
  document.querySelector("[data-do=undo]").disabled = !history.length && !last && !aside;
}

function putAside(kind, reason, text) {
  if (!current || isGone(current)) return;
  const article = current;
  const body = { assignment: id(article), outcome: kind, reason, text, seconds_spent: secondsSpent() };
  hasActed();
  const entry = outbox.add(urls.putAsideUrl, body, { kind });
  remember({ article, entry, named: { put_aside: true }, draft: { ...draftOf(article), ratings: ratingsOf(article) } });
  advance();
  outbox.flush().then(fill);
}

function undo() {
  const done = history.pop();
  if (!done) return undoEarlier();
  const { article, entry, named, draft } = done;
  const waiting = outbox.entry(entry);
  if (outbox.cancel(entry)) {
    uncount(waiting);
    say(words("taken-back"));
  } else {
    const undone = outbox.add(urls.undoUrl, { assignment: id(article), ...named }, { kind: "undo" });
    count(outbox.entry(undone));
    delete article.dataset.revises; // a change that was sent takes back what it changed as well
  }
  offerUndo();
  putInFront(article, draft);
}

// What was answered or put aside before this page was loaded. It is named, so that a second try takes nothing else back.
async function undoEarlier() {
  if (!(await outbox.flush())) return; // which has said why; what waits may be what is meant
  if (history.length) return; // something was said meanwhile, which is not what was meant
  if (!last && !aside) return offerUndo();
  const [judgment, skipped] = [last, aside];
  const outcome = await post(urls.undoUrl, skipped ? { assignment: skipped, put_aside: true } : { judgment });
  if (judgment !== last || skipped !== aside) return; // a press before this one has done it
  const { done, reply, refused, message } = outcome;
  if (outcome.signedOut) saySignedOut(outcome);
  else if (refused) {
    takeBackNext(skipped ? judgment : null); // an answer was changed elsewhere, and this page knows no other
    say(message, "needs");
  } else if (!done) say(words(outcome.faulty ? "failed" : "undo-offline"), "needs");
  else {
    takeBackNext(reply.last, reply.aside);
    if (!skipped) addToPace(-1);
    say(words("taken-back"));
    drafts.takeUp(reply.assignment, reply.draft);
    putInFront(parse(reply.html), reply.draft);
  }
}

// After what is on screen: whoever is about to answer that would answer another one. With all that was said of it.
function comeBack(article, draft) {
  if (!current || id(current) === id(article)) return putInFront(article, draft);
  if (drafts.isEmpty(id(article))) drafts.change(id(article), draft);
  ahead = [article, ...ahead.filter((one) => id(one) !== id(article))];
}

// Before what is on screen, with all that was said beside it; it may stand there or ahead already.
function putInFront(article, draft) {
  if (drafts.isEmpty(id(article))) drafts.change(id(article), draft);
  ahead = here().filter((one) => id(one) !== id(article));
  show(article);
}

// What is said beside the verdict: reasons, ratings, a better answer

function tagBoxes() {
  return [...document.querySelectorAll("#why .tags input")];
}

function keepReason() {
  if (!current) return;
  const reason = document.querySelector("#why-text").value.trim();
  const tags = tagBoxes().filter((box) => box.checked).map((box) => box.value);
  drafts.change(id(current), { reason, tags });
}

function closeReason() {
  drawDraft();
  const said = unsaid;
  unsaid = null;
  if (!said || !current) return;
  const lack = reasonLacks();
  if (lack) say(lack, "needs");
  else answer(said);
}

// What of a draft the project still takes.
function draftOf(article) {
  const draft = drafts.read(id(article));
  const takesEdits = document.querySelector("#better") !== null;
  return { ...draft, tags: draft.tags.filter((tag) => asks.tags.includes(tag)), edit: takesEdits ? draft.edit : null };
}

function drawDraft() {
  const draft = current && draftOf(current);
  document.querySelector("#why-text").value = draft?.reason ?? "";
  for (const box of tagBoxes()) box.checked = Boolean(draft?.tags.includes(box.value));
  const said = { why: draft?.reason || draft?.tags.length, better: draft?.edit };
  for (const [name, is] of Object.entries(said)) {
    document.querySelector(`[data-do=${name}]`)?.setAttribute("aria-pressed", Boolean(is));
  }
}

stage.addEventListener("change", (event) => {
  if (!event.target.closest(".rating")) return;
  drafts.change(id(current), { ratings: ratingsOf(current) });
  // After a click the digits are the verdict's again; by key one goes on rating.
  if (!event.target.matches(":focus-visible")) stage.focus({ preventScroll: true });
});

const better = new Better(drafts, (kept) => {
  drawDraft();
  // The dialog may have outlived its comparison.
  if (kept && current && !isGone(current) && id(current) === better.assignment) say(words("better-kept"));
});

async function openBetter() {
  const article = current;
  const outcome = article && (await better.open(article, () => article === current));
  if (outcome?.signedOut) saySignedOut(outcome);
  else if (outcome && !outcome.done) say(outcome.message || words(outcome.faulty ? "failed" : "texts-offline"), "needs");
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
    const { side, strength } = button.dataset;
    answer({ verdict: "preferred", preferred_side: Number(side), ...(strength && { strength: Number(strength) }) });
  } else answer({ verdict: button.dataset.verdict });
}

function toggleGuidelines() {
  drawer.hidden = !drawer.hidden;
  if (!drawer.hidden) drawer.querySelector("h2").focus();
  else document.querySelector("nav [data-do=guidelines]").focus();
}

function openUnlessOff(name) {
  if (!document.querySelector(`.extras [data-do=${name}]`).disabled) document.querySelector(`#${name}`).showModal();
}

const actions = {
  guidelines: toggleGuidelines,
  keys: () => document.querySelector("#keys").showModal(),
  why: () => current && document.querySelector("#why").showModal(),
  better: openBetter,
  "drop-better": () => better.drop(),
  rate: () => {
    const group = current && (nextUnrated(current) ?? current.querySelector(".rating"));
    if (group) focusOn(group);
  },
  differences: () => say(toggleDifferences(current)),
  apart: toggleApart,
  skip: () => openUnlessOff("skip"),
  flag: () => openUnlessOff("flag"),
  undo: () => document.querySelector("[data-do=undo]").disabled || undo(),
  look: fill,
  "go-on": advance,
  send: () => ranking?.sendable && answer(ranking.verdict),
  tied: () => ranking?.tie(),
  unrank: () => ranking?.clear(),
};

const STILL = ["undo", "guidelines", "keys", "differences", "apart"]; // what can be done beside a comparison that has gone
const BESIDE = ["why", "better", "rate", "differences", "apart", "skip", "flag", "undo", "guidelines", "keys"];

// What can be done by key now: places in an order, the verdicts of the bar, and what is beside them.
function offered() {
  const verdicts = [...document.querySelectorAll(".verdicts:not([hidden]) [data-act]")].map((button) => button.dataset.act);
  const picks = ranking ? [...ranking.letters.map((_, side) => `rank${side + 1}`), "tied"] : [];
  return [...picks, ...verdicts, ...BESIDE];
}

function perform(act) {
  const button = document.querySelector(`.verdicts:not([hidden]) [data-act=${act}]`);
  if (button) press(button);
  else if (act.startsWith("rank")) ranking.pick(Number(act.slice("rank".length)) - 1);
  else actions[act]();
}

function onKey(event) {
  // Enter held down on a button would press it again and again.
  if (event.repeat && event.target.closest(".verdict")) event.preventDefault();
  if (isShortcut(event) || event.repeat || event.isComposing) return;
  const dialog = document.querySelector("dialog[open]");
  if (dialog) return onDialogKey(event, dialog);
  // A dialog that Escape has closed keeps the focus for a moment; nobody writes in it any more.
  const closed = event.target.closest("dialog");
  if (current && rateByKey(current, event.target, place(event))) return event.preventDefault();
  const rating = event.target.closest(".rating");
  if (rating && /^arrow|^tab| /.test(event.key.toLowerCase())) return;
  if (!closed && !rating && event.target.closest("input, textarea, select, [contenteditable]")) return;
  const act = actOf(event, offered());
  const goesOn = event.key === "Enter" ? !event.target.closest("button, a") : act && !STILL.includes(act);
  if (event.key === "Escape" && !drawer.hidden) toggleGuidelines();
  else if (isGone(current) && goesOn) advance();
  else if (ranking && event.key === "Enter" && !event.target.closest("button:not(.chip), a")) actions.send();
  else if (ranking && event.key === "Backspace") actions.unrank();
  else if (act) perform(act);
  else if (!turnByKey(current, event)) return;
  event.preventDefault();
}

function onDialogKey(event, dialog) {
  if (event.target.closest("textarea")) return;
  const choice = [...dialog.querySelectorAll(".choices button, .tags input")][Number(place(event)) - 1];
  if (!choice) return;
  event.preventDefault();
  choice.click();
}

document.addEventListener("keydown", onKey);

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.do) actions[button.dataset.do]?.();
  else if (button.dataset.show) showSide(current, Number(button.dataset.show));
  else if (button.dataset.pick) {
    ranking.pick(Number(button.dataset.pick));
    if (event.detail) stage.focus({ preventScroll: true }); // after a click Enter sends; by key it picks again
  } else if (button.classList.contains("verdict") && event.detail < 2) press(button); // a double click answers once
});

for (const form of document.querySelectorAll("[data-put-aside]")) {
  form.addEventListener("submit", (event) => {
    const text = form.querySelector("textarea");
    if (event.submitter?.value) putAside(form.dataset.putAside, event.submitter.value, text?.value.trim() ?? "");
    if (text) text.value = "";
  });
}

document.querySelector("#why").addEventListener("input", keepReason);
document.querySelector("#why").addEventListener("close", closeReason);
document.querySelector("#why").addEventListener("cancel", () => {
  unsaid = null; // Escape keeps what was written, and sends nothing.
});
for (const field of document.querySelectorAll("#why-text, #better-text")) {
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) field.closest("dialog").close();
  });
}

// Start

document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenSince = performance.now();
  else {
    if (hiddenSince !== null) hiddenMs += performance.now() - Math.max(hiddenSince, shownAt);
    hiddenSince = null;
    renew();
    if (!current) fill();
  }
});

addEventListener("online", () => outbox.flush().then(fill));

function start() {
  // What was answered before a reload and has not arrived yet is not asked again.
  const entries = outbox.entries();
  for (const entry of entries) count(entry);
  const waiting = new Set(entries.map((entry) => entry.body.assignment));
  const given = [stage.querySelector("article"), document.querySelector("#ahead").content.querySelector("article")];
  const fresh = given.filter((article) => article && !waiting.has(id(article)));
  ahead = fresh.slice(1);
  const again = document.querySelector("#again");
  if (again) {
    const { assignment, draft } = JSON.parse(again.textContent);
    // A change of it that still waits to be sent is not made again.
    if (fresh[0] && id(fresh[0]) === assignment) {
      drafts.lookAt(assignment, draft);
      say(words("answered-before"));
    }
    window.history.replaceState(null, "", location.pathname); // a reload goes on with the work
  }
  show(fresh[0] ?? null);
  outbox.flush().then(fill);
  setInterval(renew, (Number(urls.leaseSeconds) * 1000) / 3);
  setInterval(() => (current && ahead.length >= AHEAD) || document.hidden || fill(), LOOK_AGAIN_MS);
}

start();

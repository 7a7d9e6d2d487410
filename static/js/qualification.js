// The qualification round: a question at a time, by the desk's keys. The receipt of an answer leads to what is right.

import "./bar.js";
import { actOf, isShortcut } from "./keys.js";
import { post } from "./outbox.js";
import { followSides, showLastTurn, showSide, turnByKey } from "./sides.js";
import { say, saySignedOut } from "./status.js";
import { words } from "./words.js";

const article = document.querySelector("#stage article");
const { given, answerUrl, person } = document.querySelector("#stage").dataset;
const next = document.querySelector("[data-next]");
const drawer = document.querySelector("#guidelines");
const shownAt = performance.now();

const RETRY_MS = 5000;
const keptAs = `tastemaker-round:${person}:${given}`;

let said = keptAnswer(); // what waits for its receipt: the last that was pressed; what arrives first stands
let sending = false;
let later; // the timer of the next try

function answer({ verdict = "preferred", side = "", strength = "" }) {
  if (!answerUrl) return;
  said = { given, verdict, side, strength, seconds_spent: Math.round((performance.now() - shownAt) / 100) / 10 };
  keepAnswer();
  send();
}

// For this tab, so that what was said outlives a reload and the way through the page of the login.
function keepAnswer() {
  try {
    if (said) sessionStorage.setItem(keptAs, JSON.stringify(said));
    else sessionStorage.removeItem(keptAs);
  } catch {
    // no storage: the page itself keeps it as long as it stays
  }
}

function keptAnswer() {
  if (!answerUrl) return null;
  try {
    return JSON.parse(sessionStorage.getItem(keptAs));
  } catch {
    return null; // no storage, or nothing that this page has written
  }
}

async function send() {
  if (!said || sending) return;
  clearTimeout(later);
  sending = true;
  say(words("saving"));
  const outcome = await post(answerUrl, said);
  if (outcome.done || outcome.refused) {
    said = null;
    keepAnswer();
  }
  if (outcome.done) return location.assign(outcome.reply.next);
  sending = false;
  if (outcome.refused) {
    say(outcome.message || words("refused"), "harm");
    return;
  }
  if (outcome.signedOut) saySignedOut(outcome, 1);
  else say(words(outcome.faulty ? "kept-faulty" : "kept-offline", { count: 1 }), "needs");
  later = setTimeout(send, RETRY_MS);
}

addEventListener("online", send);

function toggleGuidelines() {
  drawer.hidden = !drawer.hidden;
  (drawer.hidden ? document.querySelector("nav [data-do=guidelines]") : drawer.querySelector("h2")).focus();
}

function verdictButtons() {
  return [...document.querySelectorAll(".verdicts:not([hidden]) button[data-act]")];
}

document.addEventListener("keydown", (event) => {
  if (isShortcut(event) || event.repeat || event.isComposing) return;
  const buttons = verdictButtons();
  const act = actOf(event, [...buttons.map((button) => button.dataset.act), "guidelines"]);
  if (act === "guidelines" || (event.key === "Escape" && !drawer.hidden)) toggleGuidelines();
  else if (act) answer(buttons.find((button) => button.dataset.act === act).dataset);
  else if (event.key === "Enter" && next && !event.target.closest("button, a")) next.click();
  else if (!turnByKey(article, event)) return;
  event.preventDefault();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.do === "guidelines") toggleGuidelines();
  else if (button.dataset.show) showSide(article, Number(button.dataset.show));
  else if (button.matches(".verdict")) answer(button.dataset);
});

// The back button may bring the page back as it was left, when its question could not be answered any more.
addEventListener("pageshow", (event) => event.persisted && location.reload());

followSides(article);
showLastTurn(article);
document.querySelector("#outcome")?.focus();
send();

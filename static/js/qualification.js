// The qualification round: a question at a time, by the desk's keys. The answer is a form that leads to what is right.

import "./bar.js";
import { actOf, isShortcut } from "./keys.js";
import { followSides, showSide, turnByKey } from "./sides.js";

const article = document.querySelector("#stage article");
const form = document.querySelector("#answer");
const next = document.querySelector("[data-next]");
const drawer = document.querySelector("#guidelines");
const shownAt = performance.now();

const SENT_FOR_MS = 5000; // after which it may be sent again: it was stopped, or lost; the server takes it once

let sent = false;

function answer({ verdict = "preferred", side = "", strength = "" }) {
  if (!form || sent) return;
  sent = true;
  setTimeout(() => (sent = false), SENT_FOR_MS);
  const said = { verdict, side, strength, seconds_spent: Math.round((performance.now() - shownAt) / 100) / 10 };
  for (const [name, value] of Object.entries(said)) form.elements[name].value = value;
  form.submit();
}

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
document.querySelector("#outcome")?.focus();

// The question, and the answers side by side: one at a time on a phone, marks on what differs, and how long ones scroll.

import { canMark, markDifferences, unmark } from "./diff.js";
import { words } from "./words.js";

function tabs(article) {
  return [...(article?.querySelectorAll(".tabs [data-show]") ?? [])];
}

function scrollsSideways(element) {
  return element.scrollWidth > element.clientWidth;
}

// A long chat scrolls in its own card. What is answered is its last turn: the end of it, or where it is taller than the
// card, its beginning.
export function showLastTurn(article) {
  const card = article.querySelector(".prompt");
  const turn = card.querySelector(".chat > :last-child");
  const top = turn.getBoundingClientRect().top - card.getBoundingClientRect().top;
  card.scrollTop += top - card.clientTop - parseFloat(getComputedStyle(card).paddingTop);
}

// On a phone the row of answers scrolls sideways; the tabs say which one is seen.
export function followSides(article) {
  const row = article.querySelector(".answers");
  row.scrollLeft = 0;
  if (scrollsSideways(row)) row.tabIndex = 0; // what scrolls can be reached by key as well
  const mark = () => {
    const seen = Math.round(Math.abs(row.scrollLeft) / Math.max(1, row.firstElementChild.offsetWidth));
    tabs(article).forEach((tab, index) => {
      if (index === seen) tab.setAttribute("aria-current", "true");
      else tab.removeAttribute("aria-current");
    });
  };
  row.addEventListener("scroll", mark, { passive: true });
}

export function seenSide(article) {
  return Math.max(0, tabs(article).findIndex((tab) => tab.hasAttribute("aria-current")));
}

export function showSide(article, side) {
  const answer = article?.querySelectorAll(".answer")[side];
  if (!answer) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const row = answer.parentElement;
  const left = answer.offsetLeft - row.firstElementChild.offsetLeft;
  row.scrollTo({ left, behavior: calm ? "instant" : "smooth" });
}

const ARROWS = { ArrowLeft: -1, ArrowRight: 1 };

// An arrow shows the answer to the left or to the right of the one seen; in Arabic the first stands on the right. False
// when it was not meant for us: all are seen, or it scrolls what has the focus, such as long lines of code.
export function turnByKey(article, { key, target }) {
  const towards = ARROWS[key];
  const row = article?.querySelector(".answers");
  const focused = target.closest("[tabindex]") ?? row;
  if (!towards || !row || !scrollsSideways(row) || (focused !== row && scrollsSideways(focused))) return false;
  const by = document.documentElement.dir === "rtl" ? -towards : towards;
  showSide(article, Math.min(tabs(article).length - 1, Math.max(0, seenSide(article) + by)));
  return true;
}

// Marks on the words that two answers do not share

const differences = document.querySelector(".extras [data-do=differences]");

// The button on the bar, and on a phone the one beside the tabs.
function differencesButtons(article) {
  return [differences, article?.querySelector(".tabs [data-do=differences]")].filter(Boolean);
}

export function offerDifferences(article) {
  unmark();
  for (const button of differencesButtons(article)) {
    button.setAttribute("aria-pressed", "false");
    button.hidden = !canMark() || Boolean(article && Number(article.dataset.candidates) > 2);
  }
}

// Returns what to tell the person, if anything.
export function toggleDifferences(article) {
  if (!article || differences.hidden) return "";
  const marked = differences.getAttribute("aria-pressed") === "true";
  offerDifferences(article);
  if (marked) return "";
  const found = markDifferences(article);
  if (found === null) return words("little-shared");
  for (const button of differencesButtons(article)) button.setAttribute("aria-pressed", "true");
  return found ? "" : words("nothing-differs");
}

// Long answers scroll with the page, or each in its own card; the browser remembers which.

const stage = document.querySelector("#stage");
const apartKey = `tastemaker-apart:${stage.dataset.person}`;

function setApart(apart) {
  stage.classList.toggle("apart", apart);
  document.querySelector("[data-do=apart]").setAttribute("aria-pressed", apart);
}

export function toggleApart() {
  const apart = !stage.classList.contains("apart");
  setApart(apart);
  try {
    localStorage.setItem(apartKey, apart ? "1" : "");
  } catch {
    // it holds for this page
  }
}

try {
  setApart(localStorage.getItem(apartKey) === "1");
} catch {
  // they scroll together
}

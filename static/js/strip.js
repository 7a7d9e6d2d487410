// The order in the making as a strip of chips, a box for each level: dragged by mouse, finger or pen, or moved by the
// arrow keys. A chip dropped on another is tied with it; between two, it stands there; in the tray, it has no place.

import { words } from "./words.js";

const START_PX = 6; // less is a click
const FAR_PX = 64; // a chip let go further away goes back
const ON = 0.35; // of a chip's width to each side of its middle: on it, not beside it

const strip = document.querySelector("[data-strip]");
const levels = strip.querySelector(".levels");
const tray = strip.querySelector(".tray");
const hint = strip.querySelector(".hint");

let drag = null; // {chip, x, y, moved, off}: off once Escape has broken it off
let ranking = null; // what the chips are of

export function drawStrip(shown) {
  ranking = shown;
  drag = null;
  const focused = strip.contains(document.activeElement) ? document.activeElement.dataset.pick : null;
  levels.replaceChildren(...ranking.order.map((group, place) => level(group.map((side) => chip(side, place)))));
  const placed = ranking.order.flat();
  tray.replaceChildren(...ranking.letters.flatMap((_, side) => (placed.includes(side) ? [] : chip(side))));
  hint.hidden = placed.length > 0;
  if (focused) strip.querySelector(`[data-pick="${focused}"]`)?.focus(); // another comparison may have fewer
}

export function emptyStrip() {
  ranking = null;
  drag = null;
  levels.replaceChildren();
  tray.replaceChildren();
  hint.hidden = true;
}

function level(chips) {
  const item = document.createElement("li");
  item.append(...chips);
  return item;
}

// A click on it picks the answer, as its button in the card does.
function chip(side, place = null) {
  const letter = ranking.letters[side];
  const button = Object.assign(document.createElement("button"), { type: "button", className: `chip side-${letter.toLowerCase()}` });
  button.dataset.pick = side;
  const where = place === null ? words("not-placed") : words("place", { number: place + 1 });
  button.setAttribute("aria-label", `${words("answer", { letter })}, ${where}`);
  button.append(Object.assign(document.createElement("span"), { className: "badge", textContent: letter }));
  return button;
}

const sideOf = (button) => Number(button.dataset.pick);

// Where a chip let go here would stand; null far away from the strip.
function placeAt(x, y) {
  if (distance(strip, x, y) > FAR_PX) return null;
  if (distance(tray, x, y) === 0) return { how: "out" };
  const others = [...levels.querySelectorAll(".chip")].filter((one) => one !== drag.chip);
  if (!others.length) return { how: "first" };
  const near = others.reduce((best, one) => (distance(one, x, y) < distance(best, x, y) ? one : best));
  const { left, width } = near.getBoundingClientRect();
  const off = (x - left) / width - 0.5;
  const mates = others.filter((one) => one.parentElement === near.parentElement);
  const outermost = off < 0 ? mates[0] : mates.at(-1);
  const how = Math.abs(off) <= ON || near !== outermost ? "with" : off < 0 ? "before" : "after";
  return { how, side: sideOf(near), near };
}

function distance(element, x, y) {
  const { left, right, top, bottom } = element.getBoundingClientRect();
  return Math.hypot(Math.max(left - x, 0, x - right), Math.max(top - y, 0, y - bottom));
}

function mark(place) {
  for (const marked of strip.querySelectorAll("[data-drop]")) delete marked.dataset.drop;
  if (place?.how === "out") tray.dataset.drop = "on";
  else if (place?.how === "first") levels.dataset.drop = "on";
  else if (place?.how === "with") place.near.dataset.drop = "on";
  else if (place) place.near.parentElement.dataset.drop = place.how;
}

function putBack() {
  drag.chip.classList.remove("dragged");
  drag.chip.style.translate = "";
  mark(null);
}

function letGo(place) {
  putBack();
  const { chip, moved } = drag;
  drag = null;
  if (!moved) return;
  dropClick();
  if (place) ranking.move(sideOf(chip), place);
  document.querySelector("#stage").focus({ preventScroll: true }); // so that Enter sends the order
}

// The click that follows a drag is part of it.
function dropClick() {
  const drop = (event) => event.stopPropagation();
  addEventListener("click", drop, { capture: true, once: true });
  setTimeout(() => removeEventListener("click", drop, { capture: true }));
}

strip.addEventListener("pointerdown", (event) => {
  const chip = event.target.closest(".chip");
  if (!chip || !event.isPrimary || event.button !== 0) return;
  drag = { chip, x: event.clientX, y: event.clientY, moved: false };
  chip.setPointerCapture(event.pointerId);
});

strip.addEventListener("pointermove", (event) => {
  if (!drag || drag.off || !event.isPrimary) return;
  const [right, down] = [event.clientX - drag.x, event.clientY - drag.y];
  if (!drag.moved && Math.hypot(right, down) < START_PX) return;
  drag.moved = true;
  drag.chip.classList.add("dragged");
  drag.chip.style.translate = `${right}px ${down}px`;
  mark(placeAt(event.clientX, event.clientY));
});

strip.addEventListener("pointerup", (event) => {
  if (drag && event.isPrimary) letGo(drag.off ? null : placeAt(event.clientX, event.clientY));
});
strip.addEventListener("pointercancel", () => drag && letGo(null));

strip.addEventListener("keydown", (event) => {
  const chip = event.target.closest(".chip");
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (drag?.moved && event.key === "Escape") {
    putBack();
    drag.off = true;
  } else if (chip && step) ranking.step(sideOf(chip), step);
  else return;
  event.preventDefault();
  event.stopPropagation();
});

// A ranking of three or more in the making: numbers in order of preference, "=" ties the next with the one before.

import { drawStrip, emptyStrip } from "./strip.js";
import { words } from "./words.js";

const told = document.querySelector("[data-order]"); // the order in words
const tied = document.querySelector("[data-do=tied]");
const send = document.querySelector("[data-do=send]");

// No ranking is on screen: the bar holds nothing of the one before.
export function drawNoRanking() {
  told.textContent = "";
  emptyStrip();
  tied.setAttribute("aria-pressed", "false");
  send.disabled = true;
}

export class Ranking {
  // asks: whether answers may be left out (partial), and whether all may be on one level (ties). order: groups of
  // sides, best first, as it was left. changed(order): called with each other one.
  constructor(article, asks, order, changed) {
    this.article = article;
    this.asks = asks;
    this.changed = changed;
    this.letters = [...article.querySelectorAll(".answer .badge")].map((badge) => badge.textContent);
    this.order = order;
    this.tieNext = false;
    this.draw();
  }

  put(order) {
    this.order = order;
    this.tieNext = false;
    this.changed(order);
    this.draw();
  }

  clear() {
    this.put([]);
  }

  // Put a side at the end, or take it out again.
  pick(side) {
    const { order } = this;
    if (order.flat().includes(side)) this.put(this.without(side));
    else if (this.tieNext && order.length) this.put([...order.slice(0, -1), [...order.at(-1), side]]);
    else this.put([...order, [side]]);
  }

  tie() {
    this.tieNext = this.order.length > 0 && !this.tieNext;
    this.draw();
  }

  without(side) {
    return this.order.map((group) => group.filter((one) => one !== side)).filter((group) => group.length);
  }

  // Move a side, as by dragging: "with", "before" or "after" another one's level, "first" of all, or "out".
  move(side, { how, side: other }) {
    const rest = this.without(side);
    const at = rest.findIndex((group) => group.includes(other));
    if (how === "with") rest[at] = [...rest[at], side];
    else if (how !== "out") rest.splice(how === "after" ? at + 1 : Math.max(0, at), 0, [side]);
    this.put(rest);
  }

  // One step towards the best (-1) or away from it (1): out of a tie, into the next level, or out of the tray and back.
  step(side, by) {
    const at = this.order.findIndex((group) => group.includes(side));
    const mate = this.order[at]?.find((one) => one !== side);
    const next = at < 0 ? null : this.order[at + by]?.[0];
    if (mate !== undefined) this.move(side, { how: by < 0 ? "before" : "after", side: mate });
    else if (next !== undefined && next !== null) this.move(side, { how: "with", side: next });
    else if ((at < 0) === by < 0) this.pick(side);
  }

  get sendable() {
    const named = this.order.flat().length;
    if (this.order.length < 2 && !this.asks.ties) return false;
    return named === this.letters.length || (this.asks.partial && named > 1 && this.order.length > 1);
  }

  get verdict() {
    return this.order.length === 1 ? { verdict: "tie" } : { verdict: "preferred", ranking_sides: this.order };
  }

  get words() {
    const left = this.letters.length - this.order.flat().length;
    if (left === this.letters.length) return words("pick-in-order");
    const order = this.order.map((group) => group.map((side) => this.letters[side]).join(" = ")).join(" > ");
    // The order reads from the left whatever the page does: "A > B" must not become "B < A".
    return `\u2066${order}${this.tieNext ? " = ?" : ""}\u2069${left ? ` ${words("left", { count: left })}` : ""}`;
  }

  draw() {
    told.textContent = this.words;
    drawStrip(this);
    tied.setAttribute("aria-pressed", this.tieNext);
    send.disabled = !this.sendable;
    for (const pick of this.article.querySelectorAll("[data-pick]")) {
      const place = this.order.findIndex((group) => group.includes(Number(pick.dataset.pick)));
      pick.setAttribute("aria-pressed", place >= 0);
      pick.querySelector(".rank").textContent = place < 0 ? words("pick") : words("place", { number: place + 1 });
    }
  }
}

// A ranking of three or more in the making: numbers in order of preference, "=" ties the next with the one before.

import { words } from "./words.js";

export class Ranking {
  // asks: whether answers may be left out (partial), and whether all may be on one level (ties).
  constructor(article, asks) {
    this.article = article;
    this.asks = asks;
    this.letters = [...article.querySelectorAll(".answer .badge")].map((badge) => badge.textContent);
    this.clear();
  }

  clear() {
    this.order = []; // groups of sides, best first
    this.tieNext = false;
    this.draw();
  }

  // Put a side at the end, or take it out again.
  pick(side) {
    const { order } = this;
    if (order.flat().includes(side)) {
      this.order = order.map((group) => group.filter((one) => one !== side)).filter((group) => group.length);
    } else if (this.tieNext && order.length) this.order = [...order.slice(0, -1), [...order.at(-1), side]];
    else this.order = [...order, [side]];
    this.tieNext = false;
    this.draw();
  }

  tie() {
    this.tieNext = this.order.length > 0 && !this.tieNext;
    this.draw();
  }

  // Move a side to the place of another, as by dragging.
  move(side, before) {
    const rest = this.order.map((group) => group.filter((one) => one !== side)).filter((group) => group.length);
    const at = rest.findIndex((group) => group.includes(before));
    this.order = at < 0 ? [...rest, [side]] : [...rest.slice(0, at), [side], ...rest.slice(at)];
    this.tieNext = false;
    this.draw();
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
    document.querySelector("[data-order]").textContent = this.words;
    document.querySelector("[data-do=send]").disabled = !this.sendable;
    for (const pick of this.article.querySelectorAll("[data-pick]")) {
      const place = this.order.findIndex((group) => group.includes(Number(pick.dataset.pick)));
      pick.setAttribute("aria-pressed", place >= 0);
      pick.querySelector(".rank").textContent = place < 0 ? words("pick") : words("place", { number: place + 1 });
    }
  }
}

// A better answer, written by the annotator. It starts from an answer's text as it was written, which is fetched
// when it is wanted, and is kept with the draft until the verdict takes it along.

import { post } from "./outbox.js";
import { seenSide } from "./sides.js";
import { words } from "./words.js";

const dialog = document.querySelector("#better"); // absent where the project takes none
const field = document.querySelector("#better-text");
const url = document.querySelector("#stage").dataset.textsUrl;

export class Better {
  // drafts: where it is kept. changed(kept): called when the dialog has closed, with whether there is one now.
  constructor(drafts, changed) {
    this.drafts = drafts;
    this.changed = changed;
    this.written = []; // the answers' own texts, in the order shown
    field?.addEventListener("input", () => this.keep()); // so that a reload in the middle loses nothing
    dialog?.addEventListener("close", () => this.changed(this.keep()));
    dialog?.addEventListener("change", (event) => {
      // Another start brings its own text, unless something was written already.
      if (event.target.name === "start" && this.written.includes(field.value)) field.value = this.written[this.side];
    });
  }

  get side() {
    return Number(dialog.querySelector("[name=start]:checked").value);
  }

  // Resolves to the server's outcome where the texts did not come; else the dialog is open.
  async open(article, still) {
    if (!dialog) return null;
    const assignment = Number(article.dataset.assignment);
    const outcome = await post(url, { assignment });
    if (!outcome.done || !still()) return outcome;
    this.assignment = assignment;
    this.written = outcome.reply.texts.map((text) => text.replace(/\r\n?/g, "\n")); // as a text field has them
    const draft = this.drafts.read(assignment).edit;
    const side = draft?.side ?? seenSide(article);
    const letters = [...article.querySelectorAll(".answer .badge")].map((badge) => badge.textContent);
    dialog.querySelector("[data-starts]").replaceChildren(
      ...letters.map((letter, index) => startFrom(letter, index, index === side)),
    );
    field.value = draft?.text ?? this.written[side];
    dialog.showModal();
    field.focus();
    return null;
  }

  drop() {
    field.value = "";
    dialog.close();
  }

  keep() {
    const { side } = this;
    const text = field.value;
    const better = text.trim() && text.trim() !== this.written[side].trim();
    this.drafts.change(this.assignment, { edit: better ? { side, text } : null });
    return Boolean(better);
  }
}

function startFrom(letter, side, checked) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "start", value: side, checked });
  label.append(input, ` ${words("answer", { letter })}`);
  return label;
}

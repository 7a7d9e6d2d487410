// The settings of a project, with what annotators will see beside them, drawn by the server from what is typed.

import { csrfToken } from "./outbox.js";

const form = document.querySelector("#project-form");
const preview = document.querySelector("#preview");
const waits = document.querySelector("[data-waits]");
const QUIET_MS = 250;

let timer = null;
let asked = 0;

async function draw() {
  const number = ++asked;
  let response;
  try {
    response = await fetch(form.dataset.previewUrl, {
      method: "POST",
      headers: { "X-CSRFToken": csrfToken() },
      body: new FormData(form),
      redirect: "error",
    });
  } catch {
    waits.textContent = "No connection: this is what was typed before.";
    return;
  }
  const reply = response.headers.get("Content-Type")?.startsWith("application/json") ? await response.json() : {};
  if (number !== asked) return; // something was typed since
  if (reply.html) preview.innerHTML = reply.html;
  waits.textContent = reply.html ? "" : (reply.message ?? "The preview could not be drawn. Load the page again.");
}

form.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(draw, QUIET_MS);
});

// A list of many shows what is chosen.
for (const list of form.querySelectorAll("select[multiple]")) {
  list.scrollTop = (list.selectedOptions[0]?.offsetTop ?? 0) - list.offsetTop;
}

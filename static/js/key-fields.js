// Fields of one character: what is typed takes the place of what was there.

for (const field of document.querySelectorAll(".keys-of input")) {
  field.addEventListener("focus", () => field.select());
  field.addEventListener("pointerup", () => field.select());
}

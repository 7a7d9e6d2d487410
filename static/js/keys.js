// By which key what is done: the usual ones, or a person's own (labeling/keys.py).

const keys = JSON.parse(document.querySelector("#own-keys").textContent); // act -> character
const characters = new Set(Object.values(keys));

const QUESTION_MARKS = ["؟", "？"]; // Arabic keyboards and full-width Chinese ones have no other

// Signs such as "@" and "{" are typed with AltGr, which Windows calls Control and Alt, and on a Mac with Option, its Alt.
function typesSign(event) {
  return event.getModifierState("AltGraph") || (event.altKey && !event.ctrlKey && /^[^\p{L}\p{N}\s]$/u.test(event.key));
}

// Whether the browser or the system is meant.
export function isShortcut(event) {
  return event.metaKey || ((event.ctrlKey || event.altKey) && !typesSign(event));
}

// The key at its place, whatever the layout: "&" on a French keyboard is the key of 1, "я" that of Z.
export function place(event) {
  if (QUESTION_MARKS.includes(event.key)) return "?";
  const key = event.key.toLowerCase();
  if (/^[0-9a-z?=]$/.test(key) || key.length > 1 || event.shiftKey || typesSign(event)) return key;
  return event.code.match(/^(?:Digit|Numpad|Key)([0-9A-Z])$/)?.[1].toLowerCase() ?? key;
}

// The first of the acts offered whose key was pressed. What was typed comes before where it was typed.
export function actOf(event, offered) {
  const typed = event.key.toLowerCase();
  const key = characters.has(typed) ? typed : place(event);
  return offered.find((act) => keys[act] === key);
}

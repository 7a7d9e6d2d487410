// The line at the foot of the page that says what has become of an answer.

const status = document.querySelector(".status");
const { loginUrl } = document.querySelector("#stage").dataset;

export function say(words, tone = "") {
  status.className = `status ${tone}`;
  if (status.textContent !== words) status.textContent = words;
}

export function sayWithLink(words, href, text, tone) {
  // Every retry says it again: the link stays the same one, so that it can be clicked and keeps the focus.
  if (status.textContent === `${words} ${text}`) return;
  say(`${words} `, tone);
  status.append(Object.assign(document.createElement("a"), { href, textContent: text }));
}

export function sayWithLogin(words) {
  sayWithLink(words, loginUrl, "Sign in again", "needs");
}

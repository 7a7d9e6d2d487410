// A comparison that has gone to somebody else, or was answered elsewhere, while it was on screen. It stays until the
// person goes on, so that no key that was meant for it meets another one.

const notice = document.querySelector("#gone");

export function isGone(article) {
  return Boolean(article?.querySelector(".gone"));
}

// why: a sentence for the person.
export function markGone(article, why) {
  if (isGone(article)) return;
  const shown = notice.content.cloneNode(true);
  shown.querySelector("p").textContent = why;
  article.prepend(shown);
}

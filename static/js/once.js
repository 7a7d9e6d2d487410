// What a form asks for is asked once: a second click before the answer is there would freeze, start or add it twice.

const AGAIN_MS = 10000; // when whoever asks once more means it: the first try may have been cut off

let asked = new Map(); // when each thing was asked for

// By its words and not by its form: a page that renews itself has another form by the second click. And another button, or
// a field that was mended meanwhile, asks for something else.
function wordsOf(form, submitter) {
  const said = [...new FormData(form)].filter(([name]) => name !== "csrfmiddlewaretoken");
  const values = said.map(([name, value]) => [name, value instanceof File ? [value.name, value.size] : value]);
  return JSON.stringify([form.getAttribute("action"), submitter?.name, submitter?.value, values]);
}

document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.target.getAttribute("method") !== "post") return;
  const words = wordsOf(event.target, event.submitter);
  if (event.timeStamp - (asked.get(words) ?? -AGAIN_MS) < AGAIN_MS) event.preventDefault();
  else asked.set(words, event.timeStamp);
});

// A page that comes back by the browser's own button is as it was left.
addEventListener("pageshow", (event) => {
  if (event.persisted) asked = new Map();
});

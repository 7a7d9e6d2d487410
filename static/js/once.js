// What a form asks for is asked once: a second click before the answer is there would freeze, start or add it twice.

const AGAIN_MS = 30000; // when a page that is still here has most likely got no answer

let sent = new WeakMap(); // when each form was sent

document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.target.method !== "post") return;
  if (event.timeStamp - (sent.get(event.target) ?? -AGAIN_MS) < AGAIN_MS) event.preventDefault();
  else sent.set(event.target, event.timeStamp);
});

// A page that comes back by the browser's own button is as it was left.
addEventListener("pageshow", () => (sent = new WeakMap()));

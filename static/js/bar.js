// How high the bar is: long words, larger letters and a narrow window make it higher. The page leaves so much room below.

const bar = document.querySelector(".bar");

new ResizeObserver(() => {
  document.documentElement.style.setProperty("--bar-height", `${bar.offsetHeight}px`);
}).observe(bar);

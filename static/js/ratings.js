// Ratings of each answer by each criterion: groups of five radio buttons under the answers.

function groups(article) {
  return [...article.querySelectorAll(".rating")];
}

function value(group) {
  const chosen = group.querySelector("input:checked");
  return chosen ? Number(chosen.value) : null;
}

// By criterion, in the order shown; null where there is none yet.
export function ratingsOf(article) {
  const found = {};
  for (const group of groups(article)) {
    found[group.dataset.criterion] ??= [];
    found[group.dataset.criterion][Number(group.dataset.side)] = value(group);
  }
  return found;
}

export function showRatings(article, ratings) {
  for (const group of groups(article)) {
    const kept = ratings[group.dataset.criterion]?.[Number(group.dataset.side)];
    for (const input of group.querySelectorAll("input")) input.checked = Number(input.value) === kept;
  }
}

// The first group without a rating after this one, or from the start.
export function nextUnrated(article, after = null) {
  const all = groups(article);
  const from = after ? all.indexOf(after) + 1 : 0;
  return [...all.slice(from), ...all.slice(0, from)].find((group) => value(group) === null) ?? null;
}

export function focusOn(group) {
  group.scrollIntoView({ block: "nearest", inline: "nearest" });
  (group.querySelector("input:checked") ?? group.querySelector("input")).focus({ preventScroll: true });
}

// A digit rates where the focus is and goes on to what is not rated yet. False when it was not meant for us.
export function rateByKey(article, target, key) {
  const group = target.closest(".rating");
  if (!group || !/^[1-5]$/.test(key)) return false;
  const input = group.querySelector(`input[value="${key}"]`);
  input.checked = true;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  const next = nextUnrated(article, group);
  if (next) focusOn(next);
  else document.querySelector("#stage").focus({ preventScroll: true });
  return true;
}

// What two answers do not share, word by word, marked by the browser without touching the page's content.

const MOST_STEPS = 400; // words to take out and put in, beyond which two answers are simply different

export const canMark = () => "highlights" in CSS;

// Words with where they stand: {text, node, start, end}.
function words(root) {
  const found = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    // A word is letters, digits and marks; of writing without spaces each character, and of signs too.
    for (const match of node.data.matchAll(/[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|[\p{L}\p{N}\p{M}_]+|[^\s\p{L}\p{N}]/gu)) {
      found.push({ text: match[0], node, start: match.index, end: match.index + match[0].length });
    }
  }
  return found;
}

// Which places of `a` and of `b` are not in their longest common subsequence, or null where that is nearly all.
// Source: Myers, "An O(ND) difference algorithm and its variations", 1986.
export function different(a, b) {
  let begin = 0;
  while (begin < a.length && begin < b.length && a[begin] === b[begin]) begin++;
  let endA = a.length;
  let endB = b.length;
  while (endA > begin && endB > begin && a[endA - 1] === b[endB - 1]) [endA, endB] = [endA - 1, endB - 1];
  const [n, m] = [endA - begin, endB - begin];
  const furthest = new Map([[1, 0]]);
  const trace = [];
  for (let steps = 0; steps <= Math.min(n + m, MOST_STEPS); steps++) {
    trace.push(new Map(furthest));
    for (let k = -steps; k <= steps; k += 2) {
      const down = k === -steps || (k !== steps && furthest.get(k - 1) < furthest.get(k + 1));
      let x = down ? furthest.get(k + 1) : furthest.get(k - 1) + 1;
      let y = x - k;
      while (x < n && y < m && a[begin + x] === b[begin + y]) [x, y] = [x + 1, y + 1];
      furthest.set(k, x);
      if (x >= n && y >= m) return walkBack(trace, n, m, begin);
    }
  }
  return null;
}

function walkBack(trace, n, m, begin) {
  const [onlyA, onlyB] = [[], []];
  let [x, y] = [n, m];
  for (let steps = trace.length - 1; steps > 0; steps--) {
    const furthest = trace[steps];
    const k = x - y;
    const down = k === -steps || (k !== steps && furthest.get(k - 1) < furthest.get(k + 1));
    const before = down ? k + 1 : k - 1;
    const x0 = furthest.get(before);
    const y0 = x0 - before;
    if (down) onlyB.unshift(begin + y0);
    else onlyA.unshift(begin + x0);
    [x, y] = [x0, y0];
  }
  return [onlyA, onlyB];
}

// Mark what the first two answers of the article do not share. Returns how many words that are, or null where
// they share too little for marks to show anything.
export function markDifferences(article) {
  const sides = [...article.querySelectorAll(".answer .read")].slice(0, 2).map(words);
  const places = different(...sides.map((side) => side.map((word) => word.text)));
  if (!places) return null;
  const ranges = sides.flatMap((side, index) =>
    places[index].map((place) => {
      const { node, start, end } = side[place];
      const marked = new Range();
      marked.setStart(node, start);
      marked.setEnd(node, end);
      return marked;
    }),
  );
  CSS.highlights.set("differs", new Highlight(...ranges));
  return ranges.length;
}

export function unmark() {
  if (canMark()) CSS.highlights.delete("differs");
}

// What the scripts say, in the reader's language: sentences that the page carries, by the names of labeling/words.py.

const sentences = JSON.parse(document.querySelector("#words").textContent);
const kinds = new Intl.PluralRules(document.documentElement.lang);

export function words(name, values = {}) {
  const found = sentences[name];
  const sentence = typeof found === "string" ? found : found[kinds.select(values.count)];
  return sentence.replace(/%\((\w+)\)s/g, (_, value) => values[value]);
}

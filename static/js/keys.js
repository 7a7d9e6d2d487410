// The key's meaning whatever the layout: "&" on a French keyboard is the key of 1, "я" that of Z.
export function meaning(event) {
  const key = event.key.toLowerCase();
  if (/^[0-9a-z?=]$/.test(key) || key.length > 1 || event.shiftKey) return key;
  return event.code.match(/^(?:Digit|Numpad|Key)([0-9A-Z])$/)?.[1].toLowerCase() ?? key;
}

// Elements and their texts. What comes from the network becomes text here and nothing else.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element of HTML with `attributes`, and texts or elements in it. */
export function element(name, attributes = {}, ...content) {
  return fill(document.createElement(name), attributes, content);
}

/** As `element`, of SVG. */
export function svg(name, attributes = {}, ...content) {
  return fill(document.createElementNS(SVG, name), attributes, content);
}

function fill(made, attributes, content) {
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name, value);
  }
  made.append(...content.filter((part) => part !== undefined && part !== ""));
  return made;
}

/** Sets a text only where it is another one, so that nobody is told of what did not change. */
export function say(id, text, kind = "") {
  const at = byId(id);
  if (at.textContent !== text) at.textContent = text;
  at.classList.remove("good", "warn", "bad");
  if (kind) at.classList.add(kind);
}

/** Whose child an element is, by the key of its item. */
const keys = new WeakMap();

/**
 * Shows `items` as children of `parent`, in their order, and nothing else. A child stays the same element for as long as
 * the `key` of its item is there, which nobody else has, so that the keyboard's focus stays, too. `make` makes one,
 * `update` brings it up to date; without a key an item that changes gets a new one.
 */
export function list(parent, items, make, key = JSON.stringify, update = () => {}) {
  const wanted = new Set(items.map(key));
  const known = new Map();
  for (const child of [...parent.childNodes]) {
    if (wanted.has(keys.get(child))) known.set(keys.get(child), child);
    else child.remove();
  }
  items.forEach((item, index) => {
    const child = known.get(key(item)) ?? make(item);
    keys.set(child, key(item));
    update(child, item);
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
}

const pad = (number, digits) => String(number).padStart(digits, "0");

/** A time of the server on the clock of whoever looks; with the date unless it is today's. */
export function time(text, withMillis = false) {
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return element("span", {}, text);
  const clock = [at.getHours(), at.getMinutes(), at.getSeconds()].map((part) => pad(part, 2)).join(":");
  const date = `${at.getFullYear()}-${pad(at.getMonth() + 1, 2)}-${pad(at.getDate(), 2)} `;
  const isToday = at.toDateString() === new Date().toDateString();
  const shown = (isToday ? "" : date) + clock + (withMillis ? `.${pad(at.getMilliseconds(), 3)}` : "");
  return element("time", { datetime: text, title: text }, shown);
}

/** Milliseconds as people say them. */
export function duration(millis) {
  if (millis === null) return "–";
  return millis < 1000 ? `${millis} ms` : `${(millis / 1000).toFixed(millis < 10_000 ? 1 : 0)} s`;
}

/** Where a call, or a user, is shown. */
export const linkTo = (kind, name) => `#${kind}/${encodeURIComponent(name)}`;

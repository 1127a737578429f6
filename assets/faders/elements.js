// Elements, made and written. Text from the model never becomes HTML: every word is set as text.

/** @template {keyof HTMLElementTagNameMap} T @param {T} tag @param {string} className @param {Record<string, string | number>} attributes @param {(Node | string)[]} children */
export function make(tag, className, attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [name, content] of Object.entries(attributes)) node.setAttribute(name, String(content));
  node.append(...children);
  return node;
}

/** @param {string} tag @param {Record<string, string | number>} attributes */
export function draw(tag, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, content] of Object.entries(attributes)) node.setAttribute(name, String(content));
  return node;
}

/** Writes only what is new: every write makes the browser look at the styles of a whole column again.
 * @param {Element} node @param {string} name @param {string | number | boolean} now */
export function say(node, name, now) {
  if (node.getAttribute(name) !== String(now)) node.setAttribute(name, String(now));
}

/** @param {Element} node @param {string} words */
export function write(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

/** The element that an event happened to. @param {Event} event */
export const targetOf = (event) => /** @type {HTMLElement} */ (event.target);

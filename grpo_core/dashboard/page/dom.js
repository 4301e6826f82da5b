// Elements are made here and nowhere else. All text goes through text nodes: what a run, an event or an environment says
// is never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. `on` holds listeners; other properties are attributes, left out when null or false. */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** An SVG element. */
export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets text without touching the page when it is the same already: a selection in it stays. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Keeps one child per key, made by `make(key)`, in the order of `keys`; others are removed. Returns them by key. */
export function keyed(parent, keys, make) {
  const present = (parent.keyedChildren ??= new Map());
  const wanted = new Set(keys);
  for (const [key, child] of present) {
    if (!wanted.has(key)) {
      child.element.remove();
      present.delete(key);
    }
  }
  keys.forEach((key, place) => {
    if (!present.has(key)) present.set(key, make(key));
    const { element } = present.get(key);
    if (parent.children[place] !== element) parent.insertBefore(element, parent.children[place] ?? null);
  });
  return present;
}

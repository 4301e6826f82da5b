// The state of a run: a word, and a shape beside the colour.

import { h, setText } from "./dom.js";

const WORDS = {
  running: ["●", "running", "a process trains it now"],
  done: ["✓", "done", "all its steps are trained"],
  stopped: ["■", "stopped", "it was asked to end before its last step; --resume goes on"],
  failed: ["✕", "failed", "nobody trains it, and it never said that it ended; --resume goes on from its checkpoint"],
};

export function badge() {
  return h("span", { class: "badge" });
}

export function setBadge(element, status) {
  const [symbol, word, meaning] = WORDS[status];
  element.dataset.status = status;
  element.title = meaning;
  setText(element, `${symbol} ${word}`);
}

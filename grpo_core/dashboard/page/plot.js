// What every chart of the page has: a card with a title, a legend with values, and a picture as wide as the card.

import { cursorOf, followCursor, pointAt } from "./cursor.js";
import { h, s } from "./dom.js";
import { duration, number, tickLabel } from "./format.js";
import { linear, ticks, timeTicks, valueRange, wholeTicks } from "./scale.js";

export const HEIGHT = 190;
const MARGIN = { top: 10, right: 14, bottom: 34, left: 50 };
const WORDS = { step: "step", time: "time since the start" };

/** A card. A chart fills `legend`, and draws into `picture` when its width changes. */
export class Card {
  constructor({ title, unit, tag, note, wide }) {
    this.legend = h("ul", { class: "legend" });
    this.picture = h("div", { class: "picture" });
    const heading = h("h3", {}, title, unit ? h("span", { class: "unit" }, unit) : null);
    this.element = h(
      "figure",
      { class: wide ? "card wide" : "card", tabindex: 0, role: "group", "aria-label": title },
      h("figcaption", {}, heading, tag ? h("span", { class: "tag", title: tag.title }, tag.text) : null),
      this.legend, this.picture, note ? h("p", { class: "note" }, note) : null,
    );
    this.width = 0;
    new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width && width !== this.width) {
        this.width = width;
        this.draw();
      }
    }).observe(this.picture);
  }

  draw() {}

  show(svg) {
    this.picture.replaceChildren(svg);
  }
}

/** A card with a horizontal axis that shares its cursor with others. `places` are the x of its points, in order. */
export class CursorCard extends Card {
  constructor(settings, axis) {
    super(settings);
    this.axis = axis;
    this.places = [];
    followCursor(this.element, () => this.cursorMoved());
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.picture.addEventListener("pointermove", (event) => this.pointer(event));
    this.picture.addEventListener("pointerleave", () => pointAt(this.axis, null));
    this.element.addEventListener("blur", () => pointAt(this.axis, null));
  }

  /** The place in `places` that the cursor is nearest to; null when it points elsewhere. */
  at(places = this.places) {
    const x = cursorOf(this.axis);
    if (x === null || !places.length || x < places[0] - 1e9) return null;
    let [low, high] = [0, places.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (places[middle] < x) low = middle + 1;
      else high = middle;
    }
    return low > 0 && x - places[low - 1] < places[low] - x ? low - 1 : low;
  }

  pointer(event) {
    if (!this.frame) return;
    const inside = event.clientX - this.picture.getBoundingClientRect().left;
    const ratio = (inside - this.frame.left) / (this.frame.right - this.frame.left);
    const x = this.frame.x0 + Math.min(Math.max(ratio, 0), 1) * (this.frame.x1 - this.frame.x0);
    pointAt(this.axis, x);
  }

  key(event) {
    const last = this.places.length - 1;
    const now = this.at();
    const moves = {
      ArrowLeft: now === null ? last : Math.max(now - 1, 0), ArrowRight: now === null ? 0 : Math.min(now + 1, last),
      Home: 0, End: last,
    };
    if (event.key === "Escape") pointAt(this.axis, null);
    else if (event.key in moves && last >= 0) {
      event.preventDefault();
      pointAt(this.axis, this.places[moves[event.key]]);
    }
  }

  cursorMoved() {}
}

/** The frame of a picture: scales, grid and both axes. */
export function frame({ width, axis, x0, x1, values, zero, unit, label }) {
  const { low, high, cut } = valueRange(values, zero);
  const [left, right, top, bottom] = [MARGIN.left, width - MARGIN.right, MARGIN.top + (cut === null ? 0 : 14), HEIGHT - MARGIN.bottom];
  const x = linear(x0, x1, left, right);
  const y = linear(low, high, bottom, top);
  const svg = s("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  const vertical = ticks(low, high, 4);
  for (const value of vertical.values) {
    svg.append(
      s("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }),
      s("text", { class: "tick", x: left - 8, y: y(value) + 4, "text-anchor": "end" }, tickLabel(value, vertical.step)),
    );
  }
  svg.append(...horizontalAxis(axis, x, x0, x1, left, right, bottom));
  if (cut !== null) {
    svg.append(s("text", { class: "cut", x: left, y: 11 }, `▲ single values up to ${number(cut)} ${unit}`));
  }
  return { svg, x, y, left, right, top, bottom, x0, x1, low, high };
}

/** Ticks below the frame, and what they count. */
export function horizontalAxis(axis, x, x0, x1, left, right, bottom) {
  const room = Math.max(2, Math.floor((right - left) / 90));
  const { values, step } = axis === "time" ? timeTicks(x0, x1, room) : wholeTicks(x0, x1, room);
  const label = axis === "time" ? (value) => (step >= 1 ? shortDuration(value) : tickLabel(value, step)) : (value) => tickLabel(value, step);
  const marks = values.flatMap((value) => [
    s("line", { class: "axis", x1: x(value), x2: x(value), y1: bottom, y2: bottom + 4 }),
    s("text", { class: "tick", x: x(value), y: bottom + 16, "text-anchor": anchor(x(value), left, right) }, label(value)),
  ]);
  return [
    s("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }), ...marks,
    s("text", { class: "name", x: right, y: bottom + 30, "text-anchor": "end" }, WORDS[axis] ?? axis),
  ];
}

function anchor(x, left, right) {
  return x > right - 14 ? "end" : x < left + 4 ? "start" : "middle";
}

function shortDuration(seconds) {
  if (seconds === 0) return "0";
  return duration(seconds).replace(" 00 s", "").replace(" 00 min", "");
}

/** The hatching of waits, for one picture. */
export function hatching(prefix) {
  return s(
    "defs", {},
    s(
      "pattern", { id: `${prefix}-wait`, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      s("rect", { class: "hatch-back", width: 7, height: 7 }), s("rect", { class: "hatch-line", width: 2.4, height: 7 }),
    ),
  );
}

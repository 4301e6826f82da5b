// The last steps as lanes, a lane per thread. Waits are hatched; the step that ended is written above its end.

import { SpanEntry } from "./account_chart.js";
import * as colours from "./colours.js";
import { h, keyed, s, setText } from "./dom.js";
import { duration } from "./format.js";
import { Card, hatching, horizontalAxis } from "./plot.js";
import { linear } from "./scale.js";

const LANE = 30;
const NAME = 18;
const TOP = 24;
const LETTER = 6.4;
let numPictures = 0;

export class Timeline extends Card {
  constructor() {
    super({ title: "The last steps", unit: "a lane per thread, hatched where it waits", wide: true });
    this.prefix = `lanes-${numPictures++}`;
    this.detail = h("p", { class: "detail", role: "status" });
    this.element.append(this.detail);
    this.chosen = null;
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.picture.addEventListener("pointermove", (event) => this.choose(event.target.spanPlace ?? null));
    this.picture.addEventListener("pointerleave", () => this.choose(null));
    this.choose(null);
  }

  update(timeline) {
    this.timeline = timeline;
    this.draw();
  }

  draw() {
    if (!this.width || !this.timeline?.lanes.length) return;
    const { lanes, steps } = this.timeline;
    const end = Math.max(...lanes.flatMap((lane) => lane.spans.map((span) => span[2])), ...steps.map((step) => step.end_s));
    const [left, right, bottom] = [4, this.width - 4, TOP + lanes.length * (LANE + NAME)];
    const x = linear(0, end || 1, left, right);
    const height = bottom + 36;
    const svg = s("svg", { width: this.width, height, viewBox: `0 0 ${this.width} ${height}`, role: "img", "aria-label": this.summary() }, hatching(this.prefix));
    this.rectangles = [];
    lanes.forEach((lane, place) => {
      const y = TOP + place * (LANE + NAME);
      svg.append(s("text", { class: "lane-name", x: left, y: y + 12 }, lane.name));
      lane.spans.forEach((span, index) => svg.append(...this.block(span, { lane: place, index }, x, y + NAME)));
    });
    this.drawSteps(svg, steps, x, left, right, bottom);
    svg.append(...horizontalAxis("time", x, 0, end || 1, left, right, bottom + 2).slice(0, -1));
    svg.append(s("text", { class: "name", x: right, y: bottom + 33, "text-anchor": "end" }, "seconds"));
    this.show(svg);
    this.drawLegend(lanes);
    this.choose(this.chosen);
  }

  block(span, place, x, y) {
    const [name, start, stop] = span;
    const width = Math.max(x(stop) - x(start), 0.6);
    const rectangle = s("rect", { class: colours.isWait(name) ? "span wait" : "span", x: x(start).toFixed(2), y, width: width.toFixed(2), height: LANE, rx: width > 8 ? 2 : 0 });
    rectangle.style.fill = colours.span(name, this.prefix);
    rectangle.spanPlace = place;
    this.rectangles.push(rectangle);
    const words = colours.isWait(name) ? `wait ${duration(stop - start)}` : name;
    if (words.length * LETTER + 10 > width) return [rectangle];
    const text = s("text", { class: colours.isWait(name) ? "span-name on-wait" : "span-name", x: x(start) + width / 2, y: y + LANE / 2 + 4, "text-anchor": "middle" }, words);
    return [rectangle, text];
  }

  drawSteps(svg, steps, x, left, right, bottom) {
    let free = -Infinity;
    for (const { step, end_s: end } of steps) {
      const place = x(end);
      svg.append(s("line", { class: "step", x1: place, x2: place, y1: TOP - 6, y2: bottom + 2 }));
      const words = `step ${step}`;
      const half = (words.length * LETTER) / 2;
      const middle = Math.min(Math.max(place, left + half), right - half);
      if (middle - half > free) {
        svg.append(s("text", { class: "tick", x: middle, y: 12, "text-anchor": "middle" }, words));
        free = middle + half + 6;
      }
    }
  }

  drawLegend(lanes) {
    const totals = new Map();
    for (const [name, start, stop] of lanes.flatMap((lane) => lane.spans)) totals.set(name, (totals.get(name) ?? 0) + stop - start);
    const names = [...totals.keys()].sort((a, b) => colours.isWait(a) - colours.isWait(b) || totals.get(b) - totals.get(a));
    const entries = keyed(this.legend, names, (name) => new SpanEntry(name));
    for (const name of names) entries.get(name).update(duration(totals.get(name)));
  }

  summary() {
    const { lanes } = this.timeline;
    return lanes.map((lane) => {
      const all = lane.spans.reduce((sum, [, start, stop]) => sum + stop - start, 0) || 1;
      const waits = lane.spans.filter(([name]) => colours.isWait(name)).reduce((sum, [, start, stop]) => sum + stop - start, 0);
      return `${lane.name} waits ${Math.round((100 * waits) / all)} % of the time`;
    }).join(", ");
  }

  /** Say what the span at `place` is. */
  choose(place) {
    this.chosen = place;
    const span = place && this.timeline?.lanes[place.lane]?.spans[place.index];
    for (const rectangle of this.rectangles ?? []) {
      const isChosen = place && rectangle.spanPlace.lane === place.lane && rectangle.spanPlace.index === place.index;
      rectangle.classList.toggle("chosen", Boolean(isChosen));
    }
    const hint = "Point at a span, or use the arrow keys, to see how long it took.";
    setText(this.detail, span ? `${this.timeline.lanes[place.lane].name}: ${colours.spanWords(span[0])}, ${duration(span[2] - span[1])}, from ${duration(span[1])} to ${duration(span[2])}` : hint);
  }

  key(event) {
    const lanes = this.timeline?.lanes ?? [];
    if (!lanes.length || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Escape") return this.choose(null);
    const { lane, index } = this.chosen ?? { lane: 0, index: -1 };
    const sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0;
    const down = { ArrowUp: -1, ArrowDown: 1 }[event.key] ?? 0;
    const next = Math.min(Math.max(lane + down, 0), lanes.length - 1);
    const last = lanes[next].spans.length - 1;
    this.choose({ lane: next, index: Math.min(Math.max(index + sideways, 0), last) });
  }
}

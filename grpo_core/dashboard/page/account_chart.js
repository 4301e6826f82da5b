// The account of a thread: seconds of each step by span, one on top of the other. They add up to the wall clock.

import * as colours from "./colours.js";
import { h, keyed, s, setText } from "./dom.js";
import { duration, number } from "./format.js";
import { CursorCard, frame, hatching } from "./plot.js";

let numPictures = 0;

export class AccountChart extends CursorCard {
  constructor(account) {
    super({ title: `Thread ${account.thread}`, unit: "s per step", wide: true }, "step");
    this.prefix = `account-${numPictures++}`;
    this.update(account);
  }

  update(account) {
    this.account = account;
    this.places = account.x;
    this.draw();
  }

  draw() {
    if (!this.width || !this.places.length) return;
    const { layers, thread, wall_s: wall } = this.account;
    const sums = this.places.map(() => 0);
    const tops = layers.map((layer) => layer.y.map((value, index) => (sums[index] += value ?? 0)));
    const [x0, x1] = [2 * this.places[0] - (this.places[1] ?? this.places[0] + 1), this.places.at(-1)];
    const label = `${thread}: ${layers.map((layer) => `${colours.spanWords(layer.name)} ${share(layer, wall)}`).join(", ")}`;
    this.frame = frame({ width: this.width, axis: "step", x0, x1, values: [0, ...sums], zero: true, unit: "s", label });
    const { svg, x, y, left, right, top, bottom } = this.frame;
    const drawing = s("g", { "clip-path": `url(#${this.prefix}-clip)` });
    svg.prepend(hatching(this.prefix), s("defs", {}, s("clipPath", { id: `${this.prefix}-clip` }, s("rect", { x: left, y: top, width: right - left, height: bottom - top }))));
    layers.forEach((layer, place) => {
      const below = place ? tops[place - 1] : this.places.map(() => 0);
      const area = s("path", { class: colours.isWait(layer.name) ? "layer wait" : "layer", d: stepArea(x0, this.places, below, tops[place], x, y) });
      area.style.fill = colours.span(layer.name, this.prefix);
      drawing.append(area);
    });
    this.mark = s("g", { class: "mark" });
    svg.append(drawing, this.mark);
    this.show(svg);
    this.cursorMoved();
  }

  cursorMoved() {
    if (!this.mark) return;
    const at = this.at();
    const { x, top, bottom, x0 } = this.frame;
    this.mark.replaceChildren();
    if (at !== null) {
      const middle = x((this.places[at] + (at ? this.places[at - 1] : x0)) / 2);
      this.mark.append(s("line", { class: "cursor", x1: middle, x2: middle, y1: top, y2: bottom }));
    }
    const { layers, wall_s: wall } = this.account;
    const entries = keyed(this.legend, layers.map((layer) => layer.name), (name) => new SpanEntry(name));
    for (const layer of layers) {
      entries.get(layer.name).update(at === null ? share(layer, wall) : duration(layer.y[at] ?? 0));
    }
    this.where ??= this.legend.parentElement.querySelector("h3").appendChild(h("span", { class: "where" }));
    setText(this.where, at === null ? `share of ${duration(wall)}` : `at step ${number(this.places[at])}`);
  }
}

/** A span in a legend: its colour, its name, a value. */
export class SpanEntry {
  constructor(name) {
    const prefix = `key-${numPictures++}`;
    const swatch = s("rect", { class: "swatch", width: 14, height: 12, rx: 2 });
    swatch.style.fill = colours.span(name, prefix);
    this.value = h("b");
    this.element = h("li", {}, s("svg", { class: "key", width: 14, height: 12, "aria-hidden": "true" }, hatching(prefix), swatch), h("span", { class: "label" }, colours.spanWords(name)), this.value);
  }

  update(value) {
    setText(this.value, value);
  }
}

function share(layer, wall) {
  const percent = (100 * layer.total_s) / (wall || 1);
  return `${percent >= 9.95 || percent === 0 ? percent.toFixed(0) : percent.toFixed(1)} %`;
}

/** A column per step, from the end of the one before to its own. */
function stepArea(x0, places, below, above, x, y) {
  const edges = [x0, ...places].map((value) => x(value).toFixed(1));
  let path = `M${edges[0]} ${y(above[0]).toFixed(1)}`;
  places.forEach((_, index) => (path += `V${y(above[index]).toFixed(1)}H${edges[index + 1]}`));
  for (let index = places.length - 1; index >= 0; index--) path += `V${y(below[index]).toFixed(1)}H${edges[index]}`;
  return `${path}Z`;
}

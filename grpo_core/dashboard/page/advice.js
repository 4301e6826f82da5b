// What grpo explain says of the run: what is wrong with it, or its largest shares and what to try.

import * as colours from "./colours.js";
import { h, s } from "./dom.js";
import { number } from "./format.js";
import { hatching } from "./plot.js";

const HARDLY = 1.1;
let numBars = 0;

export class Explanation {
  constructor(name) {
    this.name = name;
    this.list = h("div", { class: "advice", "aria-live": "polite" });
    this.button = h("button", { type: "button", class: "button", on: { click: () => this.load() } }, "What would give time back?");
    this.element = h("div", { class: "explanation" }, this.button, this.list);
  }

  async load() {
    this.button.disabled = true;
    try {
      const answer = await fetch(`/api/runs/${encodeURIComponent(this.name)}/advice`);
      this.list.replaceChildren(...parts(await answer.json()));
    } catch {
      this.list.replaceChildren(quiet("No answer: is grpo dashboard still running?"));
    }
    this.button.disabled = false;
  }
}

const quiet = (text) => h("p", { class: "quiet" }, text);

function parts({ complaints, shares, note }) {
  if (note) return [quiet(note)];
  if (complaints.length) {
    const wrong = complaints.map(({ what, remedy }) => h("article", { class: "wrong" }, h("b", {}, what), h("p", {}, remedy)));
    return [quiet("The run is not healthy, so there is no advice on speed before this is mended:"), ...wrong];
  }
  const hardly = shares.some(({ bound }) => bound < HARDLY) ? " Where it is close to 1 ×, the other thread takes as long: this one alone gives hardly anything back." : "";
  return [...shares.map(card), quiet(`At best: if that took no time, and all else as long as now.${hardly}`)];
}

function card(share) {
  const rows = share.try ? [["Try", h("code", {}, share.try)], ["Because", share.source], ["Judged by", h("code", {}, share.judge)]] : [["Try", "nothing that this version knows"], ["Look closer", h("code", {}, "grpo profile")]];
  const percent = `${Math.round(100 * share.share)} %`;
  return h(
    "article", { class: "card" },
    h("h3", {}, share.what || colours.spanWords(share.span), h("span", { class: "unit" }, `thread ${share.thread}`)),
    bar(share),
    h("p", { class: "share" }, h("b", {}, percent), " of a step", h("span", { class: "bound" }, "at best ", h("b", {}, `${number(share.bound)} ×`), " as fast")),
    h("dl", { class: "rows" }, ...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
  );
}

/** The share as a bar, in the colour that the span has in the timeline. */
function bar({ share, span }) {
  const prefix = `share-${numBars++}`;
  const filled = s("rect", { class: "swatch", width: `${Math.min(100, 100 * share)}%`, height: 10, rx: 3 });
  filled.style.fill = colours.span(span, prefix);
  return s("svg", { class: "bar", width: "100%", height: 10, "aria-hidden": "true" }, hatching(prefix), s("rect", { class: "whole", width: "100%", height: 10, rx: 3 }), filled);
}

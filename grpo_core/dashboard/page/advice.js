// What grpo explain says of the run: what is wrong with it, or its largest shares and what to try.

import { isWait, spanWords } from "./colours.js";
import { h } from "./dom.js";
import { number } from "./format.js";

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
      const { complaints, shares, note } = await answer.json();
      const first = complaints.length ? h("p", {}, "Not healthy, so no advice on speed before this is mended:") : null;
      const wrong = complaints.map((complaint) => h("p", { class: "wrong" }, complaint));
      const last = shares.length ? h("p", { class: "quiet" }, "At best: if that took no time, and all else as long as now. Measure it with the phase.") : null;
      this.list.replaceChildren(...[note ? h("p", { class: "quiet" }, note) : null, first, ...wrong, ...shares.map(card), last].filter(Boolean));
    } catch {
      this.list.replaceChildren(h("p", { class: "quiet" }, "No answer: is grpo dashboard still running?"));
    }
    this.button.disabled = false;
  }
}

function card(share) {
  const what = share.what || `${share.thread}: ${spanWords(share.span)}`;
  return h(
    "article", { class: "card" },
    h("p", { class: "share" }, h("b", {}, `${Math.round(100 * share.share)} %`), ` of a step, ${isWait(share.span) ? "waiting" : spanWords(share.span)}`),
    h("p", {}, what), h("p", {}, "At best ", h("b", {}, `${number(share.bound)} ×`), " as fast."),
    share.try ? h("p", {}, "Try ", h("code", {}, share.try), h("span", { class: "quiet" }, ` (${share.source}). Judge it: ${share.judge}`)) : null,
  );
}

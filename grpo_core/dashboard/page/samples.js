// Samples of the newest step that was kept, with their rewards. Read when they are asked for.

import { h } from "./dom.js";
import { number } from "./format.js";

export class Samples {
  constructor(name) {
    this.name = name;
    this.list = h("div", { class: "samples", "aria-live": "polite" });
    this.button = h("button", { type: "button", class: "button", on: { click: () => this.load() } }, "Show samples");
    this.element = h("section", {}, h("h2", {}, "Samples"), h("p", { class: "quiet" }, "Answers of the newest step that was kept, with their rewards."), this.button, this.list);
  }

  async load() {
    this.button.disabled = true;
    this.list.replaceChildren(h("p", { class: "quiet" }, "Reading…"));
    try {
      const answer = await fetch(`/api/runs/${encodeURIComponent(this.name)}/samples`);
      const { groups, note, step } = await answer.json();
      this.list.replaceChildren(...[note ? h("p", { class: "quiet" }, note) : null, ...groups.map((group) => groupCard(group, step))].filter(Boolean));
      this.button.textContent = "Show the newest samples";
    } catch {
      this.list.replaceChildren(h("p", { class: "quiet" }, "No answer: is grpo dashboard still running?"));
    }
    this.button.disabled = false;
  }
}

function groupCard(group, step) {
  const rewards = group.siblings.map((sibling) => sibling.reward);
  const [worst, best] = [Math.min(...rewards), Math.max(...rewards)];
  const more = group.num_siblings > group.siblings.length ? ` of ${group.num_siblings}` : "";
  return h(
    "article", { class: "card" },
    h("h3", {}, `Step ${number(step)}, group ${group.id}`, h("span", { class: "unit" }, `${group.siblings.length}${more} siblings`)),
    h("details", {}, h("summary", {}, "Prompt"), h("pre", {}, group.siblings[0]?.turns[0]?.prompt ?? "")),
    h("ul", { class: "siblings" }, group.siblings.map((sibling) => siblingItem(sibling, worst, best))),
  );
}

function siblingItem(sibling, worst, best) {
  const place = best > worst ? (sibling.reward - worst) / (best - worst) : 0.5;
  const reward = h("meter", { min: 0, max: 1, value: place.toFixed(3), "aria-hidden": "true" });
  const turns = sibling.turns.map((turn) => h("pre", {}, turn.answer));
  const more = sibling.num_turns > sibling.turns.length ? h("p", { class: "quiet" }, `and ${sibling.num_turns - sibling.turns.length} more turns`) : null;
  const tokens = sibling.turns.reduce((sum, turn) => sum + turn.num_tokens, 0);
  const cut = sibling.turns.some((turn) => turn.finish === "length") ? ", cut at the limit" : "";
  return h("li", {}, h("p", { class: "reward" }, h("b", {}, number(sibling.reward)), reward, h("span", { class: "quiet" }, `${tokens} tokens${cut}`)), h("div", {}, ...turns, more));
}

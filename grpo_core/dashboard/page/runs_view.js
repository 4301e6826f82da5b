// All runs in a list; two of them can be laid over one another.

import { h, keyed, setText } from "./dom.js";
import { ago, duration, number } from "./format.js";
import { badge, setBadge } from "./status.js";

export const runLink = (name) => `#/run/${encodeURIComponent(name)}`;

export class RunsView {
  constructor() {
    this.chosen = new Set();
    this.body = h("tbody");
    this.compare = h("a", { class: "button", hidden: true }, "Compare");
    this.hint = h("p", { class: "quiet" });
    const heads = [["", ""], ["Run", ""], ["State", ""], ["Step", ""], ["Reward", "number"], ["Steps/hour", "number"], ["ETA", "number"], ["Last event", "number"]];
    this.table = h("table", { class: "runs", hidden: true }, h("thead", {}, h("tr", {}, heads.map(([text, kind]) => h("th", { scope: "col", class: kind || null }, text)))), this.body);
    this.empty = h("section", { class: "empty", hidden: true });
    this.element = h("div", {}, h("div", { class: "headline" }, h("h1", {}, "Runs"), this.compare), this.hint, this.table, this.empty);
  }

  update({ folder, runs }) {
    this.table.hidden = !runs.length;
    this.empty.hidden = Boolean(runs.length);
    if (!runs.length && !this.empty.firstChild) this.empty.append(...emptiness(folder));
    setText(this.hint, runs.length > 1 ? "Tick two runs to lay them over one another." : "");
    const rows = keyed(this.body, runs.map((run) => run.name), (name) => new RunRow(name, (isChosen) => this.choose(name, isChosen)));
    for (const run of runs) rows.get(run.name).update(run);
  }

  choose(name, isChosen) {
    if (isChosen) this.chosen.add(name);
    else this.chosen.delete(name);
    const names = [...this.chosen].slice(-2);
    this.compare.hidden = names.length !== 2;
    if (names.length === 2) this.compare.setAttribute("href", `#/compare/${names.map(encodeURIComponent).join("/")}`);
  }
}

function emptiness(folder) {
  return [
    h("h2", {}, "No run yet"),
    h("p", {}, "Start one, and it appears here with its first event:"),
    h("pre", {}, "grpo train --environment arithmetic --steps 60"),
    h("p", { class: "quiet" }, `This page reads ${folder}. Runs elsewhere: set GRPO_HOME to their folder and start grpo dashboard again.`),
  ];
}

class RunRow {
  constructor(name, onChoose) {
    const tick = h("input", { type: "checkbox", "aria-label": `compare ${name}`, on: { change: (event) => onChoose(event.target.checked) } });
    this.badge = badge();
    this.bar = h("progress", { max: 1, value: 0 });
    [this.step, this.reward, this.pace, this.eta, this.changed, this.what] = ["span", "span", "span", "span", "span", "span"].map((tag) => h(tag));
    const cell = (label, kind, ...content) => h("td", { "data-label": label, class: kind }, ...content);
    this.element = h(
      "tr", {}, cell("", "tick", tick),
      h("th", { scope: "row" }, h("a", { href: runLink(name) }, name), h("span", { class: "quiet block" }, this.what)),
      cell("State", "", this.badge), cell("Step", "steps", this.step, this.bar), cell("Reward", "number", this.reward),
      cell("Steps/hour", "number", this.pace), cell("ETA", "number", this.eta), cell("Last event", "number", this.changed),
    );
  }

  update(run) {
    setBadge(this.badge, run.status);
    setText(this.what, [run.model, run.environment].filter(Boolean).join(", "));
    setText(this.step, run.step === null ? "–" : `${number(run.step)}${run.num_steps ? ` of ${number(run.num_steps)}` : ""}`);
    this.bar.value = run.num_steps ? Math.min((run.step ?? 0) / run.num_steps, 1) : 0;
    setText(this.reward, number(run.reward));
    setText(this.pace, number(run.steps_per_hour));
    setText(this.eta, run.eta_s === null ? "–" : duration(run.eta_s));
    setText(this.changed, ago(run.changed_s));
  }
}

// Two runs over one another: each has a colour, the lines of one chart have different dashes.

import * as colours from "./colours.js";
import { h, keyed, setText } from "./dom.js";
import { duration, number } from "./format.js";
import { ChartSection } from "./run_view.js";
import { runLink } from "./runs_view.js";
import { badge, setBadge } from "./status.js";

export class CompareView {
  constructor(...names) {
    this.names = names;
    this.runs = new Map();
    this.note = h("p", { class: "empty", hidden: true });
    this.body = h("tbody");
    const heads = ["Run", "State", "Step", "Reward", "Steps/hour", "Seconds per step"];
    const table = h("table", { class: "runs" }, h("thead", {}, h("tr", {}, heads.map((text, place) => h("th", { scope: "col", class: place > 2 ? "number" : null }, text)))), this.body);
    this.sections = new Map(["Learning", "Speed", "Schedule", "Machine"].map((title) => [title, new ChartSection(title)]));
    this.element = h("div", {}, h("div", { class: "headline" }, h("h1", {}, "Two runs")), table, this.note, ...[...this.sections.values()].map((section) => section.element));
  }

  update(run) {
    this.runs.set(run.name, run);
    const present = this.names.filter((name) => this.runs.get(name)?.line);
    const rows = keyed(this.body, present, (name) => new CompareRow(name, this.names.indexOf(name)));
    for (const name of present) rows.get(name).update(this.runs.get(name));
    const missing = this.names.filter((name) => this.runs.get(name)?.line === null);
    this.note.hidden = !missing.length;
    setText(this.note, missing.length ? `There are no events of ${missing.join(" and ")}: removed, or another name.` : "");
    const charts = this.together(present);
    for (const [title, section] of this.sections) section.update(charts.filter((chart) => chart.section === title), this.runs.get(present[0])?.panels);
  }

  together(present) {
    const charts = new Map();
    for (const name of present) {
      for (const chart of this.runs.get(name).charts) {
        const whole = charts.get(chart.id) ?? charts.set(chart.id, { ...chart, lines: [] }).get(chart.id);
        chart.lines.forEach((line, member) => {
          const isKnown = line.limit && whole.lines.some((other) => other.limit && other.y.at(-1) === line.y.at(-1));
          if (isKnown) return;
          const label = chart.lines.length > 1 ? `${name}: ${line.label}` : name;
          whole.lines.push({ ...line, label, run: this.names.indexOf(name), member });
        });
      }
    }
    return [...charts.values()];
  }
}

class CompareRow {
  constructor(name, place) {
    const key = h("span", { class: "run-key" });
    key.style.background = colours.line(place);
    this.badge = badge();
    [this.step, this.reward, this.pace, this.seconds] = [0, 1, 2, 3].map(() => h("span"));
    const cell = (label, kind, content) => h("td", { "data-label": label, class: kind }, content);
    this.element = h("tr", {}, h("th", { scope: "row" }, key, h("a", { href: runLink(name) }, name)), cell("State", "", this.badge), cell("Step", "", this.step), cell("Reward", "number", this.reward), cell("Steps/hour", "number", this.pace), cell("Seconds per step", "number", this.seconds));
  }

  update({ line }) {
    setBadge(this.badge, line.status);
    setText(this.step, `${number(line.step)}${line.num_steps ? ` of ${number(line.num_steps)}` : ""}`);
    setText(this.reward, number(line.reward));
    setText(this.pace, number(line.steps_per_hour));
    setText(this.seconds, line.steps_per_hour ? duration(3600 / line.steps_per_hour) : "–");
  }
}

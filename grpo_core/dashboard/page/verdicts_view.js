// The stored verdicts: each gate with its newest result, its threshold and its history.

import { h, keyed, s, setText } from "./dom.js";
import { number } from "./format.js";
import { linear } from "./scale.js";

const [WIDTH, HEIGHT] = [220, 46];
const SYMBOLS = { pass: "✓", fail: "✕", inconclusive: "?" };

export class VerdictsView {
  constructor() {
    this.body = h("tbody");
    const heads = ["Gate", "Verdict", "Measured", "Threshold", "History", "Stored"];
    this.table = h("table", { class: "runs verdicts", hidden: true }, h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)))), this.body);
    this.empty = h("section", { class: "empty", hidden: true });
    this.note = h("p", { class: "quiet" });
    this.element = h("div", {}, h("div", { class: "headline" }, h("h1", {}, "Verdicts")), this.note, this.table, this.empty);
  }

  update({ folder, gates, num_unreadable: numUnreadable }) {
    this.table.hidden = !gates.length;
    this.empty.hidden = Boolean(gates.length);
    setText(this.note, numUnreadable ? `${numUnreadable} files of ${folder} say nothing: damaged, or of another program.` : "");
    if (!gates.length && !this.empty.firstChild) {
      this.empty.append(
        h("h2", {}, "No stored verdicts yet"), h("p", {}, "Run the phases, and store what they find under a name:"),
        h("pre", {}, "grpo bench --phase 2,3 -- --grpo-save before"), h("p", { class: "quiet" }, `They are kept in ${folder}.`),
      );
    }
    const byKey = new Map(gates.map((gate) => [`${gate.test} ${gate.metric} ${gate.system}`, gate]));
    const rows = keyed(this.body, [...byKey.keys()], (key) => new GateRow(byKey.get(key)));
    for (const [key, row] of rows) row.update(byKey.get(key));
  }
}

class GateRow {
  constructor(gate) {
    this.badge = h("span", { class: "badge" });
    [this.measured, this.interval, this.threshold, this.history, this.stored, this.day] = [0, 1, 2, 3, 4, 5].map(() => h("span", { class: "block" }));
    for (const small of [this.interval, this.day]) small.classList.add("quiet", "together");
    const cell = (label, ...content) => h("td", { "data-label": label }, ...content);
    this.element = h("tr", {}, h("th", { scope: "row" }, gate.metric, h("span", { class: "quiet block" }, [gate.test.split("/").at(-1), gate.system].filter(Boolean).join(" · "))), cell("Verdict", this.badge), cell("Measured", h("div", {}, this.measured, this.interval)), cell("Threshold", this.threshold), cell("History", this.history), cell("Stored", this.stored, this.day));
  }

  update({ results }) {
    const newest = results.at(-1);
    this.badge.dataset.status = newest.verdict;
    this.badge.title = newest.reason;
    setText(this.badge, `${SYMBOLS[newest.verdict] ?? "–"} ${newest.verdict}`);
    setText(this.measured, `${number(newest.measured)} ${newest.unit}`.trim());
    setText(this.interval, newest.low === null ? "" : `${number(newest.low)} to ${number(newest.high)}`);
    setText(this.threshold, newest.threshold);
    setText(this.stored, newest.name);
    setText(this.day, newest.created_at.slice(0, 10));
    const key = JSON.stringify(results);
    if (key !== this.shown) this.history.replaceChildren(history(results.slice(-40)));
    this.shown = key;
  }
}

/** Measured values in the order in which they were stored, against the threshold. A cross failed, a ring is undecided. */
function history(results) {
  const known = results.filter((result) => result.measured !== null);
  const values = known.flatMap((result) => [result.measured, result.bound_low, result.bound_high]).filter((value) => value !== null);
  const said = known.map((result) => `${result.name}: ${number(result.measured)}, ${result.verdict}`).join("; ");
  const svg = s("svg", { class: "history", width: WIDTH, height: HEIGHT, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": said });
  if (!known.length) return svg;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = linear(0, Math.max(known.length - 1, 1), 10, WIDTH - 10);
  const y = low === high ? () => HEIGHT / 2 : linear(low, high, HEIGHT - 8, 8);
  for (const bound of [known.at(-1).bound_low, known.at(-1).bound_high]) {
    if (bound !== null) svg.append(s("line", { class: "bound", x1: 2, x2: WIDTH - 2, y1: y(bound), y2: y(bound) }));
  }
  svg.append(s("polyline", { class: "trend", points: known.map((result, index) => `${x(index)},${y(result.measured)}`).join(" ") }));
  known.forEach((result, index) => svg.append(point(x(index), y(result.measured), result)));
  return svg;
}

function point(x, y, result) {
  const title = s("title", {}, `${result.name}, ${result.created_at.slice(0, 10)} ${result.commit}: ${number(result.measured)}, ${result.verdict}. ${result.device}`);
  if (result.verdict === "fail") return s("path", { class: "point fail", d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8` }, title);
  return s("circle", { class: `point ${result.verdict === "pass" ? "pass" : "undecided"}`, cx: x, cy: y, r: 3.4 }, title);
}

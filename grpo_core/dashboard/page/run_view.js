// One run: where it stands, what it learns, where its time goes, what the machine does, what it writes.

import { AccountChart } from "./account_chart.js";
import { Explanation } from "./advice.js";
import * as colours from "./colours.js";
import { h, keyed, setText } from "./dom.js";
import { ago, duration, moment, number } from "./format.js";
import { LineChart } from "./line_chart.js";
import { Samples } from "./samples.js";
import { badge, setBadge } from "./status.js";
import { Timeline } from "./timeline.js";

export class RunView {
  constructor(name) {
    this.badge = badge();
    this.about = h("p", { class: "quiet" }, "Reading its events…");
    this.tiles = h("dl", { class: "tiles" });
    this.timeline = new Timeline();
    this.accounts = h("div", { class: "stack" });
    this.time = h("section", { hidden: true }, h("h2", {}, "Where the time goes"), this.timeline.element, this.accounts, new Explanation(name).element);
    this.sections = new Map(["Learning", "Speed", "Schedule", "Machine"].map((title) => [title, new ChartSection(title)]));
    this.samples = new Samples(name);
    this.waiting = h("p", { class: "empty", hidden: true }, "The run has begun. Its charts appear with the first step.");
    const [learning, ...rest] = [...this.sections.values()].map((section) => section.element);
    this.body = h("div", {}, this.tiles, this.waiting, learning, this.time, ...rest, this.samples.element);
    this.gone = h("section", { class: "empty", hidden: true }, h("h2", {}, "No such run"), h("p", {}, `There are no events of ${name}: it was removed, or it has another name. `, h("a", { href: "#/" }, "All runs")));
    this.element = h("div", {}, h("div", { class: "headline" }, h("h1", {}, name), this.badge), this.about, this.body, this.gone);
  }

  update(run) {
    const { line } = run;
    this.gone.hidden = line !== null;
    this.body.hidden = line === null;
    this.badge.hidden = line === null;
    if (line === null) return setText(this.about, "");
    setBadge(this.badge, line.status);
    setText(this.about, about(run));
    this.updateTiles(run);
    this.waiting.hidden = run.charts.some((chart) => chart.axis === "step");
    this.time.hidden = !run.accounts.length && !run.timeline.lanes.length;
    this.timeline.element.hidden = !run.timeline.lanes.length;
    this.timeline.update(run.timeline);
    const accounts = new Map(run.accounts.map((account) => [account.thread, account]));
    for (const [thread, chart] of keyed(this.accounts, [...accounts.keys()], (thread) => new AccountChart(accounts.get(thread)))) {
      chart.update(accounts.get(thread));
    }
    for (const [title, section] of this.sections) section.update(run.charts.filter((chart) => chart.section === title), run.panels);
  }

  updateTiles(run) {
    const { line } = run;
    const trainer = run.accounts.find((account) => account.thread.endsWith("train"));
    const waits = trainer ? trainer.layers.filter((layer) => colours.isWait(layer.name)).reduce((sum, layer) => sum + layer.total_s, 0) : null;
    const throughput = run.charts.find((chart) => chart.id === "throughput")?.lines[0].y.at(-1);
    const tiles = [
      ["Step", line.step === null ? "–" : number(line.step), line.num_steps ? `of ${number(line.num_steps)}` : ""],
      ["Reward", number(line.reward), "of the last step"],
      ["Steps per hour", number(line.steps_per_hour), "of the last 20 steps"],
      line.status === "running" ? ["Time left", duration(line.eta_s), "at this pace"] : ["Took", line.started_s && line.changed_s ? duration(line.changed_s - line.started_s) : "–", "since its last start"],
      ["Sampled", number(throughput), "tokens/s in a rollout"],
      ["Trainer waits", waits === null ? "–" : `${Math.round((100 * waits) / (trainer.wall_s || 1))} %`, "of its time"],
    ];
    if (run.num_failed_attempts) tiles.push(["Failed attempts", number(run.num_failed_attempts), "at an episode"]);
    const shown = keyed(this.tiles, tiles.map(([name]) => name), (name) => new Tile(name));
    for (const [name, value, more] of tiles) shown.get(name).update(value, more);
  }
}

function about({ line, device, is_host: isHost, num_events: numEvents }) {
  const what = [line.model, line.environment].filter(Boolean).join(", ");
  const where = device ? `on ${device}${isHost ? " (no GPU)" : ""}` : "";
  const since = line.started_s === null ? "" : `began ${moment(line.started_s)}`;
  return [what, where, since, `last event ${ago(line.changed_s)}`, `${number(numEvents)} events`].filter(Boolean).join(" · ");
}

class Tile {
  constructor(name) {
    [this.value, this.more] = [h("b"), h("span", { class: "quiet" })];
    this.element = h("div", {}, h("dt", {}, name), h("dd", {}, this.value, this.more));
  }

  update(value, more) {
    setText(this.value, value);
    setText(this.more, more);
  }
}

/** Charts under a title; hidden while there are none. */
export class ChartSection {
  constructor(title) {
    this.grid = h("div", { class: "grid" });
    this.element = h("section", { hidden: true }, h("h2", {}, title), this.grid);
  }

  update(charts, panels) {
    this.element.hidden = !charts.length;
    const byId = new Map(charts.map((chart) => [chart.id, chart]));
    for (const [id, chart] of keyed(this.grid, [...byId.keys()], (id) => new LineChart(byId.get(id), panels))) {
      chart.update(byId.get(id));
    }
  }
}

// Lines over steps or over time, with bands where a point stands for several events.

import * as colours from "./colours.js";
import { h, keyed, s, setText } from "./dom.js";
import { duration, number } from "./format.js";
import { CursorCard, frame } from "./plot.js";

const DASHES = ["", "6 4", "2 3", "9 3 2 3"];
const MAX_DOTS = 30;
const MIN_SMOOTHED = 60;

export class LineChart extends CursorCard {
  constructor(chart, panels) {
    const tag = chart.panel ? { text: `panel ${chart.panel}`, title: `${panels[chart.panel].title}: ${panels[chart.panel].shows}` } : null;
    super({ title: chart.title, unit: chart.unit, tag, note: chart.note }, chart.axis);
    this.update(chart);
  }

  /** `chart.lines` may come from several runs: `run` is their place, `name` what the legend says. */
  update(chart) {
    this.chart = chart;
    this.places = chart.lines.reduce((longest, line) => (line.x.length > longest.length ? line.x : longest), []);
    this.draw();
  }

  style(line, place) {
    if (line.limit) return { stroke: "var(--quiet)", dash: "4 4", thin: true };
    if (line.run === undefined) return { stroke: colours.line(place), dash: "" };
    return { stroke: colours.line(line.run), dash: DASHES[line.member % DASHES.length] };
  }

  draw() {
    if (!this.width) return;
    const { lines, unit, axis, zero, title } = this.chart;
    const xs = lines.flatMap((line) => line.x).filter((x) => x !== null);
    let [x0, x1] = [Math.min(...xs), Math.max(...xs)];
    if (x0 === x1) [x0, x1] = axis === "time" ? [x0, x0 + 1] : [x0 - 1, x0 + 1];
    const values = lines.flatMap((line) => (line.run === undefined ? [...line.y, ...(line.low ?? []), ...(line.high ?? [])] : line.y));
    const label = `${title}, ${unit}: ${lines.map((line) => `${line.label} ${number(lastOf(line))}`).join(", ")}`;
    this.frame = frame({ width: this.width, axis, x0, x1, values, zero, unit, label });
    const { svg, top, left, right, bottom } = this.frame;
    const id = `clip-${this.chart.id}`;
    const drawing = s("g", { "clip-path": `url(#${id})` });
    svg.prepend(s("defs", {}, s("clipPath", { id }, s("rect", { x: left - 4, y: top - 4, width: right - left + 8, height: bottom - top + 8 }))));
    lines.forEach((line, place) => this.drawLine(drawing, line, this.style(line, place)));
    this.mark = s("g", { class: "mark" });
    svg.append(drawing, this.mark);
    this.show(svg);
    this.cursorMoved();
  }

  drawLine(drawing, line, { stroke, dash, thin }) {
    const { x, y } = this.frame;
    const points = line.x.map((value, index) => [x(value), line.y[index] === null ? null : y(line.y[index])]);
    if (line.low && line.run === undefined) { // bands of two runs would hide each other
      const band = s("path", { class: "band", d: bandPath(line, x, y) });
      band.style.fill = stroke;
      drawing.append(band);
    }
    const isNoisy = ["Learning", "Speed"].includes(this.chart.section) && points.length >= MIN_SMOOTHED;
    const style = thin ? "line thin" : isNoisy ? "line raw" : "line";
    const path = s("path", { class: style, d: linePath(points), "stroke-dasharray": dash || null });
    path.style.stroke = stroke;
    drawing.append(path);
    if (isNoisy) {
      const trend = s("path", { class: "line", d: linePath(smoothed(points)), "stroke-dasharray": dash || null });
      trend.style.stroke = stroke;
      drawing.append(trend);
    }
    const alone = points.length <= MAX_DOTS && !thin ? points : points.filter((_, index) => isAlone(points, index) && !thin);
    for (const [px, py] of alone) {
      if (py === null) continue;
      const dot = s("circle", { cx: px.toFixed(1), cy: py.toFixed(1), r: points.length > 16 ? 1.8 : 2.6 });
      dot.style.fill = stroke;
      drawing.append(dot);
    }
  }

  cursorMoved() {
    if (!this.mark) return;
    const { x, y, top, bottom } = this.frame;
    const at = this.at();
    this.mark.replaceChildren();
    if (at !== null) {
      const place = x(this.places[at]);
      this.mark.append(s("line", { class: "cursor", x1: place, x2: place, y1: top, y2: bottom }));
    }
    const { lines } = this.chart;
    const entries = keyed(this.legend, lines.map((line, place) => `${place} ${line.label}`), () => new LegendEntry());
    lines.forEach((line, place) => {
      const index = at === null ? line.y.length - 1 : this.at(line.x);
      const value = at === null ? lastOf(line) : line.y[index];
      entries.get(`${place} ${line.label}`).update(line.label, number(value), this.style(line, place));
      if (at !== null && value !== null && !line.limit) {
        const dot = s("circle", { cx: x(line.x[index]), cy: y(value), r: 3.5 });
        dot.style.fill = this.style(line, place).stroke;
        this.mark.append(dot);
      }
    });
    const where = at === null ? "" : this.axis === "time" ? `at ${duration(this.places[at])}` : `at ${this.axis} ${number(this.places[at])}`;
    this.where ??= this.legend.parentElement.querySelector("h3").appendChild(h("span", { class: "where" }));
    setText(this.where, where);
  }
}

class LegendEntry {
  constructor() {
    this.stroke = s("line", { x1: 0, x2: 18, y1: 6, y2: 6 });
    this.label = h("span", { class: "label" });
    this.value = h("b");
    this.element = h("li", {}, s("svg", { class: "key", width: 18, height: 12, "aria-hidden": "true" }, this.stroke), this.label, this.value);
  }

  update(label, value, { stroke, dash, thin }) {
    this.stroke.style.stroke = stroke;
    this.stroke.setAttribute("stroke-width", thin ? 1.2 : 2.2);
    this.stroke.setAttribute("stroke-dasharray", dash);
    setText(this.label, label);
    setText(this.value, value);
  }
}

function lastOf(line) {
  return line.y.findLast((value) => value !== null) ?? null;
}

function isAlone(points, index) {
  return points[index][1] !== null && (points[index - 1]?.[1] ?? null) === null && (points[index + 1]?.[1] ?? null) === null;
}

function linePath(points) {
  let path = "";
  let isDown = false;
  for (const [x, y] of points) {
    if (y !== null) path += `${isDown ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    isDown = y !== null;
  }
  return path;
}

/** The mean of each point and its neighbours: a tenth of all. */
function smoothed(points) {
  const reach = Math.round(points.length / 20);
  return points.map(([x], place) => {
    const near = points.slice(Math.max(place - reach, 0), place + reach + 1).map(([, y]) => y).filter((y) => y !== null);
    return [x, near.length ? near.reduce((sum, y) => sum + y, 0) / near.length : null];
  });
}

function bandPath(line, x, y) {
  const known = line.x.map((value, index) => [value, line.low[index], line.high[index]]).filter(([, low, high]) => low !== null && high !== null);
  if (!known.length) return "";
  const upper = known.map(([value, , high]) => `${x(value).toFixed(1)} ${y(high).toFixed(1)}`);
  const lower = known.map(([value, low]) => `${x(value).toFixed(1)} ${y(low).toFixed(1)}`).reverse();
  return `M${[...upper, ...lower].join("L")}Z`;
}

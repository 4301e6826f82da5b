// The way from the address to a view, and the stream that keeps it up to date.

import { CompareView } from "./compare_view.js";
import { setText } from "./dom.js";
import { RunView } from "./run_view.js";
import { RunsView } from "./runs_view.js";
import { VerdictsView } from "./verdicts_view.js";

const main = document.getElementById("main");
const live = document.getElementById("live");
let stream = null;
let view = null;

const encode = encodeURIComponent;

/** `#/`, `#/run/NAME`, `#/compare/A/B`, `#/verdicts`. */
function viewOf(address) {
  const [page, ...names] = address.replace(/^#\/?/, "").split("/").map(decoded);
  if (page === "run" && names[0]) return { page: "runs", query: `run=${encode(names[0])}`, view: new RunView(names[0]), title: names[0] };
  if (page === "compare" && names[1]) {
    const query = names.slice(0, 2).map((name) => `run=${encode(name)}`).join("&");
    return { page: "runs", query, view: new CompareView(names[0], names[1]), title: `${names[0]} and ${names[1]}` };
  }
  if (page === "verdicts") return { page: "verdicts", query: "view=verdicts", view: new VerdictsView(), title: "Verdicts" };
  return { page: "runs", query: "view=runs", view: new RunsView(), title: "Runs" };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function go() {
  if (location.hash === "#main") return main.focus();
  view = viewOf(location.hash);
  document.title = `${view.title}, grpo`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === view.page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren(view.view.element);
  scrollTo(0, 0);
  listen();
}

function listen() {
  stream?.close();
  stream = null;
  if (document.hidden) return say("paused", "paused while nobody looks");
  const shown = view;
  stream = new EventSource(`/api/stream?${shown.query}`);
  stream.addEventListener("open", () => say("on", "live"));
  stream.addEventListener("error", () => say("off", "no answer: is grpo dashboard still running?"));
  stream.addEventListener("message", (event) => {
    say("on", "live");
    const { view: name, content } = JSON.parse(event.data);
    shown.view.update(content, name);
  });
}

function say(state, words) {
  live.dataset.state = state;
  setText(live, words);
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", go);
document.addEventListener("visibilitychange", listen);
go();

// One colour per line of a chart, and one per span of a thread: a span has the same colour wherever it is shown.

/** Colours of lines, by place. page.css has their values for light and dark. */
export const line = (place) => `var(--line-${(place % 6) + 1})`;

const GROUPS = { sample: 1, load: 5, swap: 5, store: 5, train: 2, publish: 3, checkpoint: 4, telemetry: 6, start: 6 };
const SHADES = [100, 76, 58, 44, 32, 22];
const SHADE_OF = {
  "sample.decode": 0, "sample.scoring": 1, "sample.prefill": 2, "sample.prompt": 3, "sample.draw": 4,
  "sample.environment": 5, "sample.reward": 5, "train.backward": 0, "train.forward": 1, "train.packing": 2,
  "train.optimizer": 3, "train.sums": 4, "train.scoring": 5, "train.gradient_sum": 5,
  swap: 1, store: 2, telemetry: 2,
};

export const isWait = (name) => name.startsWith("wait");

/** The fill of a span. Waits are hatched, so that they are seen without their colour, too; `prefix` is that of the
    picture's own patterns. */
export function span(name, prefix) {
  if (isWait(name)) return `url(#${prefix}-wait)`;
  if (name === "other") return "var(--other)";
  const base = GROUPS[name.split(".")[0]] ?? 6;
  return `color-mix(in oklab, var(--line-${base}) ${SHADES[SHADE_OF[name] ?? 0]}%, var(--card))`;
}

const WORDS = {
  "wait.batch": "wait for a batch", "wait.room": "wait for room in the buffer", "wait.engine": "wait for the engine",
  "wait.answers": "wait for answers", "wait.workers": "wait for workers", "wait.environment": "wait for environments",
  "wait.processes": "wait for other processes", "wait.end": "wait for the end", other: "no span names it",
};

/** A span's name in words. */
export function spanWords(name) {
  return WORDS[name] ?? name.replace(/^(sample|train)\./, "$1: ").replaceAll("_", " ");
}

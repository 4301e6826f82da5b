// From values to pixels, and where the ticks of an axis are.

/** About `count` round numbers between `low` and `high`. */
export function ticks(low, high, count) {
  const raw = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw * 0.999);
  return evenly(low, high, step);
}

/** As `ticks`, for whole numbers. */
export function wholeTicks(low, high, count) {
  const found = ticks(low, high, count);
  return found.step >= 1 ? found : evenly(low, high, 1);
}

const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** As `ticks`, for seconds. */
export function timeTicks(low, high, count) {
  const raw = (high - low) / Math.max(count, 1);
  if (raw < 1) return ticks(low, high, count);
  const step = TIME_STEPS.find((candidate) => candidate >= raw) ?? Math.ceil(raw / 86400) * 86400;
  return evenly(low, high, step);
}

function evenly(low, high, step) {
  const values = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) values.push(index * step);
  return { values, step };
}

export function linear(low, high, from, to) {
  const ratio = (to - from) / (high - low || 1);
  return (value) => from + (value - low) * ratio;
}

/** The range that a vertical axis shows. A few huge values, such as a first step that compiles, do not flatten the rest
    where 0 is in sight: they are cut, and `cut` is the largest of them. */
export function valueRange(values, zero) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (!known.length) return { low: 0, high: 1, cut: null };
  let [low, high, cut] = [known[0], known[known.length - 1], null];
  if (zero) {
    low = Math.min(low, 0);
    const above = known.filter((value) => value > 0);
    const usual = above[Math.floor(0.96 * (above.length - 1))];
    if (above.length >= 24 && high > 2.5 * usual) [cut, high] = [high, 1.25 * usual];
  }
  if (low === high) {
    const room = Math.abs(low) * 0.1 || 1;
    return { low: zero ? Math.min(low, 0) : low - room, high: high + room, cut };
  }
  const room = (high - low) * 0.06;
  return { low: zero && low === 0 ? 0 : low - room, high: cut === null ? high + room : high, cut };
}

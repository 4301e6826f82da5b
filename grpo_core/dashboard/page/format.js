// Numbers, durations and moments as people read them.

/** A number in a few characters: 0.0123, 4.57, 1,234, 12.3 M. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${trimmed(value / 1e9, 2)} G`;
  if (size >= 1e6) return `${trimmed(value / 1e6, 2)} M`;
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  if (size >= 100) return trimmed(value, 1);
  if (size >= 1) return trimmed(value, 2);
  if (size === 0) return "0";
  return size < 1e-4 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

function trimmed(value, digits) {
  return String(Number(value.toFixed(digits)));
}

/** Labels of an axis whose ticks are `step` apart. */
export function tickLabel(value, step) {
  const size = Math.max(Math.abs(value), step);
  if (size >= 1e6) return `${trimmed(value / 1e6, 2)}M`;
  if (size >= 1e4) return `${trimmed(value / 1e3, 1)}k`;
  if (value !== 0 && step < 1e-4) return value.toExponential(0);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return value.toFixed(Math.min(digits, 6));
}

/** Seconds as 320 ms, 4.2 s, 3 min 05 s, 2 h 10 min, 3 d 4 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.0995) return `${trimmed(seconds * 1000, seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 9.995) return `${trimmed(seconds, 2)} s`;
  if (seconds < 99.5) return `${trimmed(seconds, 0)} s`;
  const whole = Math.round(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  const two = (count) => String(count).padStart(2, "0");
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${two(minutes)} min`;
  return `${minutes} min ${two(whole % 60)} s`;
}

/** How long ago `moment` was (seconds since 1970). */
export function ago(moment) {
  if (moment === null) return "–";
  const seconds = Date.now() / 1000 - moment;
  return seconds < 5 ? "now" : `${duration(seconds >= 60 ? Math.round(seconds / 60) * 60 : Math.round(seconds)).replace(" 00 s", "").replace(" 00 min", "")} ago`;
}

export function moment(seconds) {
  return new Date(seconds * 1000).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });
}

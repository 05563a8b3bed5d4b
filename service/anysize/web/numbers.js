// Numbers as people read them.

/** "113.3 M", "1.54 B". */
export function millions(count) {
  if (count >= 1e9) return `${(count / 1e9).toFixed(2)} B`;
  if (count >= 1e6) return `${(count / 1e6).toFixed(1)} M`;
  return `${(count / 1e3).toFixed(1)} k`;
}

/** "453 MB", "1.2 GB". */
export function bytes(count) {
  if (count >= 1e9) return `${(count / 1e9).toFixed(2)} GB`;
  if (count >= 1e6) return `${(count / 1e6).toFixed(0)} MB`;
  return `${(count / 1e3).toFixed(0)} kB`;
}

/** "69.6 %". */
export function percent(share) {
  return `${(100 * share).toFixed(share === 1 ? 0 : 1)}\u00a0%`;
}

/** "0.84 ms", "24.8 ms", "310 ms", "1.2 s". */
export function milliseconds(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms.toFixed(ms < 1 ? 2 : ms < 100 ? 1 : 0)} ms`;
}

/** Three figures, or whole numbers from 100 on. */
export function figures(value) {
  if (value === 0) return "0";
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** "1 token", "3 tokens". */
export function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

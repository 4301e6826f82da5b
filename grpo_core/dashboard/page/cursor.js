// The place that the pointer or the keyboard points at, shared by all charts with the same horizontal axis.

const listeners = new Set();
let current = { axis: null, x: null };

export function pointAt(axis, x) {
  current = { axis, x };
  for (const listener of listeners) listener();
}

export function cursorOf(axis) {
  return current.axis === axis ? current.x : null;
}

/** Calls `listener` when the cursor moves, as long as `element` is in the page. */
export function followCursor(element, listener) {
  const follow = () => {
    if (element.isConnected) listener();
    else listeners.delete(follow);
  };
  listeners.add(follow);
}

// Pointers over the image: one finger or button uses the tool or moves the page, two fingers zoom and move it.

/** @typedef {import("./viewer.js").Viewer} Viewer */

/**
 * What a pointer uses while something is corrected.
 * @typedef {object} Tool
 * @property {(event: PointerEvent) => void} start
 * @property {(event: PointerEvent) => void} move
 * @property {(event: PointerEvent) => void} end
 * @property {() => void} cancel a second finger came: it was no stroke
 * @property {(event: PointerEvent) => void} hover
 * @property {() => void} leave
 */

/** @typedef {{x: number, y: number}} Point */

/**
 * @param {Viewer} viewer
 * @param {AbortSignal} signal
 */
export function listen(viewer, signal) {
  const target = viewer.element;
  /** @type {Map<number, Point>} */
  const fingers = new Map();
  /** What the pointers do: nothing more until all have left after "rest". @type {"" | "tool" | "move" | "rest"} */
  let doing = "";

  target.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = target.getBoundingClientRect();
    const fine = event.ctrlKey ? 0.01 : 0.0015; // a touchpad's pinch comes as a wheel with Ctrl
    viewer.zoom(Math.exp(-event.deltaY * fine * (event.deltaMode ? 16 : 1)), event.clientX - box.left, event.clientY - box.top);
  }, { signal, passive: false });

  target.addEventListener("pointerdown", (event) => {
    if (event.button === 2) return; // the browser's own menu
    target.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (fingers.size > 1) {
      if (doing === "tool") viewer.tool?.cancel();
      doing = "move";
    } else if (viewer.tool && event.button === 0) {
      doing = "tool";
      event.preventDefault();
      target.focus({ preventScroll: true });
      viewer.tool.start(event);
    } else {
      doing = "move";
    }
    target.classList.toggle("panning", doing === "move");
  }, { signal });

  target.addEventListener("pointermove", (event) => {
    const before = middleOf(fingers);
    if (!fingers.has(event.pointerId)) {
      viewer.tool?.hover(event);
      return;
    }
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (doing === "tool") viewer.tool?.move(event);
    if (doing !== "move") return;
    const now = middleOf(fingers);
    const box = target.getBoundingClientRect();
    if (before.apart) viewer.zoom(now.apart / before.apart, before.x - box.left, before.y - box.top);
    viewer.pan(before.x - now.x, before.y - now.y);
  }, { signal });

  for (const name of /** @type {("pointerup" | "pointercancel")[]} */ (["pointerup", "pointercancel"])) {
    target.addEventListener(name, (event) => {
      if (!fingers.delete(event.pointerId)) return;
      if (doing === "tool") {
        if (name === "pointerup") viewer.tool?.end(event);
        else viewer.tool?.cancel();
      }
      doing = !fingers.size ? "" : viewer.tool ? "rest" : "move"; // a finger that stays must not paint
      target.classList.toggle("panning", doing === "move");
    }, { signal });
  }
  target.addEventListener("pointerleave", () => viewer.tool?.leave(), { signal });
}

/**
 * The point between two fingers, and how far they are apart; of one finger, itself and 0.
 * @param {Map<number, Point>} fingers
 */
function middleOf(fingers) {
  const [a, b = a] = fingers.values();
  if (!a) return { x: 0, y: 0, apart: 0 };
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) };
}

// Draws the plane and what is under the pointer, and listens.
import { $, make, payload } from "./page.js";
import { names, regionAt, regions, sites } from "./slice_data.js";
import { chosen, drag, drawBase, drawOverlay, legendParts, placeOf, step, whole, zoom } from "./slice_map.js";
import { drawPanel } from "./slice_panel.js";

let waiting = false;
function later() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    if (chosen.mode === "distance" && chosen.pinned < 0) drawBase();
    else drawOverlay();
    drawPanel();
  });
}

function ask(a, b) {
  const region = regionAt(a, b);
  if (region < 0) return;
  Object.assign(chosen, { a, b, region });
  later();
}

function pin(region) {
  chosen.pinned = region;
  $("unpin").disabled = region < 0;
  if (chosen.mode === "distance") drawBase();
  later();
}

const MODES = [
  ["class", names.length > 1 ? "largest output" : "none"],
  ...sites.map((site, n) => [String(n), site.name, site.rows === null]),
  ["distance", "choices that differ", sites.every((site) => site.rows === null)],
];

function drawModes() {
  $("modes").replaceChildren(
    ...MODES.map(([mode, label, absent]) =>
      make(
        "button",
        {
          type: "button",
          "aria-pressed": String(chosen.mode === mode),
          disabled: absent ? "" : null,
          onclick: () => {
            chosen.mode = mode;
            drawModes();
            drawBase();
          },
        },
        label,
      ),
    ),
  );
  $("legend").replaceChildren(
    ...legendParts().map(([color, name]) => {
      const dot = make("span", { class: "dot" });
      dot.style.background = color;
      return make("span", {}, dot, name);
    }),
  );
}

const overlay = $("overlay");
let held = null;
overlay.addEventListener("pointerdown", (event) => {
  held = { x: event.clientX, y: event.clientY, moved: false };
  overlay.setPointerCapture?.(event.pointerId);
});
overlay.addEventListener("pointermove", (event) => {
  if (held !== null && (held.moved || Math.hypot(event.clientX - held.x, event.clientY - held.y) > 4)) {
    drag(event.clientX - held.x, event.clientY - held.y);
    held = { x: event.clientX, y: event.clientY, moved: true };
    return;
  }
  ask(...placeOf(event));
});
overlay.addEventListener("pointerup", (event) => {
  if (held !== null && !held.moved) {
    ask(...placeOf(event));
    pin(chosen.region === chosen.pinned ? -1 : chosen.region);
  }
  held = null;
});
overlay.addEventListener("pointercancel", () => {
  held = null;
});
overlay.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...placeOf(event));
  },
  { passive: false },
);
const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
overlay.addEventListener("keydown", (event) => {
  const arrow = ARROWS[event.key];
  const size = step() * (event.shiftKey ? 10 : 1);
  if (arrow) ask(chosen.a + size * arrow[0], chosen.b + size * arrow[1]);
  else if (event.key === "Enter") pin(chosen.region === chosen.pinned ? -1 : chosen.region);
  else if (event.key === "+") zoom(1.5);
  else if (event.key === "-") zoom(1 / 1.5);
  else return;
  event.preventDefault();
});
$("outputs").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row === null) return;
  const output = Number(row.dataset.output);
  chosen.output = chosen.output === output ? null : output;
  drawPanel();
});
$("reset").addEventListener("click", whole);
$("unpin").addEventListener("click", () => pin(-1));
window.addEventListener("resize", drawBase);

const choices = sites.reduce((sum, site) => sum + site.entries, 0);
$("lead").replaceChildren(
  make("b", {}, `${regions.length.toLocaleString("en")} regions`),
  ", in each of which the network is one affine map of its input. ",
  `It makes ${choices.toLocaleString("en")} choices; a region is where all of them stay.`,
);
$("foot").textContent = payload.network;
drawModes();
drawBase();
drawPanel();
document.documentElement.dataset.ready = "true";

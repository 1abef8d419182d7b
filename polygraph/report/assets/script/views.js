// Which grid is shown, and what is said of it above.
import { whole } from "./format.js";
import { $, make, payload, state, view } from "./page.js";

const AXES = [
  ["data", "data", (v) => v.data],
  ["split", "split", (v) => v.split],
  ["latent", "latent numbers", (v) => v.latent],
  ["recipe_hash", "recipe", (v) => v.recipe_hash],
];

function choose(axis, value) {
  const now = view();
  const wanted = Object.fromEntries(AXES.map(([key, , get]) => [key, get(now)]));
  wanted[axis] = value;
  let best = -1,
    most = -1;
  payload.views.forEach((candidate, index) => {
    if (AXES.find(([key]) => key === axis)[2](candidate) !== value) return;
    const fit = AXES.filter(([key, , get]) => get(candidate) === wanted[key]).length;
    if (fit > most) [best, most] = [index, fit];
  });
  if (best < 0 || best === state.view) return;
  const sameStage = payload.views[best].stage === now.stage;
  state.view = best;
  state.shown = null;
  if (!sameStage) [state.sample, state.camera] = [0, null];
  document.dispatchEvent(new Event("viewchange"));
}

export function drawViews() {
  const bar = $("views");
  bar.replaceChildren();
  let alternatives = false;
  for (const [key, label, get] of AXES) {
    const values = [...new Set(payload.views.map(get))];
    if (key === "recipe_hash" && values.length < 2) continue;
    alternatives ||= values.length > 1;
    const segments = make("div", { class: "segments", role: "group", "aria-label": label });
    for (const value of values) {
      const text = key === "recipe_hash" ? (value === null ? "none" : value.slice(0, 8)) : String(value);
      segments.append(
        make(
          "button",
          { type: "button", "aria-pressed": String(get(view()) === value), onclick: () => choose(key, value) },
          text,
        ),
      );
    }
    bar.append(make("div", { class: "choice" }, make("span", {}, label), segments));
  }
  bar.dataset.alternatives = String(alternatives);
}

export function drawLead() {
  $("lead").replaceChildren(...view().headline.map(([text, bold]) => (bold ? make("b", {}, text) : text)));
  for (const element of document.querySelectorAll("[data-fill]"))
    element.textContent = whole(view()[element.dataset.fill]);
}

export function drawCoverage() {
  const now = view(),
    lines = [];
  const absent = now.models
    .filter((m) => m.missing_seeds.length)
    .map((m) => `${m.name} (seed ${m.missing_seeds.join(", ")})`);
  const diverged = now.models.filter((m) => m.diverged).map((m) => `${m.name} (${m.diverged} of ${m.runs.length})`);
  const infinite = now.models.filter((m) => m.nonfinite).map((m) => m.name);
  if (now.missing_models.length) lines.push(`Not run here yet: ${now.missing_models.join(", ")}.`);
  if (absent.length) lines.push(`Seeds not run yet: ${absent.join("; ")}.`);
  if (diverged.length) lines.push(`Training diverged: ${diverged.join("; ")}.`);
  if (infinite.length) lines.push(`Predictions that are not finite: ${infinite.join(", ")}.`);
  $("coverage").hidden = !lines.length;
  $("coverage").textContent = lines.join(" ");
}

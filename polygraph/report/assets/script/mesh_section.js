// The panels of reconstructions: which are shown, and their common camera.
import { finite, show, whole } from "./format.js";
import { COLORSCALE, inputMesh, reconstruction, sceneLayout, trace } from "./meshes.js";
import { $, make, payload, state, view } from "./page.js";

function withMeshes() {
  return view().models.filter((m) => m.frames);
}

function standardChoice() {
  const all = withMeshes(),
    wanted = [];
  const ranked = all
    .filter((m) => finite(m.mean_mm.mean) && m.family !== "linear")
    .sort((a, b) => a.mean_mm.mean - b.mean_mm.mean);
  const add = (model) => {
    if (model && !wanted.includes(model.name)) wanted.push(model.name);
  };
  add(all.find((m) => m.family === "linear" && m.latent));
  add(all.find((m) => m.name === "first-order"));
  add(ranked[0]);
  for (const model of ranked) if (wanted.length < 3) add(model);
  return wanted;
}

const MOST = 7;

export function drawMeshSection() {
  const now = view();
  const stage = now.stage === null ? null : payload.stages[now.stage];
  const usable = stage !== null && withMeshes().length > 0;
  for (const element of $("mesh-section").querySelectorAll(".controls, .chips, .scale, .meshes"))
    element.style.display = usable ? "" : "none";
  if (!usable) {
    $("mesh-caption").textContent = "The grid has written no meshes for this data set and split.";
    return;
  }
  const some =
    stage.labels.length < stage.num_samples ? ` ${stage.labels.length} of ${stage.num_samples} samples are here.` : "";
  const thin =
    stage.vertices < stage.full_vertices
      ? ` Drawn with ${whole(stage.vertices)} of ${whole(stage.full_vertices)} vertices; the numbers count them all.`
      : "";
  const seeds =
    now.seeds.length > 1 ? " Of the seeds whose meshes are here, the one nearest to the median error is shown." : "";
  $("mesh-caption").textContent =
    "Reconstructions coloured by vertex error. The scale is one for all models and fixed for a mesh; " +
    "larger errors take its last colour. Drag to turn all of them at once, scroll to come closer." +
    `${seeds}${some}${thin}`;
  const there = withMeshes().map((m) => m.name);
  state.shown = (state.shown || standardChoice()).filter((name) => there.includes(name));
  state.sample = Math.min(state.sample, stage.labels.length - 1);
  $("slider").max = stage.labels.length - 1;
  drawChips();
  drawMeshes();
}

function drawChips() {
  $("chips").replaceChildren(
    ...view().models.map((model) => {
      const on = state.shown.includes(model.name);
      return make(
        "button",
        {
          type: "button",
          "aria-pressed": String(on),
          disabled: model.frames ? null : "",
          title: model.frames ? null : "no reconstructions in the grid",
          onclick: () => {
            if (on) state.shown = state.shown.filter((name) => name !== model.name);
            else state.shown = [...state.shown, model.name].slice(-MOST);
            drawChips();
            drawMeshes();
          },
        },
        model.name,
      );
    }),
  );
}

// Scenes are costly: they wait until the reader comes near them.
let near = false;

new IntersectionObserver(
  (entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    near = true;
    if (payload.stages.length) drawMeshSection();
  },
  { rootMargin: "400px" },
).observe($("mesh-section"));

export function drawMeshes() {
  if (!near) return;
  const now = view(),
    stage = payload.stages[now.stage],
    limit = now.limits[state.sample];
  $("slider").value = state.sample;
  const label = stage.labels[state.sample];
  $("sample").textContent =
    `${state.sample + 1} of ${stage.labels.length} · ${label || "mesh"} · no. ${stage.indices[state.sample]}`;
  $("ramp-top").textContent = `${show(limit, "mm")} mm and more`;
  const panels = [
    { name: "input", frame: null, seed: null },
    ...state.shown.map((name) => {
      const model = now.models.find((m) => m.name === name);
      return { name, frame: model.frames[state.sample], seed: model.runs.length > 1 ? model.shown_seed : null };
    }),
  ];
  const box = $("meshes");
  while (box.children.length > panels.length) {
    Plotly.purge(box.lastChild.querySelector(".stage"));
    box.lastChild.remove();
  }
  while (box.children.length < panels.length) box.append(makePanel());
  for (const [index, panel] of panels.entries()) fillPanel(box.children[index], panel, stage, limit);
}

function makePanel() {
  const place = make("div", { class: "stage" });
  return make("figure", { class: "mesh" }, make("figcaption", {}, make("b"), make("span")), place);
}

function fillPanel(figure, panel, stage, limit) {
  const { name, frame, seed } = panel;
  figure.querySelector("b").textContent = name;
  const text =
    frame === null
      ? "true mesh"
      : frame.mean === null
        ? `${whole(frame.bad)} vertices not finite`
        : `${show(frame.mean, "mm")} mm, at most ${show(frame.max, "int")}`;
  figure.querySelector("span").textContent = seed === null ? text : `${text} (seed ${seed})`;
  figure.dataset.model = name;
  const made = frame === null ? { vertices: inputMesh(stage), errors: null } : reconstruction(stage, frame);
  const place = figure.querySelector(".stage");
  const known = place.classList.contains("js-plotly-plot");
  Plotly.react(place, [trace(stage, made.vertices, made.errors, limit)], sceneLayout(stage), {
    displayModeBar: false,
    responsive: true,
    scrollZoom: true,
  }).then(() => {
    if (!known) place.on("plotly_relayout", (change) => turn(place, change));
  });
}

let turning = false;

function turn(source, change) {
  const camera = change["scene.camera"];
  if (!camera || turning) return;
  turning = true;
  state.camera = structuredClone(camera);
  const others = [...document.querySelectorAll("#meshes .stage")].filter((place) => place !== source);
  Promise.all(others.map((place) => Plotly.relayout(place, { "scene.camera": structuredClone(camera) }))).finally(
    () => {
      turning = false;
    },
  );
}

export function drawRamp() {
  const canvas = $("ramp"),
    context = canvas.getContext("2d");
  const fill = context.createLinearGradient(0, 0, canvas.width, 0);
  for (const [t, color] of COLORSCALE) fill.addColorStop(t, color);
  context.fillStyle = fill;
  context.fillRect(0, 0, canvas.width, 1);
}

export function step(by) {
  const stage = payload.stages[view().stage];
  state.sample = (state.sample + by + stage.labels.length) % stage.labels.length;
  drawMeshes();
}

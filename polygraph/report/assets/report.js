"use strict";
const payload = JSON.parse(document.getElementById("payload").textContent);
const $ = (id) => document.getElementById(id);
const FONT = getComputedStyle(document.documentElement).getPropertyValue("--sans").trim();
const INK = "#1c2430", SOFT = "#5b6675", GRID = "#eceff3";
// Okabe and Ito's colours, which people with any kind of colour vision tell apart.
const FAMILY = {
  "first-order": { color: "#1c2430", symbol: "circle", label: "first order" },
  simple: { color: "#56b4e9", symbol: "square", label: "simple" },
  full: { color: "#d55e00", symbol: "circle", label: "full" },
  skip: { color: "#009e73", symbol: "diamond", label: "skip" },
  "skip-code": { color: "#005c43", symbol: "diamond-open", label: "skip of the public code" },
  spiral: { color: "#cc79a7", symbol: "triangle-up", label: "spirals as published" },
  peer: { color: "#e69f00", symbol: "cross", label: "other operators" },
  graph: { color: "#0072b2", symbol: "star", label: "graph convolutions" },
  linear: { color: "#8b95a3", symbol: "x", label: "linear" },
};
const POLYNOMIALS = ["simple", "full", "skip", "skip-code"];
const TIMES = {
  inference_1_ms: ["inference, one mesh", "ms"],
  inference_16_ms: ["inference, 16 meshes", "ms"],
  train_step_ms: ["training step", "ms"],
  seconds: ["training", "s"],
};
const state = { view: 0, sort: ["mean_mm", 1], runSort: ["mean_mm", 1], time: "inference_1_ms", sample: 0, shown: null, camera: null };

// ---------------------------------------------------------------- small things
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
const view = () => payload.views[state.view];
const finite = (value) => typeof value === "number" && Number.isFinite(value);
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : word.endsWith("sh") ? "es" : "s"}`;
function digits(value) {
  const size = Math.abs(value);
  return size >= 100 ? 1 : size >= 1 ? 2 : 3;
}
function number(value, places) {
  return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
}
function show(value, kind) {
  if (!finite(value)) return "–";
  if (Math.abs(value) >= 1e7 && kind !== "s") return power(value);
  if (kind === "int") return Math.round(value).toLocaleString("en");
  if (kind === "s") return value >= 3600 ? `${number(value / 3600, 1)} h` : value >= 60 ? `${number(value / 60, 1)} min` : `${number(value, 1)} s`;
  return number(value, kind === "mm" ? digits(value) : value >= 100 ? 0 : value >= 10 ? 1 : 2);
}
function plusMinus(spread) {
  return Math.max(spread.mean, spread.std) >= 1e7 ? power(spread.std) : number(spread.std, digits(spread.mean));
}
function power(value) {
  const [mantissa, exponent] = value.toExponential(1).split("e");
  const raised = [...String(Number(exponent))].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)]).join("");
  return `${mantissa} × 10${raised}`;
}
const noActivation = (model) => model.activation === "none";
const open = (model) => noActivation(model) && model.family !== "linear";

// ---------------------------------------------------------------- choice of view
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
  let best = -1, most = -1;
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
  draw();
}
function drawViews() {
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
      segments.append(make("button", { type: "button", "aria-pressed": String(get(view()) === value), onclick: () => choose(key, value) }, text));
    }
    bar.append(make("div", { class: "choice" }, make("span", {}, label), segments));
  }
  bar.dataset.alternatives = String(alternatives);
}
function drawLead() {
  const ranked = view().models.filter((m) => finite(m.mean_mm.mean) && m.family !== "linear").sort((a, b) => a.mean_mm.mean - b.mean_mm.mean);
  const pca = view().models.find((m) => m.name.startsWith("pca"));
  const parts = [];
  const count = view().models.length;
  parts.push(`${plural(count, "model")}, ${plural(view().seeds.length, "seed")}, ${view().latent} numbers per mesh of ${view().num_vertices.toLocaleString("en")} vertices. `);
  if (ranked.length) {
    const best = ranked[0];
    parts.push("The lowest error on meshes that training never saw is ", make("b", {}, `${show(best.mean_mm.mean, "mm")} mm`), ", by ", make("b", {}, best.name));
    const first = view().models.find((m) => m.name === "first-order");
    const against = [];
    if (first && first !== best && finite(first.mean_mm.mean)) against.push(`${show(first.mean_mm.mean, "mm")} of the first-order model`);
    if (pca && finite(pca.mean_mm.mean)) against.push(`${show(pca.mean_mm.mean, "mm")} of PCA`);
    parts.push(against.length ? `, against ${against.join(" and ")}.` : ".");
  }
  $("lead").replaceChildren(...parts);
  for (const element of document.querySelectorAll("[data-fill]")) element.textContent = view()[element.dataset.fill].toLocaleString("en");
}
function drawCoverage() {
  const now = view(), lines = [];
  const absent = now.models.filter((m) => m.missing_seeds.length).map((m) => `${m.name} (seed ${m.missing_seeds.join(", ")})`);
  const diverged = now.models.filter((m) => m.diverged).map((m) => `${m.name} (${m.diverged} of ${m.runs.length})`);
  const infinite = now.models.filter((m) => m.nonfinite).map((m) => m.name);
  if (now.missing_models.length) lines.push(`Not run here yet: ${now.missing_models.join(", ")}.`);
  if (absent.length) lines.push(`Seeds not run yet: ${absent.join("; ")}.`);
  if (diverged.length) lines.push(`Training diverged: ${diverged.join("; ")}.`);
  if (infinite.length) lines.push(`Predictions that are not finite: ${infinite.join(", ")}.`);
  $("coverage").hidden = !lines.length;
  $("coverage").textContent = lines.join(" ");
}

// ---------------------------------------------------------------- tables
const COLUMNS = [
  { key: "name", head: "model", text: true, of: (m) => m.name },
  { key: "order", head: "order", of: (m) => m.order, kind: "int" },
  { key: "mean_mm", head: "error", unit: "mm", kind: "mm", spread: true, best: "all" },
  { key: "std_mm", head: "std", unit: "mm", kind: "mm", best: "all" },
  { key: "median_mm", head: "median", unit: "mm", kind: "mm", best: "all" },
  { key: "p90_mm", head: "90 %", unit: "mm", kind: "mm", best: "all" },
  { key: "max_mm", head: "largest", unit: "mm", kind: "mm", best: "all" },
  { key: "val_mean_mm", head: "validation", unit: "mm", kind: "mm", best: "all" },
  { key: "nonfinite", head: "not finite", unit: "vertices", of: (m) => m.nonfinite, kind: "int", fault: true },
  { key: "outlier_meshes", head: "outliers", unit: "meshes", of: (m) => m.outlier_meshes, kind: "int" },
  { key: "parameters", head: "parameters", kind: "int", best: "networks" },
  { key: "inference_1_ms", head: "inference", unit: "ms, 1 mesh", kind: "ms", best: "networks" },
  { key: "inference_16_ms", head: "inference", unit: "ms, 16", kind: "ms", best: "networks" },
  { key: "train_step_ms", head: "step", unit: "ms", kind: "ms", best: "networks" },
  { key: "peak_mib", head: "peak", unit: "MiB", kind: "ms", best: "networks" },
  { key: "seconds", head: "training", kind: "s", best: "networks" },
];
for (const column of COLUMNS) column.of ||= (m) => m[column.key].mean;
function drawHead(table, columns, sort, again) {
  const line = make("tr");
  for (const column of columns) {
    const [key, direction] = sort();
    const active = key === column.key;
    const head = make("th", {
      class: column.text ? "text" : "", scope: "col", "data-key": column.key, tabindex: "0",
      "aria-sort": active ? (direction > 0 ? "ascending" : "descending") : null,
      onclick: () => again(column.key, active ? -direction : 1),
      onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); again(column.key, active ? -direction : 1); } },
    }, column.head, make("span", { class: "arrow" }, active ? (direction > 0 ? " ▲" : " ▼") : ""), columns.some((c) => c.unit) ? make("small", {}, column.unit || "\u00a0") : null);
    line.append(head);
  }
  table.tHead.replaceChildren(line);
}
function sorted(items, get, direction) {
  // What has no number comes last, whichever way the others are sorted.
  const known = items.filter((item) => get(item) !== null && get(item) !== undefined && get(item) !== "");
  const rest = items.filter((item) => !known.includes(item));
  known.sort((a, b) => {
    const [x, y] = [get(a), get(b)];
    return direction * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  });
  return [...known, ...rest];
}
function drawTable() {
  const models = view().models;
  const best = {};
  for (const column of COLUMNS.filter((c) => c.best)) {
    const among = models.filter((m) => column.best === "all" || m.family !== "linear").map(column.of).filter(finite);
    best[column.key] = among.length > 1 ? Math.min(...among) : null;
  }
  drawHead($("table"), COLUMNS, () => state.sort, (key, direction) => { state.sort = [key, direction]; drawTable(); });
  const column = COLUMNS.find((c) => c.key === state.sort[0]);
  const lines = sorted(models, column.of, state.sort[1]).map((model) => make("tr", {}, ...COLUMNS.map((c) => modelCell(model, c, best))));
  for (const name of view().missing_models) {
    lines.push(make("tr", { class: "absent" }, make("td", { class: "text" }, name), make("td", { class: "text", colspan: COLUMNS.length - 1 }, "not run yet")));
  }
  $("table").tBodies[0].replaceChildren(...lines);
  const unmeasured = models.every((m) => !finite(m.inference_1_ms.mean));
  $("table-note").textContent = unmeasured ? "Inference, step and peak are measured at the end of a grid, all models in turns; this one has not come to that." : "";
}
function modelCell(model, column, best) {
  if (column.text) {
    const dot = make("i", { class: open(model) ? "dot open" : "dot" });
    dot.style.background = dot.style.borderColor = FAMILY[model.family].color;
    return make("td", { class: "text", title: `${FAMILY[model.family].label} · group ${model.group_hash.slice(0, 16)}` }, dot, model.name);
  }
  const value = column.of(model);
  if (!finite(value)) return make("td", { class: "none", title: whyNone(model, column.key) }, model.diverged && column.best === "all" ? "diverged" : "–");
  const isBest = column.best && value === best[column.key] && (column.best === "all" || model.family !== "linear");
  const kind = isBest ? "best" : column.fault && value > 0 ? "bad" : "";
  const cell = make("td", { class: kind, title: String(value) }, show(value, column.kind));
  if (column.spread && finite(model[column.key].std)) cell.append(make("span", { class: "pm" }, ` ± ${plusMinus(model[column.key])}`));
  return cell;
}
function whyNone(model, key) {
  const spread = model[key];
  if (!spread || !spread.values) return "none";
  const known = spread.values.filter(finite).length;
  return known ? `only ${known} of ${spread.values.length} seeds have a finite value` : "no finite value";
}
const RUN_COLUMNS = [
  ["name", "model", true], ["seed", "seed"], ["status", "status", true], ["mean_mm", "error", false, "mm"], ["val_mean_mm", "validation", false, "mm"],
  ["nonfinite", "not finite", false, "int"], ["nonfinite_meshes", "meshes not finite", false, "int"], ["outlier_meshes", "outliers", false, "int"],
  ["steps", "steps", false, "int"], ["best_step", "best step", false, "int"], ["seconds", "time", false, "s"], ["config_hash", "config", true], ["message", "message", true],
].map(([key, head, text, kind]) => ({ key, head, text, kind: kind || "int", unit: kind === "mm" ? "mm" : "" }));
function drawRuns() {
  const runs = view().models.flatMap((model) => model.runs.map((run) => ({ ...run, name: model.name, family: model.family })));
  drawHead($("runs"), RUN_COLUMNS, () => state.runSort, (key, direction) => { state.runSort = [key, direction]; drawRuns(); });
  const lines = sorted(runs, (run) => run[state.runSort[0]], state.runSort[1]).map((run) => make("tr", { title: run.run }, ...RUN_COLUMNS.map((column) => {
    const value = run[column.key];
    if (column.key === "config_hash") return make("td", { class: "text", title: value }, make("code", {}, value.slice(0, 12)));
    if (column.text) return make("td", { class: `text${value === "diverged" ? " bad" : ""}` }, value === null ? "" : String(value));
    if (!finite(value)) return make("td", { class: "none" }, "–");
    return make("td", { class: column.key === "nonfinite" && value > 0 ? "bad" : "" }, show(value, column.kind));
  })));
  for (const model of view().models) {
    for (const seed of model.missing_seeds) lines.push(make("tr", { class: "absent" }, make("td", { class: "text" }, model.name), make("td", {}, String(seed)), make("td", { class: "text", colspan: RUN_COLUMNS.length - 2 }, "not run yet")));
  }
  $("runs").tBodies[0].replaceChildren(...lines);
}

// ---------------------------------------------------------------- charts
const CONFIG = { displayModeBar: false, responsive: true };
function layout(x, y, more = {}) {
  const axis = { gridcolor: GRID, zeroline: false, linecolor: "#c9d0d8", ticks: "outside", tickcolor: "#c9d0d8", ticklen: 4, title: { standoff: 10 }, automargin: true };
  return {
    font: { family: FONT, size: 12.5, color: SOFT }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 58, r: 14, t: 10, b: 48 }, hoverlabel: { font: { family: FONT, size: 12.5 }, bgcolor: "#fff", bordercolor: "#c9d0d8", align: "left" },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12.5, color: INK }, itemsizing: "constant" },
    xaxis: { ...axis, ...x, title: { text: x.title, standoff: 10 } }, yaxis: { ...axis, ...y, title: { text: y.title, standoff: 8 } }, ...more,
  };
}
function missingNote(id, models, what, beyond = []) {
  const lines = [];
  if (beyond.length) lines.push(`Beyond the picture: ${beyond.map((m) => `${m.name} (${show(m.mean_mm.mean, "mm")} mm)`).join(", ")}.`);
  if (models.length) lines.push(`Not drawn, having no finite ${what}: ${models.map((m) => m.name).join(", ")}.`);
  $(id).textContent = lines.join(" ");
}
const FAR = 3;
function middle(values) {
  const ordered = [...values].sort((a, b) => a - b);
  return ordered[Math.floor((ordered.length - 1) / 2)];
}
function extent(models) {
  // A model that went astray must not press all others flat: it leaves through the top, and is named.
  const there = models.filter((m) => finite(m.mean_mm.mean));
  if (!there.length) return { range: undefined, beyond: [] };
  const limit = FAR * middle(there.map((m) => m.mean_mm.mean));
  const inside = there.filter((m) => m.mean_mm.mean <= limit);
  const low = Math.min(...inside.map((m) => m.mean_mm.mean - Math.min(m.mean_mm.std || 0, limit))), high = Math.max(...inside.map((m) => Math.min(m.mean_mm.mean + (m.mean_mm.std || 0), limit)));
  const room = 0.08 * (high - low) || 0.1 * high || 1;
  return { range: [Math.max(0, low - 1.5 * room), high + room], beyond: there.filter((m) => !inside.includes(m)) };
}
function shade(color) {
  const half = [1, 3, 5].map((i) => Math.round(0.55 * parseInt(color.slice(i, i + 2), 16)));
  return `rgb(${half.join(",")})`;
}
function orderLines(models) {
  // One line per family, normalisation and activation; the normalisation is named where there are several.
  const lines = new Map();
  for (const model of models) {
    if (!POLYNOMIALS.includes(model.family) || model.operator !== "spiral") continue;
    const key = [model.family, noActivation(model), model.norm].join(" ");
    if (!lines.has(key)) lines.set(key, { family: model.family, without: noActivation(model), norm: model.norm, models: [] });
    lines.get(key).models.push(model);
  }
  const all = [...lines.values()].sort((a, b) => POLYNOMIALS.indexOf(a.family) - POLYNOMIALS.indexOf(b.family) || a.without - b.without);
  const counts = {};
  for (const model of all.flatMap((line) => line.models)) counts[model.norm] = (counts[model.norm] || 0) + 1;
  const usual = Object.keys(counts).sort((a, b) => counts[b] - counts[a])[0];
  for (const line of all) line.norm = line.norm === usual || line.norm === null ? null : `norm ${line.norm.replaceAll("_", " ")}`;
  return all;
}
function drawOrder() {
  const now = view();
  const starts = now.models.filter((m) => m.family === "first-order");
  const traces = [], left = [];
  const drawn = now.models.filter((m) => (m.family === "linear" && m.latent) || starts.includes(m) || orderLines(now.models).some((line) => line.models.includes(m)));
  const vertical = extent(drawn);
  let shift = 0;
  for (const line of orderLines(now.models)) {
    const { family, without, norm, models: mine } = line;
    const all = [...starts.filter((m) => noActivation(m) === without), ...mine].sort((a, b) => a.order - b.order);
    const there = all.filter((m) => finite(m.mean_mm.mean));
    left.push(...all.filter((m) => !there.includes(m) && !left.includes(m)));
    const style = FAMILY[family], color = norm ? shade(style.color) : style.color;
    const name = escapeText([style.label, norm, without ? "no activations" : null].filter(Boolean).join(", "));
    const offset = 0.03 * (shift++ - 2.5);
    traces.push({
      type: "scatter", mode: "lines+markers", name, x: there.map((m) => m.order + offset), y: there.map((m) => m.mean_mm.mean),
      error_y: { type: "data", array: there.map((m) => (vertical.beyond.includes(m) ? 0 : m.mean_mm.std || 0)), thickness: 1.4, width: 4, color },
      line: { color, width: 2, dash: without ? "dash" : "solid" },
      marker: { color: without ? "#fff" : color, line: { color, width: 2 }, size: 9, symbol: style.symbol },
      text: there.map(hover), hovertemplate: "%{text}<extra></extra>", legendgroup: name,
    });
    const seeds = all.flatMap((m) => m.mean_mm.values.filter(finite).map((value) => [m.order + offset, value]));
    traces.push({ type: "scatter", mode: "markers", x: seeds.map((s) => s[0]), y: seeds.map((s) => s[1]), marker: { color, size: 4, opacity: 0.4 }, hoverinfo: "skip", showlegend: false, legendgroup: name });
  }
  const orders = now.models.filter((m) => ["first-order", ...POLYNOMIALS].includes(m.family)).map((m) => m.order);
  const range = [Math.min(1, ...orders) - 0.3, Math.max(2, ...orders) + 0.3];
  const lines = now.models.filter((m) => m.family === "linear" && finite(m.mean_mm.mean) && m.latent);
  for (const model of lines) traces.push({ type: "scatter", mode: "lines", name: escapeText(model.name.toUpperCase()), x: range, y: [model.mean_mm.mean, model.mean_mm.mean], line: { color: "#8b95a3", width: 1.5, dash: "dot" }, hovertemplate: `${escapeText(model.name)}: %{y:.2f} mm<extra></extra>` });
  $("order-section").hidden = !traces.length;
  missingNote("order-note", left, "error over all seeds", vertical.beyond);
  if (traces.length) Plotly.react("order", traces, layout({ title: "order", range, tickvals: [1, 2, 3, 4, 5, 6], showgrid: false }, { title: "mean vertex error in mm", range: vertical.range }, { margin: { l: 58, r: 14, t: 34, b: 48 } }), CONFIG);
}
function hover(model) {
  const std = finite(model.mean_mm.std) ? ` ± ${plusMinus(model.mean_mm)}` : "";
  return `<b>${escapeText(model.name)}</b><br>${show(model.mean_mm.mean, "mm")}${std} mm<br>${plural(model.runs.length, "seed")}`;
}
function escapeText(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}
function drawLegend() {
  const there = Object.entries(FAMILY).filter(([family]) => view().models.some((m) => m.family === family && m.latent));
  const marks = there.map(([, style]) => {
    const dot = make("i", { class: "dot" });
    dot.style.background = style.color;
    return make("span", {}, dot, style.label);
  });
  if (view().models.some(open)) {
    const dot = make("i", { class: "dot open" });
    dot.style.borderColor = SOFT;
    marks.push(make("span", {}, dot, "no activations"));
  }
  $("families").replaceChildren(...marks);
}
function frontier(points) {
  const ordered = [...points].sort((a, b) => a.x - b.x || a.y - b.y), front = [];
  for (const point of ordered) if (!front.length || point.y < front[front.length - 1].y) front.push(point);
  return front;
}
function drawTradeoff(id, note, key, title, unit) {
  const models = view().models.filter((m) => m.latent);
  const points = models.map((model) => ({ model, x: model[key].mean, y: model.mean_mm.mean, e: model.mean_mm.std || 0 }));
  const there = points.filter((p) => finite(p.x) && finite(p.y) && p.x > 0);
  const vertical = extent(there.map((p) => p.model));
  missingNote(note, points.filter((p) => !there.includes(p)).map((p) => p.model), `${title} or error`, vertical.beyond);
  const networks = there.filter((p) => p.model.family !== "linear");
  const front = frontier(networks);
  const named = spreadOut(front, there.filter((p) => !vertical.beyond.includes(p.model)));
  const traces = [{ type: "scatter", mode: "lines", x: front.map((p) => p.x), y: front.map((p) => p.y), line: { color: "#c9d0d8", width: 5, shape: "linear" }, hoverinfo: "skip", showlegend: false }];
  for (const [family, style] of Object.entries(FAMILY)) {
    const mine = there.filter((p) => p.model.family === family);
    if (!mine.length) continue;
    traces.push({
      type: "scatter", mode: "markers+text", name: style.label, x: mine.map((p) => p.x), y: mine.map((p) => p.y),
      error_y: { type: "data", array: mine.map((p) => (vertical.beyond.includes(p.model) ? 0 : p.e)), thickness: 1.2, width: 3, color: style.color },
      marker: { color: mine.map((p) => (open(p.model) ? "#fff" : style.color)), line: { color: style.color, width: 2 }, size: 10, symbol: style.symbol },
      text: mine.map((p) => (named.includes(p) ? escapeText(p.model.name) : "")), textposition: "bottom left", textfont: { size: 11.5, color: INK }, cliponaxis: false,
      hovertext: mine.map((p) => `${hover(p.model)}<br>${show(p.x, key === "parameters" ? "int" : key === "seconds" ? "s" : "ms")}${key === "seconds" ? "" : ` ${unit}`}`), hovertemplate: "%{hovertext}<extra></extra>",
    });
  }
  Plotly.react(id, traces, layout({ title: `${title}${unit && key !== "parameters" ? ` in ${unit}` : ""}`, type: "log", dtick: "D2", exponentformat: "none", ...spanOf(there.map((p) => p.x), key === "parameters" ? "~s" : "~r") }, { title: "mean vertex error in mm", range: vertical.range }, { showlegend: false }), CONFIG);
}
function spreadOut(front, all) {
  // Names of neighbours would lie on each other: the best first, the others where there is room.
  const [xs, ys] = [all.map((p) => Math.log10(p.x)), all.map((p) => p.y)];
  const size = (values) => Math.max(...values) - Math.min(...values) || 1;
  const taken = [];
  for (const point of [...front].sort((a, b) => a.y - b.y)) {
    const free = taken.every((other) => Math.abs(Math.log10(point.x / other.x)) / size(xs) > 0.24 || Math.abs(point.y - other.y) / size(ys) > 0.065);
    if (free) taken.push(point);
  }
  return taken;
}
function spanOf(values, format) {
  if (!values.length) return {};
  const [low, high] = [Math.log10(Math.min(...values)), Math.log10(Math.max(...values))];
  const room = Math.max(0.12, 0.12 * (high - low));
  // Three numbers per decade crowd a scale of several decades.
  return { range: [low - 2 * room, high + room], dtick: high - low > 1.6 ? 1 : "D2", tickformat: format };
}
function drawCumulative() {
  const models = [...view().models].sort((a, b) => (finite(a.mean_mm.mean) ? a.mean_mm.mean : Infinity) - (finite(b.mean_mm.mean) ? b.mean_mm.mean : Infinity));
  const traces = [], left = [], shown = [];
  for (const model of models) {
    const x = [], y = [];
    model.quantiles.forEach((value, percent) => { if (finite(value)) { x.push(value); y.push(percent); } });
    if (!x.length) { left.push(model); continue; }
    const style = FAMILY[model.family];
    if (model.latent && model.family !== "linear") shown.push(x[Math.min(x.length - 1, 97)]);
    const depth = model.order || 1;
    traces.push({
      type: "scatter", mode: "lines", name: escapeText(model.name), x, y, visible: model.latent ? true : "legendonly",
      line: { color: style.color, width: model.family === "first-order" ? 2.4 : 1 + 0.5 * depth, dash: open(model) ? "dash" : model.family === "linear" ? "dot" : "solid" }, opacity: 0.9,
      hovertemplate: `<b>${escapeText(model.name)}</b><br>%{y} % of vertices within %{x:.2f} mm<extra></extra>`,
    });
  }
  missingNote("cumulative-note", left, "quantiles over all seeds");
  const end = shown.length ? Math.max(...shown.filter((x) => x <= FAR * middle(shown))) : undefined;
  Plotly.react("cumulative", traces, layout({ title: "vertex error in mm", range: end ? [0, end] : undefined, rangemode: "tozero" }, { title: "vertices in %", range: [0, 101] }, { legend: { orientation: "v", x: 1.01, y: 1, font: { size: 12, color: INK }, itemsizing: "trace" }, margin: { l: 58, r: 10, t: 8, b: 48 } }), CONFIG);
}

// ---------------------------------------------------------------- meshes
function decode(text, type) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new type(bytes.buffer);
}
const cache = new Map();
function cached(key, compute) {
  if (!cache.has(key)) cache.set(key, compute());
  return cache.get(key);
}
function faces(stage) {
  return cached(`faces ${view().stage}`, () => {
    const all = decode(stage.faces, stage.wide ? Uint32Array : Uint16Array), out = [[], [], []];
    all.forEach((index, position) => out[position % 3].push(index));
    return out;
  });
}
function inputMesh(stage) {
  const raw = decode(stage.inputs[state.sample], Int16Array);
  return Float32Array.from(raw, (value) => value * stage.step);
}
function reconstruction(stage, frame) {
  const base = inputMesh(stage), moved = decode(frame.moved, Int8Array), codes = decode(frame.errors, Uint8Array);
  const vertices = base.map((value, i) => value + moved[i] * frame.step);
  const errors = Float32Array.from(codes, (code) => (code === 255 ? Infinity : (code / 254) ** 2 * frame.top));
  return { vertices, errors };
}
function columns(vertices) {
  const out = [[], [], []];
  vertices.forEach((value, position) => out[position % 3].push(value));
  return out;
}
const COLORSCALE = payload.colors.map((color, i) => [i / (payload.colors.length - 1), color]);
function trace(stage, vertices, errors, limit) {
  const [x, y, z] = columns(vertices), [i, j, k] = faces(stage);
  const mesh = {
    type: "mesh3d", x, y, z, i, j, k, hoverinfo: "skip", flatshading: false, showscale: false,
    lighting: { ambient: 0.55, diffuse: 0.75, specular: 0.12, roughness: 0.7, fresnel: 0.1, vertexnormalsepsilon: 0, facenormalsepsilon: 0 }, lightposition: { x: -2000, y: -4000, z: 5000 },
  };
  if (errors === null) return { ...mesh, color: "#b9c4d2" };
  // A vertex that is not finite is black, a colour that the scale does not have.
  const colors = [...errors].map((e) => (Number.isFinite(e) ? Math.min(e / limit, 1) : 2));
  if (colors.some((c) => c === 2)) {
    const scale = [...COLORSCALE.map(([t, c]) => [t * 0.9, c]), [0.9001, "#000"], [1, "#000"]];
    return { ...mesh, intensity: colors.map((c) => (c === 2 ? 1 : 0.9 * c)), cmin: 0, cmax: 1, colorscale: scale, hoverinfo: "none" };
  }
  return { ...mesh, intensity: colors, cmin: 0, cmax: 1, colorscale: COLORSCALE };
}
function sceneLayout(stage) {
  const reach = stage.reach.map((value) => 1.04 * value), longest = Math.max(...reach);
  const axis = (n) => ({ visible: false, range: [-reach[n], reach[n]], showspikes: false });
  const ratio = reach.map((value) => value / longest);
  const tall = ratio[2] > ratio[0];
  return {
    margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    scene: { xaxis: axis(0), yaxis: axis(1), zaxis: axis(2), aspectmode: "manual", aspectratio: { x: ratio[0], y: ratio[1], z: ratio[2] }, dragmode: "orbit", camera: structuredClone(state.camera || home(tall)) },
  };
}
function home(tall) {
  return { eye: tall ? { x: -0.42, y: -1.12, z: 0.26 } : { x: -0.55, y: -1.5, z: 0.35 }, center: { x: 0, y: 0, z: 0 }, up: { x: 0, y: 0, z: 1 }, projection: { type: "perspective" } };
}
function withMeshes() {
  return view().models.filter((m) => m.frames);
}
function standardChoice() {
  const all = withMeshes(), wanted = [];
  const ranked = all.filter((m) => finite(m.mean_mm.mean) && m.family !== "linear").sort((a, b) => a.mean_mm.mean - b.mean_mm.mean);
  const add = (model) => { if (model && !wanted.includes(model.name)) wanted.push(model.name); };
  add(all.find((m) => m.family === "linear" && m.latent));
  add(all.find((m) => m.name === "first-order"));
  add(ranked[0]);
  for (const model of ranked) if (wanted.length < 3) add(model);
  return wanted;
}
const MOST = 7;
function drawMeshSection() {
  const now = view();
  const stage = now.stage === null ? null : payload.stages[now.stage];
  const usable = stage !== null && withMeshes().length > 0;
  for (const element of $("mesh-section").querySelectorAll(".controls, .chips, .scale, .meshes")) element.style.display = usable ? "" : "none";
  if (!usable) {
    $("mesh-caption").textContent = "The grid has written no meshes for this data set and split.";
    return;
  }
  const some = stage.labels.length < stage.num_samples ? ` ${stage.labels.length} of ${stage.num_samples} samples are here.` : "";
  const thin = stage.vertices < stage.full_vertices ? ` Drawn with ${stage.vertices.toLocaleString("en")} of ${stage.full_vertices.toLocaleString("en")} vertices; the numbers count them all.` : "";
  const seeds = now.seeds.length > 1 ? " Of the seeds whose meshes are here, the one nearest to the median error is shown." : "";
  $("mesh-caption").textContent = `Reconstructions coloured by vertex error. The scale is one for all models and fixed for a mesh; larger errors take its last colour. Drag to turn all of them at once, scroll to come closer.${seeds}${some}${thin}`;
  const there = withMeshes().map((m) => m.name);
  state.shown = (state.shown || standardChoice()).filter((name) => there.includes(name));
  state.sample = Math.min(state.sample, stage.labels.length - 1);
  $("slider").max = stage.labels.length - 1;
  drawChips();
  drawMeshes();
}
function drawChips() {
  $("chips").replaceChildren(...view().models.map((model) => {
    const on = state.shown.includes(model.name);
    return make("button", {
      type: "button", "aria-pressed": String(on), disabled: model.frames ? null : "", title: model.frames ? null : "no reconstructions in the grid",
      onclick: () => {
        if (on) state.shown = state.shown.filter((name) => name !== model.name);
        else state.shown = [...state.shown, model.name].slice(-MOST);
        drawChips();
        drawMeshes();
      },
    }, model.name);
  }));
}
// Scenes are costly: they wait until the reader comes near them.
let near = false;
new IntersectionObserver((entries, observer) => {
  if (!entries.some((entry) => entry.isIntersecting)) return;
  observer.disconnect();
  near = true;
  if (payload.stages.length) drawMeshSection();
}, { rootMargin: "400px" }).observe($("mesh-section"));
function drawMeshes() {
  if (!near) return;
  const now = view(), stage = payload.stages[now.stage], limit = now.limits[state.sample];
  $("slider").value = state.sample;
  const label = stage.labels[state.sample];
  $("sample").textContent = `${state.sample + 1} of ${stage.labels.length} · ${label || "mesh"} · no. ${stage.indices[state.sample]}`;
  $("ramp-top").textContent = `${show(limit, "mm")} mm and more`;
  const panels = [{ name: "input", frame: null, seed: null }, ...state.shown.map((name) => {
    const model = now.models.find((m) => m.name === name);
    return { name, frame: model.frames[state.sample], seed: model.runs.length > 1 ? model.shown_seed : null };
  })];
  const box = $("meshes");
  while (box.children.length > panels.length) {
    Plotly.purge(box.lastChild.querySelector(".stage"));
    box.lastChild.remove();
  }
  while (box.children.length < panels.length) box.append(makePanel());
  panels.forEach((panel, index) => fillPanel(box.children[index], panel, stage, limit));
}
function makePanel() {
  const place = make("div", { class: "stage" });
  return make("figure", { class: "mesh" }, make("figcaption", {}, make("b"), make("span")), place);
}
function fillPanel(figure, panel, stage, limit) {
  const { name, frame, seed } = panel;
  figure.querySelector("b").textContent = name;
  const text = frame === null ? "true mesh" : frame.mean === null ? `${frame.bad.toLocaleString("en")} vertices not finite` : `${show(frame.mean, "mm")} mm, at most ${show(frame.max, "int")}`;
  figure.querySelector("span").textContent = seed === null ? text : `${text} (seed ${seed})`;
  figure.dataset.model = name;
  const made = frame === null ? { vertices: inputMesh(stage), errors: null } : reconstruction(stage, frame);
  const place = figure.querySelector(".stage");
  const known = place.classList.contains("js-plotly-plot");
  Plotly.react(place, [trace(stage, made.vertices, made.errors, limit)], sceneLayout(stage), { displayModeBar: false, responsive: true, scrollZoom: true }).then(() => {
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
  Promise.all(others.map((place) => Plotly.relayout(place, { "scene.camera": structuredClone(camera) }))).finally(() => { turning = false; });
}
function drawRamp() {
  const canvas = $("ramp"), context = canvas.getContext("2d");
  const fill = context.createLinearGradient(0, 0, canvas.width, 0);
  COLORSCALE.forEach(([t, color]) => fill.addColorStop(t, color));
  context.fillStyle = fill;
  context.fillRect(0, 0, canvas.width, 1);
}
function step(by) {
  const stage = payload.stages[view().stage];
  state.sample = (state.sample + by + stage.labels.length) % stage.labels.length;
  drawMeshes();
}

// ---------------------------------------------------------------- facts
function facts(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value instanceof Node ? value : String(value))]));
}
function drawFacts() {
  const now = view(), hash = (text) => make("code", {}, text);
  facts($("data-facts"), [
    ["data", now.data], ["vertices", now.num_vertices.toLocaleString("en")], ["millimetres per unit", String(now.to_mm)], ["data hash", hash(now.data_hash)],
    ["split", now.split], ["split hash", hash(now.split_hash)], ["meshes", `${now.num_train.toLocaleString("en")} training, ${now.num_val.toLocaleString("en")} validation, ${now.num_test.toLocaleString("en")} test`],
  ]);
  const recipe = Object.entries(now.recipe || {}).map(([key, value]) => [key.replaceAll("_", " "), value !== null && typeof value === "object" ? JSON.stringify(value).replaceAll('"', "").replace(/^[{[]|[}\]]$/g, "").replaceAll(",", ", ").replaceAll(":", ": ") : value === null ? "–" : String(value)]);
  facts($("recipe"), [...recipe, ["recipe hash", now.recipe_hash ? hash(now.recipe_hash) : "only linear models here"]]);
}
function drawMachines() {
  const heads = ["runs", "machine", "threads", "torch", "python", "polygraph", "commit"];
  const table = $("machines");
  table.replaceChildren(make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { class: head === "runs" || head === "threads" ? "" : "text" }, head)))), make("tbody", {}, ...payload.machines.map((machine) => make("tr", {}, ...heads.map((head) => {
    const value = machine[head] === null ? "–" : String(machine[head]);
    return make("td", { class: head === "runs" || head === "threads" ? "" : "text" }, head === "commit" ? make("code", {}, value) : value);
  })))));
  $("foot").textContent = `${payload.grid} · ${plural(payload.num_runs, "run")}${payload.num_diverged ? `, ${payload.num_diverged} diverged` : ""} · written ${payload.made} by polygraph ${payload.polygraph}`;
}

// ---------------------------------------------------------------- all of it
function drawTime() {
  const [title, unit] = TIMES[state.time];
  drawTradeoff("time", "time-note", state.time, title, unit);
}
function draw() {
  drawViews();
  drawLead();
  drawCoverage();
  drawTable();
  drawOrder();
  drawLegend();
  drawTradeoff("size", "size-note", "parameters", "parameters", "parameters");
  drawTime();
  drawCumulative();
  drawMeshSection();
  drawRuns();
  drawFacts();
}
$("time-key").append(...Object.entries(TIMES).map(([key, [title]]) => make("option", { value: key }, title)));
if (payload.views.every((v) => v.models.every((m) => !finite(m.inference_1_ms.mean)))) state.time = "seconds";
$("time-key").value = state.time;
$("time-key").addEventListener("change", (event) => { state.time = event.target.value; drawTime(); });
$("slider").addEventListener("input", (event) => { state.sample = Number(event.target.value); drawMeshes(); });
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("home").addEventListener("click", () => { state.camera = null; drawMeshes(); });
drawRamp();
drawMachines();
draw();
document.documentElement.dataset.ready = "true";

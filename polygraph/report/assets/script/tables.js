// The table of models and that of runs, which sort.
import { finite, open, plusMinus, show } from "./format.js";
import { $, FAMILY, make, state, view } from "./page.js";

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
    const head = make(
      "th",
      {
        class: column.text ? "text" : "",
        scope: "col",
        "data-key": column.key,
        tabindex: "0",
        "aria-sort": active ? (direction > 0 ? "ascending" : "descending") : null,
        onclick: () => again(column.key, active ? -direction : 1),
        onkeydown: (event) => {
          if (event.key === "Enter" || event.key === " ") {
            event.preventDefault();
            again(column.key, active ? -direction : 1);
          }
        },
      },
      column.head,
      make("span", { class: "arrow" }, active ? (direction > 0 ? " ▲" : " ▼") : ""),
      columns.some((c) => c.unit) ? make("small", {}, column.unit || "\u00a0") : null,
    );
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

export function drawTable() {
  const models = view().models;
  const best = {};
  for (const column of COLUMNS.filter((c) => c.best)) {
    const among = models
      .filter((m) => column.best === "all" || m.family !== "linear")
      .map(column.of)
      .filter(finite);
    best[column.key] = among.length > 1 ? Math.min(...among) : null;
  }
  drawHead(
    $("table"),
    COLUMNS,
    () => state.sort,
    (key, direction) => {
      state.sort = [key, direction];
      drawTable();
    },
  );
  const column = COLUMNS.find((c) => c.key === state.sort[0]);
  const lines = sorted(models, column.of, state.sort[1]).map((model) =>
    make("tr", {}, ...COLUMNS.map((c) => modelCell(model, c, best))),
  );
  for (const name of view().missing_models) {
    lines.push(
      make(
        "tr",
        { class: "absent" },
        make("td", { class: "text" }, name),
        make("td", { class: "text", colspan: COLUMNS.length - 1 }, "not run yet"),
      ),
    );
  }
  $("table").tBodies[0].replaceChildren(...lines);
  const unmeasured = models.every((m) => !finite(m.inference_1_ms.mean));
  $("table-note").textContent = unmeasured
    ? "Inference, step and peak are measured at the end of a grid, all models in turns; this one has not come to that."
    : "";
}

function modelCell(model, column, best) {
  if (column.text) {
    const dot = make("i", { class: open(model) ? "dot open" : "dot" });
    dot.style.background = dot.style.borderColor = FAMILY[model.family].color;
    return make(
      "td",
      { class: "text", title: `${FAMILY[model.family].label} · group ${model.group_hash.slice(0, 16)}` },
      dot,
      model.name,
    );
  }
  const value = column.of(model);
  if (!finite(value))
    return make(
      "td",
      { class: "none", title: whyNone(model, column.key) },
      model.diverged && column.best === "all" ? "diverged" : "–",
    );
  const isBest = column.best && value === best[column.key] && (column.best === "all" || model.family !== "linear");
  const kind = isBest ? "best" : column.fault && value > 0 ? "bad" : "";
  const cell = make("td", { class: kind, title: String(value) }, show(value, column.kind));
  if (column.spread && finite(model[column.key].std))
    cell.append(make("span", { class: "pm" }, ` ± ${plusMinus(model[column.key])}`));
  return cell;
}

function whyNone(model, key) {
  const spread = model[key];
  if (!spread || !spread.values) return "none";
  const known = spread.values.filter(finite).length;
  return known ? `only ${known} of ${spread.values.length} seeds have a finite value` : "no finite value";
}

const RUN_COLUMNS = [
  ["name", "model", true],
  ["seed", "seed"],
  ["status", "status", true],
  ["mean_mm", "error", false, "mm"],
  ["val_mean_mm", "validation", false, "mm"],
  ["nonfinite", "not finite", false, "int"],
  ["nonfinite_meshes", "meshes not finite", false, "int"],
  ["outlier_meshes", "outliers", false, "int"],
  ["steps", "steps", false, "int"],
  ["best_step", "best step", false, "int"],
  ["seconds", "time", false, "s"],
  ["config_hash", "config", true],
  ["message", "message", true],
].map(([key, head, text, kind]) => ({ key, head, text, kind: kind || "int", unit: kind === "mm" ? "mm" : "" }));

export function drawRuns() {
  const runs = view().models.flatMap((model) =>
    model.runs.map((run) => ({ ...run, name: model.name, family: model.family })),
  );
  drawHead(
    $("runs"),
    RUN_COLUMNS,
    () => state.runSort,
    (key, direction) => {
      state.runSort = [key, direction];
      drawRuns();
    },
  );
  const lines = sorted(runs, (run) => run[state.runSort[0]], state.runSort[1]).map((run) =>
    make(
      "tr",
      { title: run.run },
      ...RUN_COLUMNS.map((column) => {
        const value = run[column.key];
        if (column.key === "config_hash")
          return make("td", { class: "text", title: value }, make("code", {}, value.slice(0, 12)));
        if (column.text)
          return make(
            "td",
            { class: `text${value === "diverged" ? " bad" : ""}` },
            value === null ? "" : String(value),
          );
        if (!finite(value)) return make("td", { class: "none" }, "–");
        return make("td", { class: column.key === "nonfinite" && value > 0 ? "bad" : "" }, show(value, column.kind));
      }),
    ),
  );
  for (const model of view().models) {
    for (const seed of model.missing_seeds)
      lines.push(
        make(
          "tr",
          { class: "absent" },
          make("td", { class: "text" }, model.name),
          make("td", {}, String(seed)),
          make("td", { class: "text", colspan: RUN_COLUMNS.length - 2 }, "not run yet"),
        ),
      );
  }
  $("runs").tBodies[0].replaceChildren(...lines);
}

// Data, recipe and machines.
import { plural, whole } from "./format.js";
import { $, make, payload, view } from "./page.js";

function facts(list, pairs) {
  list.replaceChildren(
    ...pairs.flatMap(([name, value]) => [
      make("dt", {}, name),
      make("dd", {}, value instanceof Node ? value : String(value)),
    ]),
  );
}

export function drawFacts() {
  const now = view(),
    hash = (text) => make("code", {}, text);
  facts($("data-facts"), [
    ["data", now.data],
    ["vertices", whole(now.num_vertices)],
    ["millimetres per unit", String(now.to_mm)],
    ["data hash", hash(now.data_hash)],
    ["split", now.split],
    ["split hash", hash(now.split_hash)],
    ["meshes", `${whole(now.num_train)} training, ${whole(now.num_val)} validation, ${whole(now.num_test)} test`],
  ]);
  const recipe = Object.entries(now.recipe || {}).map(([key, value]) => [
    key.replaceAll("_", " "),
    value !== null && typeof value === "object"
      ? JSON.stringify(value)
          .replaceAll('"', "")
          .replace(/^[{[]|[}\]]$/g, "")
          .replaceAll(",", ", ")
          .replaceAll(":", ": ")
      : value === null
        ? "–"
        : String(value),
  ]);
  facts($("recipe"), [...recipe, ["recipe hash", now.recipe_hash ? hash(now.recipe_hash) : "only linear models here"]]);
}

export function drawMachines() {
  const heads = ["runs", "machine", "threads", "torch", "python", "polygraph", "commit"];
  const table = $("machines");
  table.replaceChildren(
    make(
      "thead",
      {},
      make(
        "tr",
        {},
        ...heads.map((head) => make("th", { class: head === "runs" || head === "threads" ? "" : "text" }, head)),
      ),
    ),
    make(
      "tbody",
      {},
      ...payload.machines.map((machine) =>
        make(
          "tr",
          {},
          ...heads.map((head) => {
            const value = machine[head] === null ? "–" : String(machine[head]);
            return make(
              "td",
              { class: head === "runs" || head === "threads" ? "" : "text" },
              head === "commit" ? make("code", {}, value) : value,
            );
          }),
        ),
      ),
    ),
  );
  const diverged = payload.num_diverged ? `, ${payload.num_diverged} diverged` : "";
  const written = `written ${payload.made} by polygraph ${payload.polygraph}`;
  $("foot").textContent = `${payload.grid} · ${plural(payload.num_runs, "run")}${diverged} · ${written}`;
}

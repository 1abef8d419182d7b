// Draws everything, and listens to the controls.
import { drawCumulative, drawLegend } from "./charts.js";
import { drawFacts, drawMachines } from "./facts.js";
import { finite } from "./format.js";
import { drawMeshes, drawMeshSection, drawRamp, step } from "./mesh_section.js";
import { drawOrder } from "./order_chart.js";
import { $, make, payload, state } from "./page.js";
import { drawRuns, drawTable } from "./tables.js";
import { drawTime, drawTradeoff, TIMES } from "./tradeoff_chart.js";
import { drawCoverage, drawLead, drawViews } from "./views.js";

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
$("time-key").addEventListener("change", (event) => {
  state.time = event.target.value;
  drawTime();
});
$("slider").addEventListener("input", (event) => {
  state.sample = Number(event.target.value);
  drawMeshes();
});
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("home").addEventListener("click", () => {
  state.camera = null;
  drawMeshes();
});
document.addEventListener("viewchange", draw);
drawRamp();
drawMachines();
draw();
document.documentElement.dataset.ready = "true";

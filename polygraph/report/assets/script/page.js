// What all parts share: the payload, what is chosen, elements.

export const payload = JSON.parse(document.getElementById("payload").textContent);
export const $ = (id) => document.getElementById(id);
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const FONT = style("--sans");
export const [INK, SOFT, GRID, FRAME] = ["--ink", "--soft", "--grid", "--frame"].map(style);
export const FAMILY = payload.families;
export const state = {
  view: 0,
  sort: ["mean_mm", 1],
  runSort: ["mean_mm", 1],
  time: "inference_1_ms",
  sample: 0,
  shown: null,
  camera: null,
};
export const view = () => payload.views[state.view];

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

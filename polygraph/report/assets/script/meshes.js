// Meshes as they are sent, and as plotly draws them.
import { payload, state, view } from "./page.js";

function decode(text, type) {
  const raw = atob(text),
    bytes = new Uint8Array(raw.length);
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
    const all = decode(stage.faces, stage.wide ? Uint32Array : Uint16Array),
      out = [[], [], []];
    for (const [position, index] of all.entries()) out[position % 3].push(index);
    return out;
  });
}

export function inputMesh(stage) {
  const raw = decode(stage.inputs[state.sample], Int16Array);
  return Float32Array.from(raw, (value) => value * stage.step);
}

export function reconstruction(stage, frame) {
  const base = inputMesh(stage),
    moved = decode(frame.moved, Int8Array),
    codes = decode(frame.errors, Uint8Array);
  const vertices = base.map((value, i) => value + moved[i] * frame.step);
  const errors = Float32Array.from(codes, (code) => (code === 255 ? Infinity : (code / 254) ** 2 * frame.top));
  return { vertices, errors };
}

export function columns(vertices) {
  const out = [[], [], []];
  for (const [position, value] of vertices.entries()) out[position % 3].push(value);
  return out;
}

export const COLORSCALE = payload.colors.map((color, i) => [i / (payload.colors.length - 1), color]);

export function trace(stage, vertices, errors, limit) {
  const [x, y, z] = columns(vertices),
    [i, j, k] = faces(stage);
  const mesh = {
    type: "mesh3d",
    x,
    y,
    z,
    i,
    j,
    k,
    hoverinfo: "skip",
    flatshading: false,
    showscale: false,
    lighting: {
      ambient: 0.55,
      diffuse: 0.75,
      specular: 0.12,
      roughness: 0.7,
      fresnel: 0.1,
      vertexnormalsepsilon: 0,
      facenormalsepsilon: 0,
    },
    lightposition: { x: -2000, y: -4000, z: 5000 },
  };
  if (errors === null) return { ...mesh, color: "#b9c4d2" };
  // A vertex that is not finite is black, a colour that the scale does not have.
  const colors = [...errors].map((e) => (Number.isFinite(e) ? Math.min(e / limit, 1) : 2));
  if (colors.some((c) => c === 2)) {
    const scale = [...COLORSCALE.map(([t, c]) => [t * 0.9, c]), [0.9001, "#000"], [1, "#000"]];
    return {
      ...mesh,
      intensity: colors.map((c) => (c === 2 ? 1 : 0.9 * c)),
      cmin: 0,
      cmax: 1,
      colorscale: scale,
      hoverinfo: "none",
    };
  }
  return { ...mesh, intensity: colors, cmin: 0, cmax: 1, colorscale: COLORSCALE };
}

export function sceneLayout(stage) {
  const reach = stage.reach.map((value) => 1.04 * value),
    longest = Math.max(...reach);
  const axis = (n) => ({ visible: false, range: [-reach[n], reach[n]], showspikes: false });
  const ratio = reach.map((value) => value / longest);
  const tall = ratio[2] > ratio[0];
  return {
    margin: { l: 0, r: 0, t: 0, b: 0 },
    paper_bgcolor: "rgba(0,0,0,0)",
    showlegend: false,
    scene: {
      xaxis: axis(0),
      yaxis: axis(1),
      zaxis: axis(2),
      aspectmode: "manual",
      aspectratio: { x: ratio[0], y: ratio[1], z: ratio[2] },
      dragmode: "orbit",
      camera: structuredClone(state.camera || home(tall)),
    },
  };
}

function home(tall) {
  return {
    eye: tall ? { x: -0.42, y: -1.12, z: 0.26 } : { x: -0.55, y: -1.5, z: 0.35 },
    center: { x: 0, y: 0, z: 0 },
    up: { x: 0, y: 0, z: 1 },
    projection: { type: "perspective" },
  };
}

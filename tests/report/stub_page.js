// A page without a browser: elements remember what they are given, plotly what it shall draw.
const fs = require("node:fs");
const [, , scriptPath, payloadPath] = process.argv;

class Element {
  constructor(tag) {
    Object.assign(this, { tag, children: [], style: {}, dataset: {}, attributes: {}, textContent: "" });
    if (tag === "table") Object.assign(this, { tHead: new Element("thead"), tBodies: [new Element("tbody")] });
  }
  append(...children) {
    this.children.push(...children);
  }
  replaceChildren(...children) {
    this.children = children;
  }
  setAttribute(name, value) {
    this.attributes[name] = value;
  }
  addEventListener() {}
  querySelectorAll() {
    return [];
  }
  getContext() {
    return { createLinearGradient: () => ({ addColorStop() {} }), fillRect() {} };
  }
  get text() {
    return this.textContent || this.children.map((c) => (typeof c === "string" ? c : c.text)).join("");
  }
}

const elements = {};
const charts = {};
global.Node = Element;
global.Event = class {};
global.IntersectionObserver = class {
  observe() {}
};
global.getComputedStyle = () => ({ getPropertyValue: () => "#123456" });
global.document = {
  documentElement: new Element("html"),
  createElement: (tag) => new Element(tag),
  getElementById(id) {
    elements[id] ||= new Element(["table", "runs", "machines"].includes(id) ? "table" : "div");
    return elements[id];
  },
  querySelectorAll: () => [],
  addEventListener() {},
  dispatchEvent() {},
};
global.Plotly = {
  react: (id, traces, layout) => {
    charts[id] = { traces, layout };
  },
};
document.getElementById("payload").textContent = fs.readFileSync(payloadPath, "utf8");
// biome-ignore lint/security/noGlobalEval: the page's own script, in the place of a browser
(0, eval)(fs.readFileSync(scriptPath, "utf8"));
const texts = Object.fromEntries(Object.entries(elements).map(([id, element]) => [id, element.text]));
delete texts.payload;
process.stdout.write(JSON.stringify({ charts, texts, ready: document.documentElement.dataset.ready }));

"use strict";
// Colours: a palette is a function from [0, 1] to packed RGBA, a table holds one colour per code.
const parse = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const pack = (r, g, b) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
const table = (colour) => Uint32Array.from({ length: 256 }, (_, code) => colour(code));
const palette = (stops) => (t) => {
  const x = Math.min(Math.max(t, 0), 1) * (stops.length - 1), k = Math.min(Math.floor(x), stops.length - 2);
  return pack(...stops[k].map((c, i) => Math.round(c + (x - k) * (stops[k + 1][i] - c))));
};

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
async function copy(button) {
  const line = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(line.textContent);
  } catch {
    getSelection().selectAllChildren(line);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}
function element(tag, name = "", text = "") {
  return Object.assign(document.createElement(tag), { className: name, textContent: text });
}

const find = (selector) => document.querySelector(selector);
for (const button of document.querySelectorAll(".copy")) button.onclick = () => copy(button);
const checked = (name) => find(`[name=${name}]:checked`).value;
const mm = (value) => `${Number(value.toPrecision(3))} mm`;
// Three digits and no powers of ten.
function short(value, unit = "") {
  if (value === null || value === undefined) return "";
  const text = value === 0 ? "0" : Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3, useGrouping: false });
  return unit === "°" ? `${text}°` : unit ? `${text} ${unit}` : text;
}

// The planes to show: three of a volume, and of a slice its own one, whose axes are the first two.
function planesOf({ size, axes, dimension }) {
  const planes = {
    axial: { axis: 2, across: 0, down: 1, up: false, edges: "RLAP", letters: "SI" },
    coronal: { axis: 1, across: 0, down: 2, up: true, edges: "RLSI", letters: "PA" },
    sagittal: { axis: 0, across: 1, down: 2, up: true, edges: "APSI", letters: "LR" },
  };
  if (size[2] > 1) return planes;
  const flat = { axis: 2, across: 0, down: 1 };
  if (dimension === 2) return { image: { ...flat, up: false, edges: "    ", letters: "  " } };
  const normal = [2, 5, 8].map((k) => Math.abs(axes[k]));
  const name = ["sagittal", "coronal", "axial"][normal.indexOf(Math.max(...normal))];
  return { [name]: { ...planes[name], ...flat } };
}

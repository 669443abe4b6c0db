const HEIGHT = 66, REACH = 9; // px; of a plot, of the pointer

function middle(sorted) {
  const k = sorted.length >> 1;
  return sorted.length % 2 ? sorted[k] : (sorted[k - 1] + sorted[k]) / 2;
}

// A plot of one measure: dots in stacks along the scale on which the pairs are compared.
class Plot {
  constructor(column, k, { rows, one }, choose) {
    this.column = column;
    this.known = rows.filter((row) => row.values[k] !== null).sort((a, b) => a.values[k] - b.values[k]);
    this.k = k;
    this.at = -1; // of `known`: under the pointer or the keys
    this.radius = this.known.length > 300 ? 2 : this.known.length > 60 ? 2.6 : 3.4; // px, of a dot
    this.median = middle(this.known.map((row) => row.values[k]));
    this.card = element("div", "plot");
    this.readout = element("span", "value");
    const head = element("div", "head");
    head.append(element("h3", "", column.name), this.readout);
    this.canvas = element("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${column.name} of ${this.known.length} ${one}s, median ${this.text(this.median)}`);
    const ends = element("div", "ticks");
    const [low, high] = [this.known[0], this.known[this.known.length - 1]].map((row) => this.text(row.values[k]));
    ends.append(element("span", "", low), element("span", "", low === high ? "" : high));
    this.card.append(head, this.canvas, ends);
    this.listen(choose);
    this.tell();
  }
  text(value) { return short(value, this.column.unit); }
  listen(choose) {
    const { canvas } = this;
    canvas.onpointermove = (event) => this.hover(this.nearest(event));
    canvas.onpointerleave = () => this.hover(-1);
    canvas.onblur = () => this.hover(-1);
    canvas.onclick = (event) => { const n = this.nearest(event); if (n >= 0) choose(this.known[n]); };
    canvas.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key], last = this.known.length - 1;
      if (step) this.hover(this.at < 0 ? (step > 0 ? 0 : last) : Math.min(Math.max(this.at + step, 0), last));
      else if (event.key === "Home" || event.key === "End") this.hover(event.key === "Home" ? 0 : last);
      else if (event.key === "Enter" && this.at >= 0) choose(this.known[this.at]);
      else return;
      event.preventDefault();
    };
  }
  hover(n) {
    if (n === this.at) return;
    this.at = n;
    this.tell();
    this.draw();
  }
  tell() {
    const row = this.known[this.at];
    this.readout.textContent = row ? `${row.id}: ${this.text(row.values[this.k])}` : `median ${this.text(this.median)}`;
    this.canvas.setAttribute("aria-description", row ? this.readout.textContent : "");
    this.canvas.style.cursor = row ? "pointer" : "";
  }
  scale(value) {
    return this.column.start === null ? value : Math.log(Math.max(this.column.start + value, 1e-3));
  }
  // Where the dots lie, px: in bins as wide as a dot, one above the other.
  place(width) {
    const at = this.known.map((row) => this.scale(row.values[this.k]));
    const low = Math.min(at[0], at[at.length - 1]), wide = at[at.length - 1] - low, room = width - 4 * this.radius;
    const bins = Math.max(1, Math.floor(room / (2 * this.radius))), filled = new Map();
    const bin = at.map((v) => (wide ? Math.round(((v - low) / wide) * (bins - 1)) : (bins - 1) / 2));
    const level = bin.map((b) => { filled.set(b, (filled.get(b) || 0) + 1); return filled.get(b) - 1; });
    const step = Math.min(2 * this.radius, (HEIGHT - 4 * this.radius) / Math.max(1, Math.max(...filled.values()) - 1));
    this.x = (value) => 2 * this.radius + (wide ? (this.scale(value) - low) / wide : 0.5) * room;
    this.dots = bin.map((b, n) => [2 * this.radius + (bins > 1 ? (b / (bins - 1)) * room : room / 2), HEIGHT - 2 * this.radius - level[n] * step]);
  }
  nearest(event) {
    let best = -1, least = REACH ** 2;
    const box = this.canvas.getBoundingClientRect();
    this.dots.forEach(([x, y], n) => {
      const away = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (away <= least) [best, least] = [n, away];
    });
    return best;
  }
  draw(state = this.state) {
    const width = this.canvas.clientWidth, ratio = devicePixelRatio;
    this.state = state;
    if (!width || !state) return;
    if (width !== this.width) this.place(width);
    this.width = width;
    Object.assign(this.canvas, { width: width * ratio, height: HEIGHT * ratio });
    const pen = this.canvas.getContext("2d"), { colours, visible, chosen } = state;
    pen.scale(ratio, ratio);
    pen.fillStyle = colours.line;
    pen.fillRect(0, HEIGHT - 1, width, 1);
    const dot = (n, colour, radius, alpha) => {
      pen.globalAlpha = alpha;
      pen.fillStyle = colour;
      pen.beginPath();
      pen.arc(...this.dots[n], radius, 0, 7);
      pen.fill();
    };
    const last = [];
    this.known.forEach((row, n) => {
      if (n === this.at || row === chosen) last.push(n);
      const far = this.k in row.far;
      dot(n, far ? colours.bad : colours.dot, far ? this.radius + 1 : this.radius - 0.3, visible.has(row) ? 0.85 : 0.15);
    });
    pen.globalAlpha = 0.8;
    pen.fillStyle = colours.ink;
    pen.fillRect(this.x(this.median) - 0.5, 0, 1, HEIGHT);
    for (const n of last) { dot(n, colours.sheet, this.radius + 4, 1); dot(n, colours.accent, this.radius + 2.5, 1); }
    pen.globalAlpha = 1;
  }
}

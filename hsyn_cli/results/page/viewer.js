// Slices of volumes, with a crosshair. Volumes are arrays (z, y, x) of bytes on the grid of `data`; x grows to the
// left, y to the back, z to the head. A layer has a title, the colour of voxel i at column u and row v, perhaps lines
// over it (`over`), and `map` if it is no picture. `tell` is called after each drawing.
class Viewer {
  constructor(data, tell) {
    const { size } = data;
    Object.assign(this, { data, size, tell, panels: [], colours: {} });
    this.step = [1, size[0], size[0] * size[1]];
    this.planes = planesOf(data);
    this.middle = size.map((n) => n >> 1);
    this.at = this.middle.slice(); // the crosshair, (x, y, z)
    for (const [name, plane] of Object.entries(this.planes)) {
      const label = element("label"), title = element("span"), output = element("output");
      const slider = Object.assign(element("input"), { type: "range", min: 0, max: size[plane.axis] - 1 });
      slider.setAttribute("aria-label", `${name} slice`);
      slider.oninput = () => { this.at[plane.axis] = Number(slider.value); this.draw(); };
      title.append(`${name} `, output);
      label.append(title, slider);
      find("#sliders").append(label);
      Object.assign(plane, { name, slider, output });
    }
    find("#planes").hidden = Object.keys(this.planes).length === 1;
    addEventListener("resize", () => this.draw());
  }

  // ---- places
  row(plane, v) { return plane.up ? this.size[plane.down] - 1 - v : v; }
  get voxel() { return this.at.reduce((sum, k, axis) => sum + k * this.step[axis], 0); }
  get point() {
    const { origin, axes, spacing } = this.data, { at } = this;
    return [0, 1, 2].map((r) => origin[r] + spacing * (axes[3 * r] * at[0] + axes[3 * r + 1] * at[1] + axes[3 * r + 2] * at[2]));
  }
  get crosshair() {
    const [x, y, z] = this.point.map((v) => v.toFixed(1).replace("-", "−"));
    return `Crosshair: x ${x}, y ${y}, z ${z} mm (LPS)`;
  }
  index(lps) {
    const { origin, axes, spacing } = this.data, d = lps.map((p, r) => (p - origin[r]) / spacing);
    return [0, 1, 2].map((c) => Math.round(axes[c] * d[0] + axes[3 + c] * d[1] + axes[6 + c] * d[2]));
  }
  place(plane) {
    const value = this.point[plane.axis], letter = plane.letters[value < 0 ? 1 : 0];
    return `${letter} ${Math.abs(value).toFixed(1)} mm`;
  }
  go(target) {
    this.at = target.slice();
    this.draw();
  }

  // ---- what is shown: a row for each layer, in the chosen planes
  build(layers) {
    const { size } = this, plane = checked("plane"), rows = find("#rows");
    const shown = Object.values(this.planes).filter((p) => plane === "all" || p.name === plane);
    this.panels = [];
    rows.dataset.count = layers.length;
    rows.classList.toggle("single", shown.length === 1);
    rows.replaceChildren(...layers.map((layer) => {
      const holder = element("div", "row"), heading = element("h3"), canvases = element("div", "planes");
      canvases.style.gridTemplateColumns = shown.map((p) => `minmax(0, ${size[p.across]}fr)`).join(" ");
      for (const p of shown) {
        const canvas = canvases.appendChild(element("canvas", layer.map ? "map" : ""));
        canvas.style.aspectRatio = `${size[p.across]} / ${size[p.down]}`;
        canvas.setAttribute("role", "img");
        canvas.onclick = (event) => this.aim(event, p);
        canvas.onpointermove = (event) => event.pointerType === "mouse" && event.buttons && this.aim(event, p);
        this.panels.push({ canvas, heading, plane: p, layer });
      }
      holder.append(heading, canvases);
      return holder;
    }));
    for (const p of Object.values(this.planes)) p.slider.parentElement.hidden = !shown.includes(p) || size[p.axis] === 1;
    find("#sliders").classList.toggle("one", shown.length === 1);
    this.draw();
  }
  aim(event, plane) {
    const box = event.target.getBoundingClientRect();
    const inside = (share, n) => Math.min(Math.max(Math.floor(share * n), 0), n - 1);
    this.at[plane.across] = inside((event.clientX - box.left) / box.width, this.size[plane.across]);
    this.at[plane.down] = this.row(plane, inside((event.clientY - box.top) / box.height, this.size[plane.down]));
    this.draw();
  }

  // ---- drawing
  draw() {
    if (!this.panels.length) return;
    for (const panel of this.panels) this.paint(panel);
    for (const plane of Object.values(this.planes)) {
      plane.slider.value = this.at[plane.axis];
      plane.output.textContent = this.place(plane);
      plane.slider.setAttribute("aria-valuetext", this.place(plane));
    }
    this.tell();
  }
  paint({ canvas, heading, plane, layer }) {
    const w = this.size[plane.across], scale = (canvas.clientWidth * devicePixelRatio) / w;
    if (!scale) return;
    canvas.width = Math.round(w * scale);
    canvas.height = Math.round(this.size[plane.down] * scale);
    heading.textContent = layer.title();
    canvas.setAttribute("aria-label", `${layer.title()}, ${plane.name}, ${this.place(plane)}`);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.slice(plane, layer.colour()), 0, 0, canvas.width, canvas.height);
    if (layer.over) layer.over(pen, plane, scale);
    if (find("[name=cross]").checked) this.paintCross(pen, plane, scale);
    paintEdges(pen, plane.edges, canvas, layer.map ? [this.colours.ink, this.colours.ground] : ["#fff", "#000"]);
  }
  slice(plane, colour) {
    const w = this.size[plane.across], h = this.size[plane.down];
    const image = new ImageData(w, h), pixels = new Uint32Array(image.data.buffer);
    this.each(plane, (i, u, v) => { pixels[v * w + u] = colour(i, u, v); });
    const canvas = Object.assign(element("canvas"), { width: w, height: h });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }
  // Call for each voxel of the slice through the crosshair: its index, column and row.
  each(plane, call) {
    const { at, size, step } = this;
    for (let v = 0; v < size[plane.down]; v++) {
      let i = at[plane.axis] * step[plane.axis] + this.row(plane, v) * step[plane.down];
      for (let u = 0; u < size[plane.across]; u++, i += step[plane.across]) call(i, u, v);
    }
  }
  paintCross(pen, plane, scale) {
    const { at } = this, gap = 5 * devicePixelRatio;
    const x = (at[plane.across] + 0.5) * scale, y = (this.row(plane, at[plane.down]) + 0.5) * scale;
    pen.strokeStyle = "#3fa7d6";
    pen.lineWidth = devicePixelRatio;
    pen.beginPath();
    for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, 1e5, y], [x, 0, x, y - gap], [x, y + gap, x, 1e5]]) {
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
    }
    pen.stroke();
  }
}

function paintEdges(pen, [left, right, top, bottom], { width, height }, [ink, ground]) {
  const em = 12 * devicePixelRatio;
  pen.font = `600 ${em}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.lineWidth = em / 4;
  pen.strokeStyle = ground;
  pen.fillStyle = ink;
  for (const [letter, x, y] of [[left, em * 0.8, height / 2], [right, width - em * 0.8, height / 2],
    [top, width / 2, em * 0.9], [bottom, width / 2, height - em * 0.8]]) {
    pen.strokeText(letter, x, y);
    pen.fillText(letter, x, y);
  }
}

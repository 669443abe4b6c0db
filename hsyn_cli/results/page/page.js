// Volumes are arrays (z, y, x) of bytes; x grows to the left, y to the back, z to the head.
// `at` is the crosshair, (x, y, z).
(async () => {
  const data = JSON.parse(find("#data").textContent);
  if (typeof DecompressionStream === "undefined") {
    find("#trouble").hidden = false;
    return;
  }

  const { size, spacing, codes } = data;
  const step = [1, size[0], size[0] * size[1]];
  const volume = { determinant: await unpack(data.determinant), error: await unpack(data.error) };
  for (const name in data.images) volume[name] = await unpack(data.images[name]);
  const bend = new Int8Array((await unpack(data.bend)).buffer);
  const planes = planesOf(data);
  const middle = size.map((n) => n >> 1);
  let at = middle.slice(), panels = [], swapped = false, colours;

  // ---- colours: a palette is a function from [0, 1] to packed RGBA, a table one colour per code
  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim(), stops = (name) => value(name).split(/\s+/).map(parse);
    const diverging = palette(stops("--diverging")), sequential = palette(stops("--sequential"));
    colours = { diverging, sequential, folded: value("--folded"), ink: value("--ink"), ground: value("--map") };
    colours.gray = table((code) => pack(code, code, code));
    colours.difference = table((code) => diverging(code / 254));
    colours.determinant = table((code) => diverging((octaves(code) + 2) / 4));
    colours.error = table((code) => (code === codes.nothing ? 0 : sequential(millimetres(code) / data.error_shown)));
  }
  const octaves = (code) => (2 * Math.min(code, codes.top) / codes.top - 1) * codes.octaves;
  const millimetres = (code) => data.error_max * (code / codes.top) ** 2;

  // ---- what can be shown: a layer has a title, the colour of voxel i at column u and row v, perhaps lines over it
  const before = () => (volume.aligned && checked("before") === "aligned" ? "aligned" : "moving");
  const names = () => ({
    fixed: "fixed",
    warped: "warped",
    aligned: `moving, ${data.aligned}`,
    moving: volume.aligned ? "moving, as the files lie" : "moving",
  });
  const picture = (name) => ({ title: () => names()[name], colour: () => gray(name) });
  const gray = (name) => ((bytes, shades) => (i) => shades[bytes[i]])(volume[name], colours.gray);
  const flicker = (a, b) => ({
    title: () => `fixed and ${names()[b]}\nNow: ${names()[swapped ? b : a]}`,
    colour: () => gray(swapped ? b : a),
  });
  const checkerboard = (a, b) => ({
    title: () => `fixed and ${names()[b]}`,
    colour: () => {
      const [one, two] = [gray(a), gray(b)], side = Math.max(...size) / 9;
      return (i, u, v) => ((Math.floor(u / side) + Math.floor(v / side)) % 2 ? two(i) : one(i));
    },
  });
  const difference = (a, b) => ({
    map: true,
    title: () => `${names()[b]}, minus fixed`,
    colour: () => ((x, y, shades) => (i) => shades[(y[i] - x[i] + 255) >> 1])(volume[a], volume[b], colours.difference),
  });
  const coded = (name, title, over) => ({
    map: true,
    title: () => title,
    colour: () => ((bytes, shades) => (i) => shades[bytes[i]])(volume[name], colours[name]),
    over,
  });
  const pair = (kind) => () => [kind("fixed", before()), kind("fixed", "warped")];
  const views = {
    compare: () => ["fixed", before(), "warped"].map(picture),
    flicker: pair(flicker),
    checkerboard: pair(checkerboard),
    difference: pair(difference),
    grid: () => [{ ...picture(volume.aligned ? "aligned" : "moving"), over: drawGrid }],
    jacobian: () => [coded("determinant", "determinant", drawFolds), picture("fixed")],
    error: () => [coded("error", "inverse error"), picture("fixed")],
  };
  const legends = {
    difference: ["diverging", ["fixed brighter", "equal", "other brighter"]],
    jacobian: ["diverging", ["≤ 1/4", "1/2", "1", "2", "≥ 4"]],
    error: ["sequential", ["0", mm(data.error_shown / 2), `≥ ${mm(data.error_shown)}`]],
  };

  // ---- drawing
  const row = (plane, v) => (plane.up ? size[plane.down] - 1 - v : v);
  function slice(plane, colour) {
    const w = size[plane.across], h = size[plane.down];
    const image = new ImageData(w, h), pixels = new Uint32Array(image.data.buffer);
    for (let v = 0, k = 0; v < h; v++) {
      let i = at[plane.axis] * step[plane.axis] + row(plane, v) * step[plane.down];
      for (let u = 0; u < w; u++, k++, i += step[plane.across]) pixels[k] = colour(i, u, v);
    }
    const canvas = Object.assign(document.createElement("canvas"), { width: w, height: h });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  function draw({ canvas, heading, plane, layer }) {
    const w = size[plane.across], scale = (canvas.clientWidth * devicePixelRatio) / w;
    if (!scale) return;
    canvas.width = Math.round(w * scale);
    canvas.height = Math.round(size[plane.down] * scale);
    heading.textContent = layer.title();
    canvas.setAttribute("aria-label", `${layer.title()}, ${plane.name}, ${place(plane)}`);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(slice(plane, layer.colour()), 0, 0, canvas.width, canvas.height);
    if (layer.over) layer.over(pen, plane, scale);
    if (find("[name=cross]").checked) drawCross(pen, plane, scale);
    drawEdges(pen, plane.edges, canvas, layer.map ? [colours.ink, colours.ground] : ["#fff", "#000"]);
  }

  function drawCross(pen, plane, scale) {
    const x = (at[plane.across] + 0.5) * scale, y = (row(plane, at[plane.down]) + 0.5) * scale, gap = 5 * devicePixelRatio;
    pen.strokeStyle = "#3fa7d6";
    pen.lineWidth = devicePixelRatio;
    pen.beginPath();
    for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, 1e5, y], [x, 0, x, y - gap], [x, y + gap, x, 1e5]]) {
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
    }
    pen.stroke();
  }

  function drawEdges(pen, [left, right, top, bottom], { width, height }, [ink, ground]) {
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

  function drawFolds(pen, plane, scale) {
    const side = Math.max(scale, 5 * devicePixelRatio), boxes = [];
    for (let v = 0; v < size[plane.down]; v++) {
      let i = at[plane.axis] * step[plane.axis] + row(plane, v) * step[plane.down];
      for (let u = 0; u < size[plane.across]; u++, i += step[plane.across]) {
        if (volume.determinant[i] === codes.folded) boxes.push([(u + 0.5) * scale - side / 2, (v + 0.5) * scale - side / 2]);
      }
    }
    pen.lineWidth = 3 * devicePixelRatio;
    pen.strokeStyle = "#fff";
    pen.fillStyle = colours.folded;
    for (const [x, y] of boxes) pen.strokeRect(x, y, side, side);
    for (const [x, y] of boxes) pen.fillRect(x, y, side, side);
  }

  function drawGrid(pen, plane, scale) {
    const [bx, by] = data.bend_size, count = bx * by * data.bend_size[2], stride = data.bend_stride;
    const bendStep = [1, bx, bx * by], unit = data.bend_mm / spacing;
    const across = data.bend_size[plane.across], down = data.bend_size[plane.down];
    const every = Math.max(1, Math.round(Math.max(...size) / 26 / stride));
    const level = Math.min(Math.round(at[plane.axis] / stride), data.bend_size[plane.axis] - 1) * bendStep[plane.axis];
    const corner = (u, d) => {
      const i = level + u * bendStep[plane.across] + d * bendStep[plane.down];
      const x = u * stride + bend[plane.across * count + i] * unit;
      const y = d * stride + bend[plane.down * count + i] * unit;
      return [(x + 0.5) * scale, (row(plane, y) + 0.5) * scale];
    };
    pen.strokeStyle = "#ffb000";
    pen.lineWidth = devicePixelRatio;
    pen.lineJoin = "round";
    pen.beginPath();
    for (let d = 0; d < down; d += every) for (let u = 0; u < across; u++) pen[u ? "lineTo" : "moveTo"](...corner(u, d));
    for (let u = 0; u < across; u += every) for (let d = 0; d < down; d++) pen[d ? "lineTo" : "moveTo"](...corner(u, d));
    pen.stroke();
  }

  // ---- places
  const point = () => [0, 1, 2].map((r) => data.origin[r] + spacing * (data.axes[3 * r] * at[0] + data.axes[3 * r + 1] * at[1] + data.axes[3 * r + 2] * at[2]));
  function index(lps) {
    const d = lps.map((p, r) => (p - data.origin[r]) / spacing);
    return [0, 1, 2].map((c) => Math.round(data.axes[c] * d[0] + data.axes[3 + c] * d[1] + data.axes[6 + c] * d[2]));
  }
  function place(plane) {
    const value = point()[plane.axis], letter = plane.letters[value < 0 ? 1 : 0];
    return `${letter} ${Math.abs(value).toFixed(1)} mm`;
  }
  function telling() {
    const i = at[0] * step[0] + at[1] * step[1] + at[2] * step[2];
    const det = volume.determinant[i], error = volume.error[i];
    const factor = det === codes.folded ? "folds" : (2 ** octaves(det)).toFixed(2);
    const exact = error === codes.nothing ? "not measured" : mm(millimetres(error));
    const [x, y, z] = point().map((v) => v.toFixed(1).replace("-", "−"));
    return `Crosshair: x ${x}, y ${y}, z ${z} mm (LPS); determinant ${factor}; inverse error ${exact}`;
  }

  // ---- state and controls
  function build() {
    const layers = views[checked("view")](), plane = checked("plane");
    const shown = Object.values(planes).filter((p) => plane === "all" || p.name === plane);
    const rows = find("#rows");
    panels = [];
    rows.dataset.count = layers.length;
    rows.classList.toggle("single", shown.length === 1);
    rows.replaceChildren(...layers.map((layer) => {
      const holder = element("div", "row"), heading = element("h3"), canvases = element("div", "planes");
      canvases.style.gridTemplateColumns = shown.map((p) => `minmax(0, ${size[p.across]}fr)`).join(" ");
      for (const p of shown) {
        const canvas = canvases.appendChild(element("canvas", layer.map ? "map" : ""));
        canvas.style.aspectRatio = `${size[p.across]} / ${size[p.down]}`;
        canvas.setAttribute("role", "img");
        canvas.onclick = (event) => aim(event, p);
        canvas.onpointermove = (event) => event.pointerType === "mouse" && event.buttons && aim(event, p);
        panels.push({ canvas, heading, plane: p, layer });
      }
      holder.append(heading, canvases);
      return holder;
    }));
    for (const caption of document.querySelectorAll("[data-for]")) caption.hidden = caption.dataset.for !== checked("view");
    for (const p of Object.values(planes)) p.slider.parentElement.hidden = !shown.includes(p) || size[p.axis] === 1;
    find("#sliders").classList.toggle("one", shown.length === 1);
    find("#flip").hidden = checked("view") !== "flicker";
    find("#before").hidden = !volume.aligned || ["grid", "jacobian", "error"].includes(checked("view"));
    showLegend(legends[checked("view")]);
    history.replaceState(null, "", `#${checked("view")}`);
    drawAll();
  }
  function drawAll() {
    panels.forEach(draw);
    for (const plane of Object.values(planes)) {
      plane.slider.value = at[plane.axis];
      plane.output.textContent = place(plane);
      plane.slider.setAttribute("aria-valuetext", place(plane));
    }
    find("#readout").textContent = telling();
  }
  function showLegend(legend) {
    find("#legend").hidden = !legend;
    if (!legend) return;
    const canvas = find("#legend canvas"), image = new ImageData(canvas.width, 1), pixels = new Uint32Array(image.data.buffer);
    pixels.forEach((_, k) => { pixels[k] = colours[legend[0]](k / (canvas.width - 1)); });
    canvas.getContext("2d").putImageData(image, 0, 0);
    find("#legend .ticks").replaceChildren(...legend[1].map((text) => Object.assign(element("span"), { textContent: text })));
  }
  function aim(event, plane) {
    const box = event.target.getBoundingClientRect();
    const inside = (share, n) => Math.min(Math.max(Math.floor(share * n), 0), n - 1);
    at[plane.across] = inside((event.clientX - box.left) / box.width, size[plane.across]);
    at[plane.down] = row(plane, inside((event.clientY - box.top) / box.height, size[plane.down]));
    drawAll();
  }
  function jump(id, target) {
    const button = find(id);
    button.hidden = !target || target.some((k, axis) => k < 0 || k >= size[axis]);
    button.onclick = () => { at = target.slice(); drawAll(); };
  }
  function largestError() {
    let best = -1;
    volume.error.forEach((code, i) => { if (code !== codes.nothing && (best < 0 || code > volume.error[best])) best = i; });
    return best < 0 ? null : [best % size[0], Math.floor(best / step[1]) % size[1], Math.floor(best / step[2])];
  }

  for (const [name, plane] of Object.entries(planes)) {
    const label = element("label"), title = element("span"), output = element("output");
    const slider = Object.assign(element("input"), { type: "range", min: 0, max: size[plane.axis] - 1 });
    slider.setAttribute("aria-label", `${name} slice`);
    slider.oninput = () => { at[plane.axis] = Number(slider.value); drawAll(); };
    title.append(`${name} `, output);
    label.append(title, slider);
    find("#sliders").append(label);
    Object.assign(plane, { name, slider, output });
  }
  find("#planes").hidden = Object.keys(planes).length === 1;
  find("#aligned-name").textContent = data.aligned;
  jump("#to-lowest", data.lowest && index(data.lowest));
  jump("#to-largest", largestError());
  jump("#to-middle", middle);

  const hold = find("#flip");
  let held = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const swap = () => { swapped = !swapped; if (checked("view") === "flicker") drawAll(); };
  const showHold = () => { hold.textContent = held ? "Flicker" : "Hold"; hold.setAttribute("aria-pressed", held); };
  hold.onclick = () => { held = !held; showHold(); };
  showHold();
  setInterval(() => { if (!held && checked("view") === "flicker") swap(); }, 700);

  const form = find("#viewer");
  form.onsubmit = (event) => event.preventDefault();
  form.onchange = (event) => { if (event.target.type === "radio") build(); else drawAll(); };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const view = Object.keys(views)[Number(event.key) - 1];
    if (view) { choose(view); build(); }
    if (event.key === "x" && checked("view") === "flicker") { held = true; showHold(); swap(); }
  });
  addEventListener("resize", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); build(); });
  if (location.hash.slice(1) in views) choose(location.hash.slice(1));
  form.hidden = false;
  readColours(); build();
  document.documentElement.dataset.ready = "yes";
})();

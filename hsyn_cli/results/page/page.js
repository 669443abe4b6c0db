(async () => {
  const data = JSON.parse(find("#data").textContent);
  if (typeof DecompressionStream === "undefined") {
    find("#trouble").hidden = false;
    return;
  }

  const { size, spacing, codes } = data;
  const viewer = new Viewer(data, () => { find("#readout").textContent = telling(); }), { step } = viewer;
  const volume = { determinant: await unpack(data.determinant), error: await unpack(data.error) };
  for (const name in data.images) volume[name] = await unpack(data.images[name]);
  const bend = new Int8Array((await unpack(data.bend)).buffer);
  const row = (plane, v) => viewer.row(plane, v);
  let swapped = false, colours;

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim(), stops = (name) => value(name).split(/\s+/).map(parse);
    const diverging = palette(stops("--diverging")), sequential = palette(stops("--sequential"));
    colours = { diverging, sequential, folded: value("--folded"), ink: value("--ink"), ground: value("--map") };
    viewer.colours = colours;
    colours.gray = table((code) => pack(code, code, code));
    colours.difference = table((code) => diverging(code / 254));
    colours.determinant = table((code) => diverging((octaves(code) + 2) / 4));
    colours.error = table((code) => (code === codes.nothing ? 0 : sequential(millimetres(code) / data.error_shown)));
  }
  const octaves = (code) => (2 * Math.min(code, codes.top) / codes.top - 1) * codes.octaves;
  const millimetres = (code) => data.error_max * (code / codes.top) ** 2;

  // ---- what can be shown: layers, see Viewer
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

  // ---- lines over the slices
  function drawFolds(pen, plane, scale) {
    const side = Math.max(scale, 5 * devicePixelRatio), boxes = [];
    viewer.each(plane, (i, u, v) => {
      if (volume.determinant[i] === codes.folded) boxes.push([(u + 0.5) * scale - side / 2, (v + 0.5) * scale - side / 2]);
    });
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
    const level = Math.min(Math.round(viewer.at[plane.axis] / stride), data.bend_size[plane.axis] - 1) * bendStep[plane.axis];
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

  function telling() {
    const i = viewer.voxel, det = volume.determinant[i], error = volume.error[i];
    const factor = det === codes.folded ? "folds" : (2 ** octaves(det)).toFixed(2);
    const exact = error === codes.nothing ? "not measured" : mm(millimetres(error));
    return `${viewer.crosshair}; determinant ${factor}; inverse error ${exact}`;
  }

  // ---- state and controls
  const choose = (view) => { find(`[name=view][value=${view}]`).checked = true; };
  function build() {
    for (const caption of document.querySelectorAll("[data-for]")) caption.hidden = caption.dataset.for !== checked("view");
    find("#flip").hidden = checked("view") !== "flicker";
    find("#before").hidden = !volume.aligned || ["grid", "jacobian", "error"].includes(checked("view"));
    showLegend(legends[checked("view")]);
    history.replaceState(null, "", `#${checked("view")}`);
    viewer.build(views[checked("view")]());
  }
  function showLegend(legend) {
    find("#legend").hidden = !legend;
    if (!legend) return;
    const canvas = find("#legend canvas"), image = new ImageData(canvas.width, 1), pixels = new Uint32Array(image.data.buffer);
    pixels.forEach((_, k) => { pixels[k] = colours[legend[0]](k / (canvas.width - 1)); });
    canvas.getContext("2d").putImageData(image, 0, 0);
    find("#legend .ticks").replaceChildren(...legend[1].map((text) => Object.assign(element("span"), { textContent: text })));
  }
  function jump(id, target) {
    const button = find(id);
    button.hidden = !target || target.some((k, axis) => k < 0 || k >= size[axis]);
    button.onclick = () => viewer.go(target);
  }
  function largestError() {
    let best = -1;
    volume.error.forEach((code, i) => { if (code !== codes.nothing && (best < 0 || code > volume.error[best])) best = i; });
    return best < 0 ? null : [best % size[0], Math.floor(best / step[1]) % size[1], Math.floor(best / step[2])];
  }

  find("#aligned-name").textContent = data.aligned;
  jump("#to-lowest", data.lowest && viewer.index(data.lowest));
  jump("#to-largest", largestError());
  jump("#to-middle", viewer.middle);

  const hold = find("#flip");
  let held = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const swap = () => { swapped = !swapped; if (checked("view") === "flicker") viewer.draw(); };
  const showHold = () => { hold.textContent = held ? "Flicker" : "Hold"; hold.setAttribute("aria-pressed", held); };
  hold.onclick = () => { held = !held; showHold(); };
  showHold();
  setInterval(() => { if (!held && checked("view") === "flicker") swap(); }, 700);

  const form = find("#viewer");
  form.onsubmit = (event) => event.preventDefault();
  form.onchange = (event) => { if (event.target.type === "radio") build(); else viewer.draw(); };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const view = Object.keys(views)[Number(event.key) - 1];
    if (view) { choose(view); build(); }
    if (event.key === "x" && checked("view") === "flicker") { held = true; showHold(); swap(); }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); build(); });
  if (location.hash.slice(1) in views) choose(location.hash.slice(1));
  form.hidden = false;
  readColours(); build();
  document.documentElement.dataset.ready = "yes";
})();

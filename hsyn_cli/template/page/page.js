const INSIDE = 128; // of the mask's bytes, 0 to 255
(async () => {
  const { list, volumes } = JSON.parse(find("#data").textContent), done = () => { document.documentElement.dataset.ready = "yes"; };
  showList(list);
  if (typeof DecompressionStream === "undefined") {
    find("#trouble").hidden = false;
    return done();
  }

  const shades = table((code) => pack(code, code, code)), count = volumes.images.length;
  const images = await Promise.all(volumes.images.map(unpack)), mask = await unpack(volumes.mask);
  const viewer = new Viewer(volumes, () => { find("#readout").textContent = telling(); });
  const layers = images.map((bytes, k) => ({
    title: () => (count > 1 ? `channel ${k + 1}` : "template"),
    colour: () => (i) => shades[bytes[i]],
    over: (pen, plane, scale) => find("[name=outline]").checked && outline(pen, plane, scale),
  }));

  function telling() {
    const grey = images.map((bytes, k) => {
      const [low, high] = volumes.windows[k];
      return short(low + (bytes[viewer.voxel] / 255) * (high - low));
    });
    return `${viewer.crosshair}; grey value ${grey.join(", ")}`;
  }
  // Where the mask crosses INSIDE, by marching squares over the middles of the pixels.
  function outline(pen, plane, scale) {
    const w = viewer.size[plane.across], h = viewer.size[plane.down], values = new Uint8Array(w * h);
    viewer.each(plane, (i, u, v) => { values[v * w + u] = mask[i]; });
    pen.strokeStyle = "#ffb000";
    pen.lineWidth = 1.5 * devicePixelRatio;
    pen.beginPath();
    for (let v = 0; v < h - 1; v++) for (let u = 0; u < w - 1; u++) {
      const corners = [[u, v], [u + 1, v], [u + 1, v + 1], [u, v + 1]];
      const at = corners.map(([x, y]) => values[y * w + x]), ends = [];
      for (let k = 0; k < 4; k++) {
        const next = (k + 1) % 4, [a, b] = [at[k], at[next]], share = (INSIDE - a) / (b - a);
        if (a >= INSIDE !== b >= INSIDE) ends.push(corners[k].map((x, axis) => (x + 0.5 + share * (corners[next][axis] - x)) * scale));
      }
      ends.forEach((end, k) => pen[k % 2 ? "lineTo" : "moveTo"](...end));
    }
    pen.stroke();
  }

  const chosen = () => (count === 1 || checked("channel") === "all" ? layers : [layers[checked("channel") - 1]]);
  const build = () => viewer.build(chosen()), form = find("#viewer");
  form.onsubmit = (event) => event.preventDefault();
  form.onchange = (event) => { if (event.target.type === "radio") build(); else viewer.draw(); };
  find("#to-middle").onclick = () => viewer.go(viewer.middle);
  form.hidden = false;
  build();
  done();
})();

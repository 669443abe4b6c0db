// Show the table and the plots of `data`; see lists.py.
// `state`: which rows the filter leaves, and which one is chosen.
function showList(data) {
  const { columns, rows } = data;
  rows.forEach((row, k) => {
    row.index = k;
    row.words = [row.id, row.files, row.note, row.warnings].join("\n").toLowerCase();
  });
  const state = { visible: new Set(rows), chosen: null, colours: {} };
  const table = new Table(data, choose);
  const plots = columns.map((column, k) => new Plot(column, k, data, choose));

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["line", "ink", "bad", "accent", "sheet", "dot"]) state.colours[name] = style.getPropertyValue(`--${name}`).trim();
  }
  const drawAll = () => plots.forEach((plot) => plot.draw(state));

  // ---- what to show
  const kinds = { all: () => true, "stands out": (row) => Object.keys(row.far).length > 0 };
  for (const name of ["done", "doubtful", "failed", "running", "waiting"]) kinds[name] = (row) => row.state === name;
  kinds["not in the last list"] = (row) => !row.listed;
  for (const [name, fits] of Object.entries(kinds)) {
    const count = rows.filter(fits).length, label = element("label");
    if (name !== "all" && (!count || (count === rows.length && name !== "stands out"))) continue;
    const input = Object.assign(element("input"), { type: "radio", name: "state", value: name, checked: name === "all" });
    label.append(input, element("span", "", `${name} ${count}`));
    find("#states").append(label);
  }
  find("#states").hidden = find("#states").querySelectorAll("input").length < 2;
  function filter() {
    const words = find("#find").value.toLowerCase().split(/\s+/), fits = kinds[find("[name=state]:checked").value];
    const left = rows.filter((row) => fits(row) && words.every((word) => row.words.includes(word)));
    state.visible = new Set(left);
    find("#count").textContent = left.length === rows.length ? "" : `${left.length} of ${rows.length} ${data.one}s`;
    table.show(left);
    drawAll();
  }

  // ---- the chosen one
  function choose(row) {
    state.chosen = row;
    table.mark(row);
    drawAll();
    const panel = find("#chosen"), text = element("div", "text"), buttons = element("div", "buttons");
    panel.hidden = !row;
    document.body.classList.toggle("choosing", Boolean(row));
    if (!row) return;
    text.append(element("strong", "", row.id), element("span", `mark ${row.state}`, row.state));
    text.append(element("p", "files", row.files));
    if (row.why.length) text.append(element("p", "why", row.why.join("; ")));
    if (row.warnings) text.append(element("p", "why", `Warnings: ${row.warnings}`));
    if (row.page) buttons.append(Object.assign(element("a", "open", data.open), { href: row.page }));
    const button = (name, work) => buttons.append(Object.assign(element("button", "", name), { type: "button", onclick: work }));
    button("Show in table", () => show(row));
    button("Close", () => choose(null));
    panel.replaceChildren(...(row.picture ? [table.picture(row)] : []), text, buttons);
  }
  function show(row) {
    if (!table.reveal(row)) {
      find("#find").value = "";
      find("[name=state][value=all]").checked = true;
      filter();
      table.reveal(row);
    }
    find("#all").scrollIntoView({ block: "start" });
    table.scroller.focus({ preventScroll: true });
  }

  // ---- those to look at first: their pictures and links
  for (const button of document.querySelectorAll("button[data-row]")) {
    const row = rows[Number(button.dataset.row)], name = element("p", "name");
    button.onclick = () => choose(row);
    button.setAttribute("aria-label", `Choose ${row.id}`);
    button.replaceChildren(row.picture ? table.picture(row) : element("span", "hush", "no picture"));
    name.append(row.page ? Object.assign(element("a", "", row.id), { href: row.page }) : row.id, element("span", `mark ${row.state}`, row.state));
    button.after(name);
  }

  find("#plots .plots").append(...plots.map((plot) => plot.card));
  find("#plots").hidden = !plots.length;
  find("#all").hidden = !rows.length;
  find("#filter").onsubmit = (event) => event.preventDefault();
  find("#find").oninput = filter;
  find("#states").onchange = filter;
  addEventListener("keydown", (event) => { if (event.key === "Escape" && state.chosen) choose(null); });
  addEventListener("resize", () => { drawAll(); table.build(); table.edge(); });
  addEventListener("beforeprint", () => table.build(true, true));
  addEventListener("afterprint", () => table.build(true));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); drawAll(); });
  readColours();
  filter();
  table.edge();
}

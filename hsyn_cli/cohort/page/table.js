// The table: only the rows in view are built.
const BEYOND = 8; // rows built above and below the view
const collator = new Intl.Collator("en", { numeric: true });

class Table {
  constructor({ columns, rows, one, sort }, choose) {
    this.rows = rows;
    this.one = one;
    this.choose = choose;
    this.view = rows;
    this.scroller = find("#scroller");
    this.body = find("#table tbody");
    this.rank = { name: "rank", width: 4.4, value: (row) => (row.rank === null ? Infinity : row.rank), show: (row) => (row.rank === null ? "" : `${row.rank + 1}`) };
    this.columns = this.all(columns);
    const first = this.columns.find((column) => sort && column.key === sort);
    this.sorted = first ? { column: first, down: first.down } : { column: this.rank, down: false };
    this.head();
    this.scroller.onscroll = () => { this.build(); this.edge(); };
    this.scroller.onkeydown = (event) => this.key(event);
    this.body.onclick = (event) => {
      const line = event.target.closest("tr[data-row]");
      if (line && !event.target.closest("a")) choose(this.rows[Number(line.dataset.row)]);
    };
  }
  // Each column: how its cells look, and by what they sort. `down`: the first click sorts so.
  all(columns) {
    const clipped = (get) => (row) => element("div", "clip", get(row)); // a row keeps its height
    const text = (name, width, get) => ({ name, width, value: get, show: clipped(get), className: "text" });
    const number = (name, unit, value, more = {}) => ({ name, unit, width: 6.9, value, show: (row) => short(value(row)), ...more });
    const measures = columns.map((column, k) => number(column.name, column.unit, (row) => row.values[k], {
      key: column.key, down: column.bad !== "low", far: (row) => row.far[k],
    }));
    const rows = this.rows, some = (get) => rows.some(get);
    return [
      some((row) => row.picture) && { name: "picture", width: 10.5, show: (row) => this.picture(row), className: "picture" },
      { name: this.one, width: Math.min(Math.max(...rows.map((row) => row.id.length), 8) * 0.55 + 1.6, 14), value: (row) => row.id, show: (row) => this.link(row), className: "id", title: (row) => row.files },
      some((row) => row.rank !== null) && this.rank,
      { ...text("state", 5.4, (row) => row.state), mark: (row) => row.state },
      some((row) => row.note) && { ...text("problem", 16, (row) => row.note), title: (row) => row.note, className: "text note" },
      some((row) => row.warnings) && { ...text("warnings", 16, (row) => row.warnings), title: (row) => row.warnings, className: "text note" },
      some((row) => !row.listed) && text("list", 6, (row) => row.listed ? "" : "not in the last list"),
      some((row) => row.most !== null) && number("deviations", "", (row) => row.most, { down: true, width: 6 }),
      ...measures,
      some((row) => Object.keys(row.lesions).length) && text("lesions, volume factor", 9, (row) => Object.entries(row.lesions).map(([role, v]) => `${role} ${v}`).join(", ")),
      some((row) => row.kind) && text("similarity measure", 7, (row) => row.kind),
      some((row) => row.attempts !== null) && number("attempts", "", (row) => row.attempts, { down: true }),
    ].filter(Boolean);
  }
  picture(row) {
    if (!row.picture) return "";
    return Object.assign(element("img"), { src: row.picture, alt: "", decoding: "async" });
  }
  link(row) {
    return row.page ? Object.assign(element("a", "", row.id), { href: row.page, tabIndex: -1 }) : row.id;
  }
  head() {
    const line = find("#table thead tr"), widths = find("#table colgroup");
    for (const column of this.columns) {
      widths.append(Object.assign(element("col"), { style: `width: ${column.width}rem` }));
      const cell = element("th", column.className || "");
      cell.scope = "col";
      if (column.value) {
        const button = element("button", "", column.name);
        if (column.unit) button.append(" ", element("small", "", column.unit));
        button.type = "button";
        button.onclick = () => this.sort(column);
        cell.append(button);
      } else cell.append(element("span", "hush", column.name));
      column.cell = line.appendChild(cell);
    }
    find("#table").style.width = `${this.columns.reduce((sum, column) => sum + column.width, 0)}rem`;
  }
  sort(column) {
    const same = this.sorted.column === column;
    this.sorted = { column, down: same ? !this.sorted.down : Boolean(column.down) };
    this.show(this.view);
  }
  // Show these rows, in order; what is not known comes last.
  show(rows) {
    const { column, down } = this.sorted, sign = down ? -1 : 1;
    const missing = (v) => v === null || v === "" || v === Infinity;
    this.view = rows.slice().sort((a, b) => {
      const [x, y] = [column.value(a), column.value(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y) || a.index - b.index;
      return sign * (typeof x === "number" ? x - y : collator.compare(x, y)) || a.index - b.index;
    });
    for (const { cell } of this.columns) cell.removeAttribute("aria-sort");
    if (column.cell) column.cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    find("#table").setAttribute("aria-rowcount", this.view.length + 1);
    this.scroller.scrollTop = 0;
    this.build(true);
  }
  get height() { return parseFloat(getComputedStyle(this.scroller).getPropertyValue("--row")) * parseFloat(getComputedStyle(document.documentElement).fontSize); }
  build(anew = false, whole = false) {
    const height = this.height, { scrollTop, clientHeight } = this.scroller, n = this.view.length;
    const first = whole ? 0 : Math.max(0, Math.floor(scrollTop / height) - BEYOND);
    const last = whole ? n : Math.min(n, Math.ceil((scrollTop + clientHeight) / height) + BEYOND);
    if (!anew && first === this.first && last === this.last) return;
    Object.assign(this, { first, last });
    const space = (count) => {
      const line = element("tr", "space");
      line.append(Object.assign(element("td"), { colSpan: this.columns.length, style: `height: ${count * height}px` }));
      return count ? [line] : [];
    };
    const lines = this.view.slice(first, last).map((row, k) => this.line(row, first + k));
    if (!n) lines.push(this.none());
    this.body.replaceChildren(...space(first), ...lines, ...space(n - last));
  }
  none() {
    const line = element("tr");
    line.append(Object.assign(element("td", "text", `No ${this.one} fits.`), { colSpan: this.columns.length }));
    return line;
  }
  line(row, at) {
    const line = element("tr", row === this.chosen ? "chosen" : "");
    line.dataset.row = row.index;
    line.setAttribute("aria-rowindex", at + 2);
    line.append(...this.columns.map((column) => {
      const cell = element(column.className === "id" ? "th" : "td", column.className || "");
      const far = column.far && column.far(row), title = far || (column.title && column.title(row));
      if (column.className === "id") cell.scope = "row";
      if (far) cell.classList.add("far");
      if (column.mark) cell.classList.add(column.mark(row));
      if (title) cell.title = title;
      cell.append(column.show(row));
      return cell;
    }));
    return line;
  }
  // Tell by a shadow whether columns lie beyond the right edge.
  edge() {
    const { scroller } = this, frame = find("#frame");
    frame.classList.toggle("more", scroller.scrollLeft + scroller.clientWidth < scroller.scrollWidth - 1);
    frame.style.setProperty("--bar", `${scroller.offsetWidth - scroller.clientWidth - 2}px`);
  }
  mark(row) {
    this.chosen = row;
    this.build(true);
  }
  // Scroll so that the row is in view, if the table has it.
  reveal(row) {
    const at = this.view.indexOf(row), { height, scroller } = this, head = find("#table thead").offsetHeight;
    if (at < 0) return false;
    const room = scroller.clientHeight - head - height;
    if (at * height < scroller.scrollTop) scroller.scrollTop = at * height;
    else if (at * height > scroller.scrollTop + room) scroller.scrollTop = at * height - room;
    this.build();
    return true;
  }
  key(event) {
    if (event.target !== this.scroller) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key], at = this.view.indexOf(this.chosen);
    if (event.key === "Enter" && this.chosen && this.chosen.page) location.href = this.chosen.page;
    if (!step || !this.view.length) return;
    event.preventDefault();
    const row = this.view[Math.min(Math.max(at + step, 0), this.view.length - 1)];
    this.choose(row);
    this.reveal(row);
  }
}

// A sheet to type or paste into. It keeps rows of text and shows what the server says of them (`<studio-plan>`);
// what the text means is decided there. Its value is `{"rows": [{"prompt": "…", "duration": "8"}, …]}` as JSON.
(() => {
  if (window.studioSheet) return;

  const COLUMNS = [
    ["prompt", "Prompt"], ["duration", "Duration"], ["seed", "Seed"], ["variations", "Takes"], ["model", "Model"],
    ["cfg_coef", "Guidance"], ["temperature", "Temperature"], ["top_k", "Top-k"], ["top_p", "Top-p"],
    ["priority", "Priority"], ["after", "After"], ["continue_from", "Go on from"], ["continue_seconds", "Keep"],
    ["webhook_url", "Webhook"],
  ];
  const KINDS = { model: 'list="models"', after: 'placeholder="#1"', continue_from: 'placeholder="gen_…"', webhook_url: 'inputmode="url"' };
  const FEW = 4; // columns that are always shown
  const BLANK_ROWS = 3;
  const TELL_AFTER_MS = 250;
  const UNDO_MAX = 30;
  const IDEAS = ["{calm|dark} piano at {80|120} bpm", "lo-fi hip hop, dusty drums", "slow blues, no drums"];

  class Sheet {
    constructor(element, props, watch, trigger) {
      this.props = props;
      this.trigger = trigger;
      this.past = [];
      this.problems = [];
      this.element = element;
      this.build();
      this.read();
      watch("value", () => props.value !== this.told && this.read());
    }

    build() {
      this.element.classList.add("sheet");
      this.element.innerHTML =
        '<div class="sheet-tools"><button type="button" data-tool="upload">Upload a file</button>' +
        '<button type="button" data-tool="columns" aria-pressed="false">More columns</button>' +
        '<button type="button" data-tool="expand">Write out</button>' +
        '<button type="button" data-tool="undo" hidden>Undo</button>' +
        '<button type="button" data-tool="clear">Clear</button>' +
        '<input type="file" hidden accept=".csv,.tsv,.txt,.jsonl,.ndjson,.json"></div>' +
        `<div class="sheet-head" aria-hidden="true"><i></i>${COLUMNS.map(head).join("")}<i></i></div>` +
        '<div class="sheet-rows"></div><button type="button" class="sheet-add" data-tool="add">Add a row</button>';
      this.grid = this.element.querySelector(".sheet-rows");
      this.file = this.element.querySelector("input[type=file]");
      this.file.addEventListener("change", () => this.upload(this.file.files[0]));
      this.element.addEventListener("click", (event) => this.use(event.target.closest("[data-tool]")));
      this.grid.addEventListener("input", (event) => this.typed(event.target));
      this.grid.addEventListener("keydown", (event) => this.key(event));
      this.grid.addEventListener("focusout", () => this.tell()); // before a click that submits
      this.grid.addEventListener("paste", (event) => this.paste(event));
      for (const name of ["dragover", "dragleave", "drop"])
        this.element.addEventListener(name, (event) => this.drag(event));
    }

    // Between the rows and the server

    read() {
      this.told = this.props.value;
      let rows = [];
      try {
        rows = JSON.parse(this.props.value || "{}").rows || [];
      } catch {}
      if (this.rows && JSON.stringify(rows) !== JSON.stringify(this.rows)) this.remember();
      this.rows = rows;
      this.draw();
    }

    tell() {
      clearTimeout(this.timer);
      this.told = JSON.stringify({ rows: this.rows });
      if (this.props.value !== this.told) this.props.value = this.told;
    }

    tellSoon() {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.tell(), TELL_AFTER_MS);
    }

    ask(what, more = {}) {
      this.tell();
      setTimeout(() => this.trigger("click", { do: what, ...more })); // after the rows have been told
    }

    remember() {
      this.past.push(JSON.stringify(this.rows));
      if (this.past.length > UNDO_MAX) this.past.shift();
      this.tool("undo").hidden = false;
    }

    // What a person does

    use(button) {
      const tool = button?.dataset.tool;
      if (tool === "upload") this.file.click();
      if (tool === "expand") this.ask("expand");
      if (tool === "add") this.focus(this.append());
      if (tool === "columns") this.more(button.ariaPressed !== "true");
      if (tool === "clear" || tool === "undo" || tool === "remove") this.change(tool, button);
    }

    change(tool, button) {
      if (tool === "undo") this.rows = JSON.parse(this.past.pop());
      else this.remember();
      if (tool === "clear") this.rows = [];
      if (tool === "remove") this.rows.splice(this.numberOf(button), 1);
      this.tool("undo").hidden = !this.past.length;
      this.draw();
      this.tell();
    }

    typed(cell) {
      const number = this.numberOf(cell);
      while (this.rows.length <= number) this.rows.push({});
      this.rows[number][cell.dataset.field] = cell.value;
      if (!cell.value) delete this.rows[number][cell.dataset.field];
      this.tellSoon();
    }

    key(event) {
      const cell = event.target;
      if (!cell.dataset.field || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
      const down = (event.key === "Enter" && !event.shiftKey) || event.key === "ArrowDown";
      if (!down && event.key !== "ArrowUp") return;
      const oneLine = !cell.value.includes("\n");
      if (event.key !== "Enter" && !oneLine) return;
      const number = this.numberOf(cell) + (down ? 1 : -1);
      if (number < 0 || (number >= this.grid.children.length && event.key !== "Enter")) return;
      event.preventDefault();
      this.focus(number < this.grid.children.length ? number : this.append(), cell.dataset.field);
    }

    paste(event) {
      const text = event.clipboardData.getData("text/plain");
      const field = event.target.dataset.field;
      if (!field || !/[\t\n]|^\{\s*"/.test(text.trim())) return; // into the cell, as anywhere
      event.preventDefault();
      this.ask("paste", { text, row: this.numberOf(event.target), field });
    }

    drag(event) {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      this.element.classList.toggle("over", event.type === "dragover");
      if (event.type === "drop") this.upload(event.dataTransfer.files[0]);
    }

    async upload(file) {
      this.file.value = "";
      if (!file) return;
      const limit = Number(this.plan?.getAttribute("bytes")) || Infinity;
      if (file.size > limit) return this.ask("upload", { name: file.name, size: file.size });
      const bytes = new Uint8Array(await file.arrayBuffer());
      let text = "";
      for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
      this.ask("upload", { name: file.name, bytes: btoa(text) });
    }

    // What it looks like

    draw() {
      const count = Math.max(this.rows.length, BLANK_ROWS);
      const rows = Array.from({ length: count }, (_, number) => this.row(number));
      this.keepingFocus(() => this.grid.replaceChildren(...rows));
      if (this.rows.some((row) => COLUMNS.slice(FEW).some(([field]) => row[field]))) this.more(true);
      this.mark();
    }

    // The keyboard stays in its cell or on its button, whatever row is there now.
    keepingFocus(draw) {
      const at = document.activeElement;
      const number = this.grid.contains(at) ? this.numberOf(at) : -1;
      const { field, tool } = at?.dataset ?? {};
      draw();
      const row = number >= 0 && this.grid.children[Math.min(number, this.grid.children.length - 1)];
      if (row) row.querySelector(field ? `[data-field=${field}]` : `[data-tool=${tool}]`)?.focus();
    }

    row(number) {
      const row = document.createElement("div");
      row.className = "sheet-row";
      row.innerHTML =
        `<i class="number"></i>${COLUMNS.map(cell).join("")}` +
        '<button type="button" class="remove" data-tool="remove" aria-label="Remove the row" title="Remove the row">' +
        '</button><p class="wrong" hidden></p>';
      for (const input of row.querySelectorAll("[data-field]")) this.fill(input, number);
      return row;
    }

    fill(input, number) {
      const field = input.dataset.field;
      input.value = this.rows[number]?.[field] ?? "";
      input.placeholder = this.standard(field, number);
      input.ariaLabel = `${input.previousSibling.textContent}, row ${number + 1}`;
    }

    standard(field, number) {
      if (field === "prompt") return this.rows.length ? "" : IDEAS[number] || "";
      return this.defaults?.[field] ?? "";
    }

    append() {
      this.grid.append(this.row(this.grid.children.length));
      return this.grid.children.length - 1;
    }

    focus(number, field = "prompt") {
      this.grid.children[number].querySelector(`[data-field=${field}]`).focus();
    }

    more(shown) {
      this.element.classList.toggle("more", shown);
      this.tool("columns").ariaPressed = shown;
    }

    // What the server says

    take(plan) {
      this.plan = plan;
      this.problems = JSON.parse(plan.getAttribute("problems") || "[]");
      this.defaults = JSON.parse(plan.getAttribute("defaults") || "{}");
      for (const [number, row] of [...this.grid.children].entries())
        for (const input of row.querySelectorAll("[data-field]"))
          input.placeholder = this.standard(input.dataset.field, number);
      this.mark();
    }

    mark() {
      const wrong = new Map();
      for (const problem of this.problems) wrong.set(problem.row, [...(wrong.get(problem.row) || []), problem]);
      for (const [number, row] of [...this.grid.children].entries()) {
        const here = wrong.get(number + 1) || [];
        const fields = new Set(here.map((problem) => problem.field));
        const words = row.querySelector(".wrong");
        words.id = `sheet-wrong-${number}`;
        for (const input of row.querySelectorAll("[data-field]")) {
          input.ariaInvalid = fields.has(input.dataset.field) ? "true" : null;
          input.setAttribute("aria-describedby", input.ariaInvalid ? words.id : "");
          if (COLUMNS.findIndex(([field]) => field === input.dataset.field) >= FEW && input.ariaInvalid) this.more(true);
        }
        words.hidden = !here.length;
        words.textContent = here.map((problem) => problem.words).join(" ");
        row.querySelector(".number").textContent = number + 1;
      }
    }

    tool(name) {
      return this.element.querySelector(`[data-tool=${name}]`);
    }

    numberOf(node) {
      return [...this.grid.children].indexOf(node.closest(".sheet-row"));
    }
  }

  const shown = ([field], number) => `class="cell ${field}${number < FEW ? "" : " extra"}"`;
  const head = (column, number) => `<span ${shown(column, number)}>${column[1]}</span>`;
  const cell = (column, number) => {
    const [field, title] = column;
    const box =
      field === "prompt"
        ? `<textarea rows="1" data-field="${field}" spellcheck="true"></textarea>`
        : `<input data-field="${field}" autocomplete="off" ${KINDS[field] || 'inputmode="decimal"'}>`;
    return `<label ${shown(column, number)}><span>${title}</span>${box}</label>`;
  };

  // What the sheet makes, as the server has worked it out.

  class Plan extends HTMLElement {
    connectedCallback() {
      const find = () => {
        const sheet = document.querySelector(".sheet")?.studioSheet;
        if (sheet) sheet.take(this);
        else if (this.isConnected) setTimeout(find, 50);
      };
      find();
    }
  }

  customElements.define("studio-plan", Plan);
  window.studioSheet = (element, props, watch, trigger) => {
    element.studioSheet = new Sheet(element, props, watch, trigger);
  };
})();

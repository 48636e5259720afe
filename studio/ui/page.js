// What the page needs beyond Gradio: patching live lists without stopping a player, moments, keys.
// Text from outside only ever arrives as HTML that studio/ui/cards.py has escaped.
(() => {
  if (window.studio) return;

  let closed; // the job whose drawer was closed last: the keyboard goes back there

  // Live HTML. Children with data-key keep their element while they stay in the list, so a player goes on playing.

  function patch(root, html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    const drawer = root.querySelector(".drawer");
    morph(root, template.content);
    const open = root.querySelector(".drawer");
    if (open && open.dataset.job === closed) open.classList.add("closing"); // an answer that was under way
    else if (open && !drawer) open.querySelector(".close").focus({ preventScroll: true });
    const title = root.querySelector("[data-title]")?.dataset.title;
    if (title !== undefined) document.title = title;
  }

  const keyOf = (node) => node.dataset?.key;

  function morph(root, wanted) {
    const next = [...wanted.childNodes];
    const staying = new Set(next.map(keyOf).filter(Boolean));
    const known = new Map();
    for (const child of [...root.children]) {
      if (!keyOf(child)) continue;
      if (staying.has(keyOf(child))) known.set(keyOf(child), child);
      else child.remove();
    }
    let here = root.firstChild;
    for (const node of next) {
      const same = here && keyOf(here) === keyOf(node) && here.nodeName === node.nodeName;
      const match = same ? here : known.get(keyOf(node));
      if (!match) root.insertBefore(node, here);
      else {
        if (match !== here) root.insertBefore(match, here);
        here = update(match, node).nextSibling;
      }
    }
    while (here) {
      const after = here.nextSibling;
      here.remove();
      here = after;
    }
  }

  function update(node, wanted) {
    if (node.nodeType !== Node.ELEMENT_NODE) {
      if (node.data !== wanted.data) node.data = wanted.data;
      return node;
    }
    const isOwn = node.localName.includes("-");
    if (isOwn) {
      if (node.become?.(wanted)) return node;
      if ([...wanted.attributes].every(({ name, value }) => node.getAttribute(name) === value)) return node;
      node.replaceWith(wanted);
      return wanted;
    }
    for (const { name } of [...node.attributes])
      if (!wanted.hasAttribute(name) && name !== "open") node.removeAttribute(name); // what a person opened stays open
    for (const { name, value } of wanted.attributes)
      if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    morph(node, wanted);
    return node;
  }

  // The pulse asks what has changed: often while something does, seldom when nothing does, or nobody looks.

  const QUICK_MS = 500;
  const CALM_MS = 2500;
  const HIDDEN_MS = [5000, 20000]; // while something changes (the title tells how far it is), and else
  const CALM_AFTER_MS = 8000;

  function pulse(trigger, onChange) {
    let lively = performance.now();
    let timer;
    const pause = () => {
      const calm = performance.now() - lively > CALM_AFTER_MS;
      return document.hidden ? HIDDEN_MS[+calm] : calm ? CALM_MS : QUICK_MS;
    };
    const beat = () => {
      trigger("click");
      timer = setTimeout(beat, pause());
    };
    const wake = () => {
      const dozing = pause() > QUICK_MS;
      lively = performance.now();
      if (!dozing || document.hidden) return;
      clearTimeout(timer);
      beat();
    };
    onChange(() => (lively = performance.now()));
    for (const event of ["visibilitychange", "pointerdown", "keydown"]) document.addEventListener(event, wake);
    beat();
  }

  // A list of ids that the tabs of a browser share, newest first: what is new in this one joins what the others have
  // added meanwhile.

  function listed(name) {
    try {
      return JSON.parse(localStorage.getItem(name)) || [];
    } catch {
      return [];
    }
  }

  function share(props, watch, name, most) {
    let known = listed(name);
    const show = (ids) => (props.value = JSON.stringify((known = ids)));
    watch("value", () => {
      const added = JSON.parse(props.value).filter((id) => !known.includes(id));
      if (!added.length) return;
      const ids = [...added, ...listed(name)].slice(0, most);
      localStorage.setItem(name, JSON.stringify(ids));
      show(ids);
    });
    addEventListener("storage", ({ key }) => key === name && show(listed(name)));
  }

  // A moment in the reader's own time zone.

  class Moment extends HTMLElement {
    connectedCallback() {
      const at = new Date(this.getAttribute("at"));
      const today = at.toDateString() === new Date().toDateString();
      const day = today ? {} : { day: "numeric", month: "short" };
      const second = this.hasAttribute("exact") ? { second: "2-digit" } : {};
      this.textContent = at.toLocaleString([], { ...day, hour: "2-digit", minute: "2-digit", ...second });
      this.title = at.toLocaleString();
    }
  }

  // How long until one may try again, counting down.

  class Countdown extends HTMLElement {
    connectedCallback() {
      this.role = "timer";
      this.until = performance.now() + 1000 * Number(this.getAttribute("seconds"));
      this.tick();
    }

    tick() {
      if (!this.isConnected) return;
      const left = Math.ceil((this.until - performance.now()) / 1000);
      this.textContent = left > 0 ? `try again in ${left} s.` : "try again now.";
      if (left > 0) setTimeout(() => this.tick(), 250);
    }
  }

  // Keys and clicks that need no server.

  const WRITING = "input:not([type=radio]):not([type=checkbox]), textarea, select, [contenteditable]";

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.altKey) return;
    const { key, target } = event;
    const done =
      event.ctrlKey || event.metaKey
        ? key === "Enter" && (event.repeat || generate(target))
        : key === "Escape"
          ? closeDrawer()
          : !target.closest?.(WRITING) && (key === "/" ? search() : step(key, target));
    if (done) event.preventDefault();
  });

  function generate(target) {
    const panel = target.closest?.("[role=tabpanel]");
    const button = panel?.querySelector("button.go");
    panel?.querySelector(".sheet")?.studioSheet.tell();
    setTimeout(() => button?.click()); // after what has been typed is known
    return Boolean(button);
  }

  function search() {
    const panel = [...document.querySelectorAll("[role=tabpanel]")].find((each) => each.offsetParent);
    const box = panel?.querySelector("#search input, #search textarea, #prompt textarea, .sheet textarea");
    box?.focus();
    box?.select();
    return Boolean(box);
  }

  // Up and down go from job to job; an open drawer follows. In the queue they begin at the first one.
  function step(key, target) {
    const by = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[key];
    const within = target === document.body || target.closest?.(".job, .card, .drawer");
    if (!by || !within || target.closest("studio-player, pre")) return false;
    const drawer = document.querySelector(".drawer:not(.closing)");
    const at = target.closest("[data-do=open], .job")?.closest("[data-key]").dataset.key ?? drawer?.dataset.job;
    const list = drawer ? "[role=tabpanel] [data-do=open]" : at ? "[role=tabpanel] .job .open" : "#queue-table .open";
    const openers = [...document.querySelectorAll(list)].filter((each) => each.offsetParent);
    const next = openers[openers.findIndex((each) => each.dataset.what === at) + by];
    next?.focus();
    if (drawer) next?.click();
    return Boolean(next);
  }

  // What is wrong is seen, however far from the button it is said; a wrong prompt can be mended at once.
  function showProblem() {
    requestAnimationFrame(() => {
      const problem = [...document.querySelectorAll(".problem")].find((each) => each.offsetParent);
      problem?.scrollIntoView({ behavior: "smooth", block: "nearest" });
      if (problem?.closest("#at-prompt")) document.querySelector("#prompt textarea").focus({ preventScroll: true });
    });
  }

  function closeDrawer() {
    const button = document.querySelector(".drawer:not(.closing) .close");
    button?.click();
    return Boolean(button);
  }

  document.addEventListener("click", (event) => {
    const at = (selector) => event.target.closest?.(selector);
    const source = at("[data-insert]");
    if (source) type(source.dataset.into, source.dataset.insert);
    if (at("[data-copy]")) copy(at("[data-copy]"));
    if (at("#theme-switch")) setDark(!document.body.classList.contains("dark"));
    if (at("[data-do=open]")) closed = undefined;
    if (at("[data-do=continue]")) toComposer();
    if (at(".drawer .close")) {
      closed = at(".drawer").dataset.job;
      at(".drawer").classList.add("closing"); // at once; the server hears of it
      const openers = [...document.querySelectorAll(`[data-do=open][data-what="${CSS.escape(closed)}"]`)];
      openers.find((each) => each.offsetParent)?.focus({ preventScroll: true });
    }
    if (at("[role=tab]")) remember(at("[role=tab]"));
  });

  // A double click asks once.
  addEventListener("click", (event) => {
    if (event.detail > 1 && event.target.closest?.("button.go, [data-do=again]")) event.stopImmediatePropagation();
  }, true);

  async function copy(button) {
    const text = button.dataset.copy.replaceAll("{origin}", location.origin);
    const words = (button.dataset.words ??= button.textContent); // of a second click, too, while it says "Copied"
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      copyOldWay(text); // a page without TLS has no clipboard
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = words), 1500);
  }

  function copyOldWay(text) {
    const before = document.activeElement;
    const box = document.body.appendChild(Object.assign(document.createElement("textarea"), { value: text }));
    box.select();
    document.execCommand("copy");
    box.remove();
    before?.focus({ preventScroll: true });
  }

  // A reload comes back to the tab that was open. (The page has a <base>: `#queue` alone would drop `?job=…`.)
  function remember(tab) {
    const { pathname, search } = location;
    history.replaceState(null, "", `${pathname}${search}#${nameOf(tab)}`);
  }

  const nameOf = (tab) => tab.textContent.trim().toLowerCase();
  const tabNamed = (name) => [...document.querySelectorAll("[role=tab]")].find((tab) => nameOf(tab) === name);

  function openTab(tries = 100) {
    const name = location.hash.slice(1);
    if (!name) return;
    const tab = tabNamed(name);
    if (tab) tab.click();
    else if (tries) setTimeout(() => openTab(tries - 1), 50);
  }

  async function toComposer() {
    const composer = document.querySelector("#composer");
    if (!composer.offsetParent) tabNamed("prompt").click();
    while (!composer.offsetParent) await new Promise(requestAnimationFrame);
    composer.scrollIntoView({ behavior: "smooth" });
  }

  // A file of one's own to go on from: chosen, or dropped where the prompt is written.

  async function bring(file) {
    const strip = document.querySelector("#opening .opening");
    if (!strip || !file) return;
    const said = strip.querySelector("[role=status]");
    said.textContent = `Sending ${file.name} …`;
    const answer = await fetch("/api/v1/clips", { method: "POST", body: file }).catch(() => null);
    const told = await answer?.json().catch(() => null);
    if (!answer?.ok) {
      const wrong = told?.detail?.[0].message;
      said.textContent = wrong ? `This file ${wrong}.` : told?.error || "The file could not be sent.";
      return;
    }
    const button = strip.querySelector("[data-do=brought]");
    button.dataset.what = `${told.clip_id}  ${file.name}`;
    button.click();
  }

  document.addEventListener("change", ({ target }) => {
    if (!target.matches?.("[data-bring]")) return;
    bring(target.files[0]);
    target.value = ""; // the same file can be chosen again
  });

  for (const event of ["dragover", "drop"])
    document.addEventListener(event, (drag) => {
      if (!drag.target.closest?.("#composer") || !drag.dataTransfer?.types.includes("Files")) return;
      drag.preventDefault();
      if (event === "drop") bring(drag.dataTransfer.files[0]);
    });

  // What is typed outlives a reload, also while the server is away: then no listener is heard, and once it is back the
  // page reloads. Components are known by their ids.

  const restored = new Set();
  const models = {};
  const kept = () => JSON.parse(sessionStorage.getItem("studio-kept") || "{}");

  function restore(ids, given, names) {
    Object.assign(models, names);
    if (ids.includes("prompt") && kept().opening) goOnFrom(kept().opening);
    for (const id of ids) restored.add(id);
    const typed = (id) => id === "prompt" && boxOf(id)?.value; // already, while the page was loading
    return ids.map((id, number) => typed(id) || (kept()[id] ?? given[number] ?? ""));
  }

  function keep(ids, values) {
    const said = ids.map((id, number) => [id, values[number]]);
    sessionStorage.setItem("studio-kept", JSON.stringify(Object.assign(kept(), Object.fromEntries(said))));
  }

  addEventListener("pagehide", () => {
    const ids = [...restored].filter(boxOf); // what is not in the page has not been touched
    keep(ids, ids.map(saidIn));
    const strip = document.querySelector("#opening .chosen");
    const opening = strip && `${strip.dataset.source} ${boxOf("keep").value} ${strip.querySelector("b").textContent}`;
    if (ids.includes("prompt")) keep(["opening"], [opening]);
  });

  const boxOf = (id) => document.querySelector(`#${id} :is(textarea, input)`);

  function saidIn(id) {
    if (id === "sheet") return JSON.stringify({ rows: document.querySelector(".sheet").studioSheet.rows });
    const { type, role, value } = boxOf(id);
    return type === "number" ? parseFloat(value) : role === "combobox" ? (models[value] ?? value) : value;
  }

  async function goOnFrom(what) {
    const button = () => document.querySelector("#opening [data-do=brought]");
    while (!button()) await new Promise(requestAnimationFrame);
    button().dataset.what = what;
    button().click();
  }

  async function type(into, text) {
    const box = document.querySelector(into);
    if (!box.offsetParent) await toComposer();
    box.focus();
    box.select();
    document.execCommand("insertText", false, text); // unlike an assignment this can be undone with Ctrl+Z
  }

  function setDark(dark) {
    localStorage.setItem("studio-theme", dark ? "dark" : "light");
    applyTheme();
  }

  function applyTheme() {
    const chosen = localStorage.getItem("studio-theme");
    const dark = document.body.classList.contains("dark");
    if (chosen && dark !== (chosen === "dark")) document.body.classList.toggle("dark");
  }

  // Gradio 6.31 loads its API documentation on a click only: a link to `?view=api` would show nothing.

  function openDocumentation() {
    const button = document.querySelector("footer .show-api");
    if (!button) return setTimeout(openDocumentation, 100);
    button.click(); // it believes that they are open
    setTimeout(() => button.click());
  }

  if (new URLSearchParams(location.search).get("view") === "api") openDocumentation();

  customElements.define("studio-time", Moment);
  customElements.define("studio-countdown", Countdown);
  applyTheme();
  new MutationObserver(applyTheme).observe(document.body, { attributeFilter: ["class"] });
  openTab();
  addEventListener("hashchange", () => openTab());
  window.studio = { patch, pulse, share, listed, showProblem, restore, keep };
})();

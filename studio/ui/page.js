// What the page needs beyond Gradio: patching live lists without stopping a player, the player itself, keys.
// Text from outside only ever arrives as HTML that studio/ui/cards.py has escaped.
(() => {
  if (window.studio) return;

  // Live HTML. Children with data-key keep their element while they stay in the list, so a player goes on playing.

  function patch(root, html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    morph(root, template.content);
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
      if ([...wanted.attributes].every(({ name, value }) => node.getAttribute(name) === value)) return node;
      node.replaceWith(wanted);
      return wanted;
    }
    for (const { name } of [...node.attributes]) if (!wanted.hasAttribute(name)) node.removeAttribute(name);
    for (const { name, value } of wanted.attributes)
      if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    morph(node, wanted);
    return node;
  }

  // The player: a button, the waveform as a slider, the time.

  const BAR_PX = 4;
  const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
  const decoded = new Map(); // url -> promise of samples

  function samplesOf(url) {
    if (!decoded.has(url)) {
      const context = new OfflineAudioContext(1, 1, 22050);
      const samples = fetch(url)
        .then((answer) => (answer.ok ? answer.arrayBuffer() : Promise.reject(answer.status)))
        .then((bytes) => context.decodeAudioData(bytes))
        .then((audio) => audio.getChannelData(0));
      samples.catch(() => decoded.delete(url));
      decoded.set(url, samples);
      if (decoded.size > 24) decoded.delete(decoded.keys().next().value);
    }
    return decoded.get(url);
  }

  function barsOf(samples, count) {
    const width = Math.max(1, Math.floor(samples.length / count));
    const bars = Array.from({ length: count }, (_, bar) => {
      let sum = 0;
      const end = Math.min(samples.length, (bar + 1) * width);
      for (let i = bar * width; i < end; i += 4) sum += samples[i] * samples[i];
      return Math.sqrt((4 * sum) / width);
    });
    const loudest = Math.max(...bars, 1e-6);
    return bars.map((bar) => bar / loudest);
  }

  function maskOf(bars) {
    const path = bars.map((bar, i) => {
      const half = 1 + 20 * bar;
      return `M${i * BAR_PX + 2} ${22 - half}v${2 * half}`;
    });
    const svg =
      `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${bars.length * BAR_PX} 44" preserveAspectRatio="none">` +
      `<path d="${path.join("")}" stroke="#000" stroke-width="2.4" stroke-linecap="round"/></svg>`;
    return `url("data:image/svg+xml,${encodeURIComponent(svg)}")`;
  }

  class Player extends HTMLElement {
    connectedCallback() {
      if (this.audio) return;
      this.innerHTML =
        '<button type="button" class="play"></button><div class="wave" role="slider" tabindex="0" ' +
        'aria-label="Position" aria-valuemin="0"></div><span class="clock"></span><audio></audio>';
      [this.button, this.wave, this.clock, this.audio] = this.children;
      this.seconds = Number(this.getAttribute("seconds"));
      this.wave.setAttribute("aria-valuemax", this.seconds);
      this.audio.preload = this.hasAttribute("compact") ? "none" : "metadata";
      this.audio.src = this.getAttribute("src");
      this.listen();
      this.show();
      if (this.hasAttribute("compact")) return;
      new IntersectionObserver((seen, watcher) => {
        if (!seen.some((entry) => entry.isIntersecting)) return;
        watcher.disconnect();
        this.draw();
      }).observe(this);
    }

    listen() {
      this.button.addEventListener("click", () => this.toggle());
      for (const event of ["play", "pause", "ended", "seeked", "timeupdate"])
        this.audio.addEventListener(event, () => this.show());
      this.audio.addEventListener("play", () => this.follow());
      this.audio.addEventListener("play", () => this.draw(), { once: true });
      this.audio.addEventListener("error", () => this.wave.classList.add("missing"));
      this.audio.addEventListener("durationchange", () => (this.seconds = this.audio.duration || this.seconds));
      this.wave.addEventListener("pointerdown", (event) => {
        this.wave.setPointerCapture(event.pointerId);
        this.seek(event);
      });
      this.wave.addEventListener("pointermove", (event) => event.buttons && this.seek(event));
      this.wave.addEventListener("keydown", (event) => this.key(event));
    }

    toggle() {
      if (!this.audio.paused) return this.audio.pause();
      document.querySelectorAll("studio-player audio").forEach((other) => other.pause());
      return this.audio.play().catch(() => {});
    }

    seek(event) {
      const box = this.wave.getBoundingClientRect();
      this.jump(((event.clientX - box.left) / box.width) * this.seconds);
    }

    jump(seconds) {
      this.audio.currentTime = Math.min(Math.max(seconds, 0), this.seconds);
      this.show();
    }

    key(event) {
      const at = this.audio.currentTime;
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: this.seconds }[event.key];
      if (to !== undefined) this.jump(to);
      else if (event.key === " " || event.key === "Enter") this.toggle();
      else return;
      event.preventDefault();
    }

    follow() {
      this.show();
      if (!this.audio.paused && this.isConnected) requestAnimationFrame(() => this.follow());
    }

    show() {
      const { currentTime, paused } = this.audio;
      this.button.classList.toggle("playing", !paused);
      this.button.ariaLabel = paused ? "Play" : "Pause";
      this.wave.style.setProperty("--played", `${(100 * currentTime) / this.seconds}%`);
      this.wave.setAttribute("aria-valuenow", currentTime.toFixed(1));
      this.clock.textContent = currentTime ? `${clock(currentTime)} / ${clock(this.seconds)}` : clock(this.seconds);
    }

    async draw() {
      try {
        const samples = await samplesOf(this.getAttribute("src"));
        const count = Math.max(24, Math.floor(this.wave.clientWidth / BAR_PX));
        this.wave.style.setProperty("--bars", maskOf(barsOf(samples, count)));
        this.wave.classList.add("drawn");
      } catch {
        this.wave.classList.add("missing");
      }
    }
  }

  // A moment in the reader's own time zone.

  class Moment extends HTMLElement {
    connectedCallback() {
      const at = new Date(this.getAttribute("at"));
      const today = at.toDateString() === new Date().toDateString();
      const day = today ? {} : { day: "numeric", month: "short" };
      this.textContent = at.toLocaleString([], { ...day, hour: "2-digit", minute: "2-digit" });
      this.title = at.toLocaleString();
    }
  }

  // Keys and clicks that need no server.

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    const tab = event.target.closest?.("[role=tabpanel]");
    const button = tab?.querySelector("button.go");
    if (!button) return;
    event.preventDefault();
    button.click();
  });

  document.addEventListener("click", (event) => {
    const source = event.target.closest?.("[data-insert]");
    if (source) type(document.querySelector(source.dataset.into), source.dataset.insert);
    if (event.target.closest?.("#theme-switch")) setDark(!document.body.classList.contains("dark"));
  });

  function type(box, text) {
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

  customElements.define("studio-player", Player);
  customElements.define("studio-time", Moment);
  applyTheme();
  new MutationObserver(applyTheme).observe(document.body, { attributeFilter: ["class"] });
  window.studio = { patch };
})();

// The player: a button, the waveform as a slider, the time; of a file, or of music that is still being made.
(() => {
  if (customElements.get("studio-player")) return;

  // Music that is still being made, with an <audio>'s words: play, pause, paused, currentTime, and its events.
  // An <audio> itself would not do: Chromium's reads some hundred kilobytes of a WAV before it plays the first. So the
  // samples go to the Web Audio API, part by part, each to the sample where the one before ended. The first part is
  // played when, at the speed at which the music is being made, the rest will come in time; not sooner.

  const HEADER_BYTES = 44;
  const SURE = 0.8; // of the speed: what can be relied on
  const PART_S = 1.6; // what comes at once, after a first part that is shorter
  const LEAD_S = 0.03; // from now until a sound can begin
  const BLOCKED_MS = 3000; // then a context that does not run is not allowed to
  const AGAIN_MS = 1000; // to the next question, when there was nothing to hear for long

  class Live extends EventTarget {
    paused = true; // whether it is wanted
    flowing = false; // whether it is heard
    over = false; // nothing more comes
    filled = 0; // samples that have come
    #at = 0; // seconds; while it flows, time tells
    #scheduled = 0; // samples handed over
    #nodes = new Set();

    constructor(url) {
      super();
      this.url = url;
    }

    play() {
      this.paused = false;
      this.#tell("play");
      if (!this.loading) this.#load();
      this.#flow();
    }

    pause() {
      if (this.paused) return;
      this.#hold();
      this.paused = true;
      if (!this.rate) this.#hangUp();
      this.#tell("pause");
    }

    close() {
      this.pause();
      this.#hangUp();
      this.context?.close();
    }

    // Forgets all: whoever wants it later asks again.
    #hangUp() {
      this.loading?.abort();
      this.loading = this.rate = this.first = undefined;
      this.over = false;
      this.filled = this.#at = 0;
    }

    get currentTime() {
      if (!this.flowing) return this.#at;
      return Math.min(Math.max(this.context.currentTime - this.anchor, 0), this.#scheduled / this.rate);
    }

    set currentTime(seconds) {
      const flowing = this.flowing;
      this.#hold();
      this.#at = Math.min(seconds, this.filled / this.rate || 0);
      if (flowing) this.#begin();
      if (flowing && !this.#nodes.size) this.#flow();
      this.#tell("seeked");
    }

    async #load() {
      const loading = (this.loading = new AbortController());
      try {
        const answer = await this.#ask(loading.signal);
        if (answer.ok) await this.#read(answer);
      } catch {
        // broken off
      }
      if (this.loading !== loading) return;
      this.over = true;
      if (this.flowing || this.#whole) return this.#flow();
      const again = this.rate; // an attempt failed before it was heard: there may be another one
      this.#hangUp();
      if (again && !this.paused) this.#load();
      else this.pause();
    }

    get #whole() {
      return this.rate && this.filled === this.length;
    }

    async #ask(signal) {
      while (true) {
        const answer = await fetch(this.url, { signal });
        if (answer.status !== 409) return answer;
        await new Promise((done) => setTimeout(done, AGAIN_MS));
      }
    }

    async #read(answer) {
      const reader = answer.body.getReader();
      let rest = new Uint8Array(0);
      this.told = Number(answer.headers.get("x-speed")) || Infinity;
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        const bytes = new Uint8Array(rest.length + piece.value.length);
        bytes.set(rest);
        bytes.set(piece.value, rest.length);
        rest = this.#take(bytes);
      }
    }

    // Gives back the bytes that are not yet a whole.
    #take(bytes) {
      if (!this.rate && bytes.length < HEADER_BYTES) return bytes;
      if (!this.rate) return this.#take(this.#open(bytes));
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      const channels = this.samples.length;
      const count = Math.floor(bytes.length / (2 * channels));
      this.samples.forEach((samples, channel) => {
        for (let i = 0; i < count; i++)
          samples[this.filled + i] = view.getInt16(2 * (i * channels + channel), true) / 32768;
      });
      this.filled += count;
      this.#time();
      this.#flow();
      this.#tell("progress");
      return bytes.slice(2 * channels * count);
    }

    #open(bytes) {
      const header = new DataView(bytes.buffer, bytes.byteOffset);
      const channels = header.getUint16(22, true);
      this.length = header.getUint32(40, true) / (2 * channels);
      this.samples = Array.from({ length: channels }, () => new Float32Array(this.length));
      this.rate = header.getUint32(24, true);
      return bytes.slice(HEADER_BYTES);
    }

    // What was there already comes at once, and says nothing about the speed.
    #time() {
      const now = (this.came = performance.now());
      this.first ??= now;
      if (now - this.first < 100) [this.since, this.base] = [now, this.filled];
    }

    #speed() {
      const seconds = (performance.now() - this.since) / 1000;
      return seconds < 1 ? this.told : (this.filled - this.base) / this.rate / seconds;
    }

    // Seconds that must be there: the next part comes before they are over, and so does the last one.
    #needed() {
      const left = this.over ? 0 : (this.length - this.filled) / this.rate;
      if (!left) return 0;
      const part = Math.min(left, PART_S);
      const speed = SURE * this.#speed();
      const age = (performance.now() - this.came) / 1000; // so much of the next part is done
      return Math.max(part / speed, left / speed - left + part) - age;
    }

    #flow() {
      if (this.paused || !this.rate) return;
      const played = this.flowing && this.context.currentTime - this.anchor >= this.#scheduled / this.rate;
      if (this.flowing && (played || !this.#nodes.size)) {
        if (this.over && this.#scheduled === this.filled) return this.#end();
        this.#hold();
      }
      if (this.flowing) this.#schedule();
      else this.#beginInTime();
    }

    #beginInTime() {
      const short = this.#needed() - (this.filled / this.rate - this.#at);
      clearTimeout(this.timer);
      if (short <= 0) this.#begin();
      else this.timer = setTimeout(() => this.#flow(), 1000 * Math.min(short, 1));
    }

    #begin() {
      this.context ??= new AudioContext({ sampleRate: this.rate });
      this.context.resume();
      setTimeout(() => this.context.state === "suspended" && this.pause(), BLOCKED_MS); // a browser that wants a click first
      this.anchor = this.context.currentTime + LEAD_S - this.#at;
      this.#scheduled = Math.round(this.#at * this.rate);
      this.flowing = true;
      this.#schedule();
      this.#tell("playing");
    }

    #schedule() {
      const count = this.filled - this.#scheduled;
      if (!count) return;
      const buffer = this.context.createBuffer(this.samples.length, count, this.rate);
      this.samples.forEach((samples, channel) =>
        buffer.copyToChannel(samples.subarray(this.#scheduled, this.filled), channel),
      );
      const node = new AudioBufferSourceNode(this.context, { buffer });
      node.connect(this.context.destination);
      node.start(this.anchor + this.#scheduled / this.rate);
      node.onended = () => this.#nodes.delete(node) && this.#flow();
      this.#nodes.add(node);
      this.#scheduled = this.filled;
    }

    #hold() {
      if (!this.flowing) return;
      this.#at = this.currentTime;
      this.flowing = false;
      for (const node of this.#nodes) {
        node.onended = null;
        node.stop();
      }
      this.#nodes.clear();
    }

    #end() {
      this.#hold();
      this.#at = 0;
      this.paused = true;
      if (!this.#whole) this.#hangUp();
      this.#tell("ended");
    }

    #tell(event) {
      this.dispatchEvent(new Event(event));
    }
  }

  // The waveform.

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

  // Music that is asked for here plays by itself as soon as it can, unless something else plays or is about to.

  let asked = false; // and its player has not appeared yet
  const players = () => [...document.querySelectorAll("studio-player")];
  const isQuiet = () => players().every((player) => player.sound?.paused ?? true);

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#composer button.go, [data-do=again]")) asked = true;
  });

  class Player extends HTMLElement {
    connectedCallback() {
      if (this.file) return;
      this.innerHTML =
        '<button type="button" class="play"></button><div class="wave" role="slider" tabindex="0" ' +
        'aria-label="Position" aria-valuemin="0"></div><span class="clock"></span><audio></audio>';
      [this.button, this.wave, this.clock, this.file] = this.children;
      this.seconds = Number(this.getAttribute("seconds"));
      this.wave.setAttribute("aria-valuemax", this.seconds);
      this.sound = this.file;
      this.listen();
      if (this.hasAttribute("stream")) this.preview();
      else this.settle();
    }

    disconnectedCallback() {
      setTimeout(() => this.isConnected || this.live?.close()); // moving to another place is no end
    }

    // What the page's next version says of the same job. Sound goes on: the file takes over when the stream is silent.
    become(wanted) {
      for (const name of this.getAttributeNames())
        if (name !== "class" && !wanted.hasAttribute(name)) this.removeAttribute(name);
      for (const { name, value } of wanted.attributes) this.setAttribute(name, value);
      if (this.live?.paused && this.hasAttribute("src")) this.settle();
      return true;
    }

    preview() {
      this.sound = this.live = new Live(this.getAttribute("stream"));
      this.attend(this.live);
      this.live.addEventListener("progress", () => {
        this.classList.add("heard");
        this.drawn(this.live.samples[0]);
      });
      for (const event of ["pause", "ended"])
        this.live.addEventListener(event, () => this.hasAttribute("src") && this.settle());
      const own = asked && this.closest(".card");
      if (own) asked = false;
      if (own && isQuiet()) this.live.play();
      this.show();
    }

    settle() {
      const at = this.live?.currentTime;
      const { live } = this;
      this.live = undefined;
      live?.close();
      this.sound = this.file;
      this.file.preload = this.hasAttribute("compact") ? "none" : "metadata";
      this.file.src = this.getAttribute("src");
      if (at) this.file.currentTime = at;
      this.show();
      if (!this.hasAttribute("compact")) this.drawWhenSeen();
    }

    listen() {
      this.button.addEventListener("click", () => this.toggle());
      this.attend(this.file);
      this.file.addEventListener("play", () => this.draw(), { once: true });
      this.file.addEventListener("error", () => this.wave.classList.add("missing"));
      this.file.addEventListener("durationchange", () => (this.seconds = this.file.duration || this.seconds));
      this.wave.addEventListener("pointerdown", (event) => {
        this.wave.setPointerCapture(event.pointerId);
        this.seek(event);
      });
      this.wave.addEventListener("pointermove", (event) => event.buttons && this.seek(event));
      this.wave.addEventListener("keydown", (event) => this.key(event));
    }

    attend(sound) {
      for (const event of ["play", "playing", "pause", "ended", "seeked", "timeupdate"])
        sound.addEventListener(event, () => this.show());
      sound.addEventListener("play", () => this.follow());
    }

    toggle() {
      if (!this.sound.paused) return this.sound.pause();
      for (const other of players()) if (other !== this) other.sound?.pause();
      return this.sound.play()?.catch(() => {});
    }

    seek(event) {
      const box = this.wave.getBoundingClientRect();
      this.jump(((event.clientX - box.left) / box.width) * this.seconds);
    }

    jump(seconds) {
      this.sound.currentTime = Math.min(Math.max(seconds, 0), this.seconds);
      this.show();
    }

    key(event) {
      if (event.altKey || event.ctrlKey || event.metaKey) return; // Alt and an arrow is the browser's way back
      const at = this.sound.currentTime;
      const [back, on] = [at - 1, at + 1];
      const to = { ArrowLeft: back, ArrowDown: back, ArrowRight: on, ArrowUp: on, Home: 0, End: this.seconds }[event.key];
      if (to !== undefined) this.jump(to);
      else if (event.key === " " || event.key === "Enter") this.toggle();
      else return;
      event.preventDefault();
    }

    follow() {
      this.show();
      if (!this.sound.paused && this.isConnected) requestAnimationFrame(() => this.follow());
    }

    show() {
      const { currentTime, paused } = this.sound;
      this.button.classList.toggle("playing", !paused);
      this.button.classList.toggle("waiting", !paused && this.live?.flowing === false);
      this.button.ariaLabel = paused ? "Play" : "Pause";
      this.wave.style.setProperty("--played", `${(100 * currentTime) / this.seconds}%`);
      this.wave.setAttribute("aria-valuenow", currentTime.toFixed(1));
      this.wave.setAttribute("aria-valuetext", `${clock(currentTime)} of ${clock(this.seconds)}`);
      this.clock.textContent = currentTime ? `${clock(currentTime)} / ${clock(this.seconds)}` : clock(this.seconds);
    }

    drawWhenSeen() {
      new IntersectionObserver((seen, watcher) => {
        if (!seen.some((entry) => entry.isIntersecting)) return;
        watcher.disconnect();
        this.draw();
      }).observe(this);
    }

    async draw() {
      try {
        this.drawn(await samplesOf(this.getAttribute("src")));
      } catch {
        this.wave.classList.add("missing");
      }
    }

    drawn(samples) {
      const count = Math.max(24, Math.floor(this.wave.clientWidth / BAR_PX));
      this.wave.style.setProperty("--bars", maskOf(barsOf(samples, count)));
      this.wave.classList.add("drawn");
    }
  }

  customElements.define("studio-player", Player);
})();

/* The small GPT-2 on the reader's own text (see the chapter "The same model in the page").

   The model runs in a worker that is made of the text of src/gpt2.js and of the function `serve`
   below, since a page that was opened from disk may not start a worker from a file. The class
   `Live` is the page's side: it sends what the reader wants, and draws what comes back. */

"use strict";

/* ------------------------------------------------------------------------------- the worker */

/* Answers the page's messages; it runs in the worker, behind src/gpt2.js. */
function serve() {
  let model, tokenizer; // of the file
  let whole, cut; // caches of the whole model and, if parts are left out, of the one without them
  let options, random; // what the next draw goes by
  let text = []; // the ids of the prompt and of what was drawn
  let prompted = 0; // how many of them are the prompt's
  let sent = { cache: null, ids: [] }; // the patterns that the page has
  let run = 0; // counts what was begun, so that it ends when something else begins

  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  /* A token for the page; text is null if the bytes are no whole characters. */
  function token(id) {
    const bytes = [...tokenizer.token_bytes[id]];
    try {
      return { id, bytes, text: strict.decode(tokenizer.token_bytes[id]) };
    } catch {
      return { id, bytes, text: null };
    }
  }

  /* The ten likeliest tokens: how likely the model finds them, and how likely they are drawn. */
  function chances(logits, { best, p } = choices(logits, options)) {
    const likely = softmax(logits);
    const total = p.reduce((a, b) => a + b);
    const ten = { temperature: 1, top_k: 10, top_p: 1 };
    const first = best.length < 10 ? choices(logits, ten).best : best.slice(0, 10);
    return first.map((id) => {
      const place = best.indexOf(id);
      return { ...token(id), before: likely[id], after: place < 0 ? 0 : p[place] / total };
    });
  }

  /* The rows of all patterns that the page does not have yet, in 8 bits. */
  function patterns(cache) {
    let from = 0;
    while (sent.cache === cache && from < sent.ids.length && sent.ids[from] === cache.ids[from]) {
      from++;
    }
    sent = { cache, ids: [...cache.ids] };
    const rows = [];
    for (let t = from; t < cache.ids.length; t++) {
      const heads = cache.h.flatMap(({ pattern }) => pattern.map((head) => head[t] ?? []));
      const row = new Uint8Array(heads.length * (t + 1));
      heads.forEach((head, h) => row.set(Array.from(head, (w) => Math.round(255 * w)), h * (t + 1)));
      rows.push(row);
    }
    return { from, rows };
  }

  /* How much of the probability is at other tokens than before. */
  function moved(before, after) {
    const [p, q] = [softmax(before), softmax(after)];
    return p.reduce((sum, value, id) => sum + Math.abs(value - q[id]), 0) / 2;
  }

  /* Say all about the text as it is, or why there is none; `wrote` tells whether a text that was
     being written is done. */
  function tell(wrote = false) {
    if (!text.length) {
      sent = { cache: null, ids: [] }; // the page forgets them
      return postMessage({ type: "refused", tokens: prompted, room: model.config.n_positions });
    }
    const logits = model.logits(text, whole);
    const changed = cut && model.logits(text, cut);
    postMessage({
      type: "state",
      wrote,
      tokens: text.map(token),
      prompted,
      whole: chances(logits),
      cut: cut && chances(changed),
      moved: cut && moved(logits, changed),
      patterns: patterns(cut ?? whole),
      full: text.length >= model.config.n_positions,
      ended: text.length > prompted && text.at(-1) === tokenizer.end_of_text,
    });
  }

  /* Let messages in that have come. A timer would do, but browsers make it wait 4 ms. */
  const { port1, port2 } = new MessageChannel();
  function turn() {
    return new Promise((resolve) => {
      port1.onmessage = resolve;
      port2.postMessage(null);
    });
  }

  const answers = {
    load({ buffer }) {
      [model, tokenizer] = load(buffer);
      whole = model.cache();
      postMessage({ type: "ready", config: model.config });
    },

    /* A new prompt, or the same one from the start; or, to keep the text, other parts left out. */
    read({ prompt, off, keep, ...rest }) {
      run++;
      options = rest.options;
      if (off.join() !== [...(cut?.off ?? [])].join()) {
        cut = off.length ? model.cache(new Set(off)) : null;
      }
      if (!keep) {
        text = tokenizer.encode(prompt);
        prompted = text.length;
        text = prompted > model.config.n_positions ? [] : text;
        random = generator(options.seed);
      }
      tell();
    },

    /* Other settings of the draw. */
    options(message) {
      Object.assign(options, message.options);
      if (message.tell) {
        tell();
      }
    },

    async write({ tokens }) {
      const mine = ++run;
      const begin = performance.now();
      let count = 0;
      let told = 0; // when the page was last given the chances: ten times a second will do
      let seen = begin; // and when the patterns, three times
      const cache = cut ?? whole;
      const drawn = generate(model, text, tokens, options, random, cache);
      for (const { id, logits, best, p } of text.length ? drawn : []) {
        text.push(id);
        count++;
        const now = performance.now();
        const news = now > told + 100 ? chances(logits, { best, p }) : null;
        told = news ? now : told;
        const rows = now > seen + 300 ? patterns(cache) : null;
        seen = rows ? now : seen;
        const rate = (1000 * count) / (now - begin);
        postMessage({ type: "token", token: token(id), chances: news, patterns: rows, count, rate });
        await turn();
        if (run !== mine) {
          return;
        }
        if (id === tokenizer.end_of_text) {
          break;
        }
      }
      tell(true);
    },

    stop() {
      run++;
      tell(true);
    },
  };

  onmessage = async ({ data }) => {
    try {
      await answers[data.type](data);
    } catch (error) {
      postMessage({ type: "error", message: error.message });
    }
  };
}

/* --------------------------------------------------------------------------------- the page */

const TOP_K = [1, 2, 3, 5, 10, 20, 40, 100, 1000, 50257];
const DEFAULTS = { temperature: 0.8, top_k: 40, top_p: 1, seed: 0 };
const PARTS = {
  tokenizer: "Tokenizer", sampling: "Draw", attention: "Attention", mlp: "MLP", model: "Blocks",
};
const AT_ONCE = 60; // tokens that are generated at once
const SMALL = 40; // pixels of a small pattern's side
const A_FRAME = 8; // small patterns that are drawn anew in a frame while the model writes

/* How strong the colour of an attention weight is; the root makes small ones visible. */
function shade(weight) {
  return Math.sqrt(weight);
}

class Live {
  constructor(root, picture) {
    this.root = root;
    this.picture = picture;
    this.prompt = picture.options.prompt;
    this.options = { ...DEFAULTS };
    this.off = new Set();
    this.open = null; // [block, head] of the pattern that is shown large
    this.query = null; // the position whose row is shown below it; null is the last
    this.part = null; // the part of the picture that the address asks for
    this.tokens = [];
    this.rows = []; // of all patterns, by position
    this.loader();
    picture.onState((state) => this.restore(state));
  }

  /* ------------------------------------------------------------------------------ loading */

  loader() {
    const { el } = play;
    const size = this.picture.options.size;
    this.bar = el("progress", { max: 1, value: 0, hidden: true, "aria-label": "Loading" });
    this.button = el(
      "button",
      { type: "button", onclick: () => this.load() },
      `Load the model (${(size / 1e6).toFixed(0)} MB)`,
    );
    const promise = "It runs in your browser: nothing that you type leaves it.";
    this.said = el("p", { role: "status", class: "play-muted" }, promise);
    this.start = el("div", { class: "play-bar" }, this.button, this.bar);
    this.root.append(this.start, this.said);
  }

  async load() {
    this.button.disabled = true;
    this.bar.hidden = false;
    this.said.textContent = "Loading …";
    this.root.querySelector(".play-error")?.remove();
    if (location.protocol === "file:") this.bar.removeAttribute("value"); // not known there
    try {
      const source = await this.picture.load("gpt2-js");
      const file = await this.picture.load("fairy-gpt2", (done, total) => {
        this.bar.value = done / (total || this.picture.options.size);
      });
      this.said.textContent = "Loaded. The model is getting ready …";
      const text = new TextDecoder().decode(source.tensors.source.data);
      const blob = new Blob([text, `;(${serve})();`], { type: "text/javascript" });
      this.worker = new Worker(URL.createObjectURL(blob));
      this.worker.onmessage = ({ data }) => this.receive(data);
      this.worker.onerror = (event) => this.fail(new Error(event.message));
      this.worker.postMessage({ type: "load", buffer: file.buffer }, [file.buffer]);
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    this.button.disabled = false;
    this.bar.hidden = true;
    this.said.textContent = "";
    play.fail(this.root, error);
  }

  receive(message) {
    if (message.type === "ready") {
      this.config = message.config;
      // The button that has the focus goes: who came by keyboard goes on with the next one.
      const lost = [document.body, this.button].includes(document.activeElement);
      this.start.remove();
      this.build();
      if (lost) this.buttons.generate.focus({ preventScroll: true });
      this.read();
      this.show();
      this.showPart();
    } else if (message.type === "error") {
      this.busy = false;
      this.fail(new Error(message.message));
    } else {
      if (message.type !== "token") this.busy = false;
      this.take(message);
      if (this.wanted && !this.busy) this.send();
    }
  }

  /* ------------------------------------------------------------------------------ controls */

  build() {
    const { el } = play;
    const input = el("textarea", {
      id: `${this.root.id}-prompt`, rows: 2, spellcheck: "false",
      oninput: () => {
        this.prompt = input.value;
        this.read();
        this.note();
      },
    });
    input.value = this.prompt;
    this.input = input;

    this.prose = el("p", {
      class: "live-prose", role: "region", tabindex: 0, "aria-label": "The text", hidden: true,
    });
    this.story = el("div", {
      class: "live-tokens", role: "region", tabindex: 0, "aria-label": "The text, token by token",
    });
    const button = (label, onclick) => el("button", { type: "button", onclick }, label);
    this.buttons = {
      generate: button(`Generate ${AT_ONCE} tokens`, () => this.write(AT_ONCE)),
      step: button("One token", () => this.write(1)),
      stop: button("Stop", () => this.worker.postMessage({ type: "stop" })),
      again: button("Again", () => this.again()),
      back: button("Back to the prompt", () => this.read()),
    };
    this.buttons.again.title = "From the prompt and the seed, with as many tokens";
    this.buttons.back.title = "Forget what was generated";

    const draw = (change) => (value) => {
      change(value);
      this.settings();
    };
    const name = (k) => (k >= this.config.vocab_size ? "all" : k.toLocaleString("en"));
    this.sliders = {
      temperature: play.slider("Temperature", {
        min: 0, max: 2, step: 0.05, value: this.options.temperature, show: (v) => v.toFixed(2),
        change: draw((value) => (this.options.temperature = value)),
      }),
      top_k: play.slider("Top-k", {
        min: 0, max: TOP_K.length - 1, value: TOP_K.indexOf(this.options.top_k),
        show: (i) => name(TOP_K[i]), change: draw((i) => (this.options.top_k = TOP_K[i])),
      }),
      top_p: play.slider("Top-p", {
        min: 0.05, max: 1, step: 0.05, value: this.options.top_p, show: (v) => v.toFixed(2),
        change: draw((value) => (this.options.top_p = value)),
      }),
    };
    this.seed = el("input", {
      type: "number", min: 0, max: 999999, value: this.options.seed, class: "live-seed",
      onchange: () => {
        this.options.seed = Math.trunc(this.seed.valueAsNumber) || 0;
        this.read();
        this.note();
      },
    });

    this.before = el("div", { class: "live-bars" });
    this.after = el("div", { class: "live-bars" });
    this.moved = el("p", { class: "live-moved", role: "status" });
    this.switchesOff = button("Switch all on", () => this.switch(new Set()));
    this.sections = {
      tokenizer: el(
        "section", {},
        el("label", { for: input.id }, "Prompt"), input,
        el("div", { class: "play-bar" }, Object.values(this.buttons)),
        this.said, this.prose, this.story, this.sources("tokenizer"),
      ),
      sampling: el(
        "section", {},
        el("h3", {}, "The next token"),
        el(
          "div", { class: "play-bar" },
          Object.values(this.sliders).map((slider) => slider.element),
          el("label", { class: "play-field" }, "Seed", this.seed),
        ),
        el(
          "p", { class: "play-muted" },
          "The ten likeliest tokens: ", el("i", { class: "live-key-before" }),
          " how likely the model finds each, ", el("b", { class: "live-key-after" }),
          " how likely it is to be drawn with these settings (–: not at all).",
        ),
        el("div", { class: "live-columns" }, this.before, this.after),
        this.moved, this.sources("sampling"),
      ),
      attention: el(
        "section", {},
        el("h3", {}, "What each head looks at"),
        el(
          "p", { class: "play-muted" },
          "In a pattern, a row is a token, and the bluer a cell of it, the more it looks at the token " +
            "of that column. Choose a pattern to see it large. Clear a box to leave that part out, and " +
            "compare the next token above.",
        ),
        el(
          "div", { class: "live-heads" },
          el("div", {}, el("div", { class: "play-scroll" }, this.grid()), this.switchesOff),
          this.largePanel(),
        ),
        this.sources("attention"), this.sources("mlp"), this.sources("model"),
      ),
    };
    this.root.append(...Object.values(this.sections));
    this.checkState();
    this.showSwitches();
    this.showLarge();
  }

  /* Links to the lines that compute a part, in both languages. */
  sources(part) {
    return play.el(
      "p", { class: "play-source" },
      `${PARTS[part]}: `,
      this.picture.line(part), " and ", this.picture.line(`${part}-js`),
    );
  }

  /* ------------------------------------------------------------------------ heads and switches */

  grid() {
    const { el } = play;
    const { n_layer, n_head } = this.config;
    this.maps = [];
    this.boxes = new Map(); // the switches, by the name of what they leave out
    const box = (name, label) => {
      const input = el("input", {
        type: "checkbox", checked: true, "aria-label": label, tabindex: -1,
        onchange: () => this.switch(this.off, name, !input.checked),
      });
      this.boxes.set(name, input);
      return input;
    };
    const heads = Array.from({ length: n_head }, (_, h) => h);
    const head = (block, h) => {
      const canvas = el("canvas", { width: SMALL, height: SMALL });
      const open = el(
        "button",
        {
          type: "button", class: "live-map", tabindex: -1,
          "aria-label": `Open the pattern of block ${block}, head ${h}`,
          onclick: () => this.openHead(block, h),
        },
        canvas,
      );
      this.maps.push({ block, head: h, canvas, open });
      return el("td", {}, open, box(`h.${block}.attn.${h}`, `Block ${block}, head ${h}`));
    };
    const rows = Array.from({ length: n_layer }, (_, block) =>
      el(
        "tr", {},
        el("th", { scope: "row" }, String(block)),
        heads.map((h) => head(block, h)),
        el("td", {}, box(`h.${block}.mlp`, `Block ${block}, MLP`)),
        el("td", {}, box(`h.${block}.*`, `Block ${block}`)),
      ),
    );
    const titles = ["block", ...heads.map((h) => `head ${h}`), "MLP", "all of it"];
    const table = el(
      "table", { class: "live-grid", role: "grid", "aria-label": "Heads, MLPs and blocks" },
      el("thead", {}, el("tr", {}, titles.map((title) => el("th", { scope: "col" }, title)))),
      el("tbody", {}, rows),
    );
    this.roving(table);
    return table;
  }

  /* One stop of the Tab key for the whole table; the arrow keys go from cell to cell. */
  roving(table) {
    const lines = [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("button, input")]);
    lines[0][0].tabIndex = 0;
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    table.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      const row = lines.findIndex((line) => line.includes(event.target));
      if (!step || row < 0) return;
      event.preventDefault();
      const column = lines[row].indexOf(event.target) + step[1];
      lines[row + step[0]]?.[column]?.focus();
    });
    table.addEventListener("focusin", ({ target }) => {
      for (const item of lines.flat()) item.tabIndex = item === target ? 0 : -1;
    });
  }

  /* Leave out what is in `off`, and then, if a name is given, that or not. */
  switch(off, name, out) {
    this.off = new Set(off);
    if (out) this.off.add(name);
    else this.off.delete(name);
    this.showSwitches();
    this.read({ keep: true });
    this.note();
  }

  showSwitches() {
    for (const [name, input] of this.boxes) input.checked = !this.off.has(name);
    for (const { block, head, open } of this.maps) {
      const out = this.off.has(`h.${block}.attn.${head}`) || this.off.has(`h.${block}.*`);
      open.classList.toggle("live-off", out);
    }
    this.switchesOff.disabled = !this.off.size;
  }

  openHead(block, head) {
    this.open = this.open?.join() === `${block},${head}` ? null : [block, head];
    this.query = null;
    this.showLarge();
    if (this.open) this.large.scrollIntoView({ block: "nearest" });
    this.note();
  }

  /* --------------------------------------------------------------------- to the worker and back */

  /* Ask what the model says of the prompt, or, to keep the text, of the text as it is. While an
     answer is awaited, only the latest question is remembered. */
  read({ keep = false, tokens = 0 } = {}) {
    if (this.wanted) keep &&= this.wanted.keep;
    this.wanted = { keep, tokens };
    if (!this.busy) this.send();
  }

  send() {
    const { keep, tokens } = this.wanted;
    const { prompt, options } = this;
    this.wanted = null;
    this.busy = true;
    this.writing = false; // what was being written is broken off
    const off = [...this.off].sort();
    this.worker.postMessage({ type: "read", prompt, off, options: { ...options }, keep });
    if (tokens) this.write(tokens);
  }

  settings() {
    const message = { type: "options", options: { ...this.options }, tell: !this.writing };
    if (this.refused) this.read();
    else this.worker.postMessage(message);
    this.note();
  }

  write(tokens) {
    this.writing = true;
    this.worker.postMessage({ type: "write", tokens });
    this.show();
  }

  again() {
    this.read({ tokens: Math.max(this.tokens.length - this.prompted, 0) || AT_ONCE });
  }

  take(message) {
    if (message.type === "refused") {
      this.refused = message.tokens
        ? `The prompt has ${message.tokens} tokens, and the model has room for ${message.room}.`
        : "Type something: the model needs at least one token.";
      this.writing = false;
      this.tokens = [];
      this.rows = [];
    } else if (message.type === "token") {
      if (message.patterns) this.takeRows(message.patterns);
      if (!this.writing) return; // it comes late
      this.tokens.push(message.token);
      this.drawn = message.token.id;
      this.rate = message.count > 5 ? message.rate : null;
      if (message.chances) {
        this[this.off.size ? "cut" : "whole"] = message.chances;
        this.news = true;
      }
    } else {
      this.refused = null;
      if (message.wrote) this.writing = false;
      this.drawn = null;
      const { tokens, prompted, whole, cut, moved, full, ended, patterns } = message;
      Object.assign(this, { tokens, prompted, whole, cut, full, ended });
      this.share = moved;
      this.takeRows(patterns);
    }
    this.show();
  }

  takeRows({ from, rows }) {
    this.rows.length = from;
    this.rows.push(...rows);
    this.fresh = true; // for the large pattern
    this.due = this.maps.length; // as many small ones have to be drawn anew
  }

  /* ------------------------------------------------------------------------------- drawing */

  show() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.showText();
      if (!this.writing || this.news) this.showChances();
      this.news = false;
      if (!this.writing) {
        this.maps.forEach((map) => this.drawSmall(map));
        this.showLarge();
        return;
      }
      // Meanwhile a few patterns at a time, so that no frame takes long.
      for (const map of this.maps.slice(0, Math.min(this.due, A_FRAME))) this.drawSmall(map);
      this.maps.push(...this.maps.splice(0, A_FRAME));
      this.due = Math.max(0, this.due - A_FRAME);
      if (this.fresh) this.showLarge();
      this.fresh = false;
    });
  }

  showText() {
    const { el } = play;
    const shown = this.story.children;
    const keep = this.tokens.findIndex(
      (token, i) => shown[i]?.dataset.id !== String(token.id) ||
        shown[i].classList.contains("live-drawn") !== i >= this.prompted,
    );
    const from = keep < 0 ? this.tokens.length : keep;
    while (shown.length > from) shown[from].remove();
    for (const [i, { id, bytes, text }] of [...this.tokens.entries()].slice(from)) {
      const hex = bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
      this.story.append(
        el(
          "span",
          {
            class: `live-token play-box${i >= this.prompted ? " live-drawn" : ""}`, "data-id": id,
            title: `token ${id}, bytes ${hex}`,
          },
          el("span", {}, text === null ? `⟨${hex}⟩` : play.token(text)),
          el("small", {}, String(id)),
        ),
      );
    }
    const read = (tokens) => new TextDecoder().decode(Uint8Array.from(tokens.flatMap(({ bytes }) => bytes)));
    this.prose.hidden = this.tokens.length <= this.prompted;
    this.prose.replaceChildren(
      read(this.tokens.slice(0, this.prompted)),
      el("span", { class: "live-new" }, read(this.tokens.slice(this.prompted))),
    );
    if (this.writing) {
      for (const box of [this.story, this.prose]) box.scrollTop = box.scrollHeight;
    }
    const { generate, step, stop, again, back } = this.buttons;
    const done = Boolean(this.refused || this.full || this.ended);
    generate.disabled = step.disabled = this.writing || done;
    again.disabled = this.writing || Boolean(this.refused);
    stop.disabled = !this.writing;
    back.disabled = this.tokens.length <= this.prompted;
    const n = this.tokens.length;
    const speed = this.rate ? `, ${this.rate.toFixed(0)} tokens a second` : "";
    const end = this.ended ? ": the text has ended" : this.full ? ": the context is full" : "";
    const count = n === 1 ? "1 token" : `${n} tokens`;
    this.said.textContent = this.writing ? "Writing …" : this.refused ?? `${count}${speed}${end}`;
  }

  showChances() {
    const parts = this.off.size;
    const title = `Without ${parts === 1 ? "one part" : `${parts} parts`}`;
    const whole = this.refused ? [] : this.whole ?? [];
    const cut = this.refused ? [] : this.cut ?? [];
    this.before.classList.toggle("live-stale", Boolean(parts && this.writing));
    this.before.replaceChildren(...this.bars(parts ? "The whole model" : "", whole, !parts));
    this.after.replaceChildren(...(parts ? this.bars(title, cut, true) : []));
    const share = this.share;
    this.moved.textContent = parts && share != null && !this.refused && !this.writing
      ? `Without ${parts === 1 ? "it" : "them"}, ${(100 * share).toFixed(1)} % of the probability ` +
        "is at other tokens."
      : "";
  }

  bars(title, chances, draws) {
    const { el } = play;
    const percent = (p) => (p < 0.0005 ? "<0.1" : (100 * p).toFixed(p >= 0.0995 ? 0 : 1));
    const top = Math.max(...chances.map(({ before, after }) => Math.max(before, after)), 1e-9);
    const rows = chances.map(({ id, text, bytes, before, after }) => {
      const label = text === null ? `⟨${bytes.map((b) => b.toString(16)).join(" ")}⟩` : play.token(text);
      return el(
        "li",
        { class: `${after ? "" : "live-cut"}${id === this.drawn && draws ? " live-hit" : ""}` },
        el("span", { class: "live-label" }, label),
        el(
          "span", { class: "live-bar", "aria-hidden": "true" },
          el("i", { style: `width: ${(100 * before) / top}%` }),
          el("b", { style: `width: ${(100 * after) / top}%` }),
        ),
        el("span", { class: "live-number" }, `${percent(before)} → ${after ? percent(after) : "–"} %`),
      );
    });
    return [...(title ? [el("h4", {}, title)] : []), el("ol", {}, rows)];
  }

  /* The weight with which a query looks at a key, from 0 to 1. */
  weight(block, head, query, key) {
    const row = this.rows[query];
    return row[(block * this.config.n_head + head) * (query + 1) + key] / 255;
  }

  /* The tokens whose rows are there. */
  get length() {
    return Math.min(this.rows.length, this.tokens.length);
  }

  drawSmall({ block, head, canvas, open }) {
    const T = this.length;
    const n = Math.min(T, SMALL);
    const side = n || 1;
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    const image = context.createImageData(side, side);
    const [r, g, b] = this.colour();
    for (let y = 0; y < n; y++) {
      for (let x = 0; x <= y; x++) {
        // One pixel for one weight; of a longer text, the largest of those that share the pixel.
        let most = 0;
        for (let q = Math.floor((y * T) / n); q < ((y + 1) * T) / n; q++) {
          for (let k = Math.floor((x * T) / n); k < ((x + 1) * T) / n && k <= q; k++) {
            most = Math.max(most, this.weight(block, head, q, k));
          }
        }
        image.data.set([r, g, b, 255 * shade(most)], 4 * (y * side + x));
      }
    }
    context.putImageData(image, 0, 0);
    open.setAttribute("aria-pressed", String(this.open?.join() === `${block},${head}`));
  }

  colour() {
    const hex = getComputedStyle(this.root).getPropertyValue("--play-blue").trim().slice(1);
    return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
  }

  /* The place of the large pattern: a picture, and a row of it to read. */
  largePanel() {
    const { el } = play;
    this.largeTitle = el("h4");
    this.canvas = el("canvas", {
      role: "img",
      onclick: ({ offsetY }) => {
        this.query = Math.floor((offsetY / this.canvas.clientHeight) * this.rows.length);
        this.showLarge();
      },
    });
    this.row = play.slider("Query", {
      min: 0, max: 0, value: 0,
      change: (t) => {
        this.query = t;
        this.showLarge();
      },
    });
    this.looked = el("p", { class: "live-looked" });
    this.hint = el(
      "p", { class: "live-hint play-muted" },
      "A pattern that you choose is shown here, with what each token looks at.",
    );
    this.large = el(
      "div", { class: "live-large", hidden: true },
      this.largeTitle, this.canvas, el("div", { class: "play-bar" }, this.row.element), this.looked,
    );
    return [this.hint, this.large];
  }

  showLarge() {
    for (const { block, head, open } of this.maps) {
      open.setAttribute("aria-pressed", String(this.open?.join() === `${block},${head}`));
    }
    const T = this.length;
    this.large.hidden = !this.open || !T;
    this.hint.hidden = !this.large.hidden;
    if (this.large.hidden) return;
    const [block, head] = this.open;
    const query = Math.min(this.query ?? T - 1, T - 1);
    this.largeTitle.textContent = `Block ${block}, head ${head}`;
    this.canvas.setAttribute("aria-label", `The pattern of block ${block}, head ${head}`);
    const side = Math.max(2, Math.min(24, Math.floor(480 / T)));
    this.canvas.width = this.canvas.height = T * side;
    const context = this.canvas.getContext("2d");
    const [r, g, b] = this.colour();
    const image = new ImageData(T, T); // a pixel for each weight, then made larger
    for (let q = 0; q < T; q++) {
      for (let k = 0; k <= q; k++) {
        image.data.set([r, g, b, 255 * shade(this.weight(block, head, q, k))], 4 * (q * T + k));
      }
    }
    context.putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.globalCompositeOperation = "copy";
    context.drawImage(this.canvas, 0, 0, T, T, 0, 0, T * side, T * side);
    context.globalCompositeOperation = "source-over";
    context.strokeStyle = getComputedStyle(this.root).getPropertyValue("--play-orange");
    context.lineWidth = 2;
    context.strokeRect(1, query * side, (query + 1) * side - 1, side);
    const { text } = this.tokens[query];
    const name = `${query}, ${text === null ? "part of a character" : play.token(text)}`;
    this.row.input.max = T - 1;
    this.row.input.value = query;
    this.row.input.setAttribute("aria-valuetext", name);
    this.row.element.querySelector("output").textContent = name;
    this.looked.replaceChildren(
      ...this.tokens.slice(0, query + 1).map((token, key) => {
        const weight = this.weight(block, head, query, key);
        return play.el(
          "span",
          {
            class: `play-token${key === query ? " live-query" : ""}`,
            title: `${(100 * weight).toFixed(0)} %`,
            style: `background: rgba(${r}, ${g}, ${b}, ${shade(weight) * 0.7})`,
          },
          token.text === null ? "⟨…⟩" : play.token(token.text),
        );
      }),
    );
  }

  /* -------------------------------------------------------------------------- the address */

  note() {
    const state = { prompt: this.prompt, ...this.options };
    if (this.off.size) state.off = [...this.off].sort().join(" ");
    if (this.open) state.head = this.open.join(".");
    this.picture.state = state;
  }

  restore({ part, prompt, off, head, ...options }) {
    for (const key of Object.keys(DEFAULTS)) {
      const value = Number(options[key]);
      if (key in options && Number.isFinite(value) && value >= 0) this.options[key] = value;
    }
    if (!TOP_K.includes(this.options.top_k)) this.options.top_k = DEFAULTS.top_k;
    if (prompt != null) {
      this.prompt = prompt;
      this.off = new Set((off ?? "").split(" ").filter(Boolean));
      this.open = /^\d+\.\d+$/.test(head) ? head.split(".").map(Number) : null;
    }
    this.part = part ?? null;
    if (!this.config) return;
    this.checkState();
    this.input.value = this.prompt;
    const { temperature, top_k, top_p } = this.sliders;
    for (const [{ input }, value] of [
      [temperature, this.options.temperature],
      [top_k, TOP_K.indexOf(this.options.top_k)],
      [top_p, this.options.top_p],
    ]) {
      input.value = value;
      input.dispatchEvent(new Event("input"));
    }
    this.seed.value = this.options.seed;
    this.showSwitches();
    this.read();
    this.showPart();
  }

  /* Forget what this model does not have: an address can be written by anyone. */
  checkState() {
    const { n_layer, n_head } = this.config;
    if (this.open && !(this.open[0] < n_layer && this.open[1] < n_head)) this.open = null;
    this.off = new Set([...this.off].filter((name) => this.boxes.has(name)));
  }

  showPart() {
    const part = this.part?.replace("-js", "");
    const section = this.sections[{ mlp: "attention", model: "attention" }[part] ?? part];
    section?.scrollIntoView({ block: "start" });
  }
}

play.define("live", (root, picture) => new Live(root, picture));

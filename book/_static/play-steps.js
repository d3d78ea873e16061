/* "Step through": a forward pass of both models, block by block and side by side. The numbers are
   those of book/_kit/step_data.py. The state is one object; whatever changes it calls update. */

"use strict";

play.define("steps", async (root, picture) => {
  const { prompts } = picture.options; // {key: text}
  const NAMES = { gpt2: "GPT-2", gemma3: "Gemma 3" };
  const MODELS = Object.keys(NAMES);
  const PARTS = {
    embedding: "embedding", norm: "norms", qkv: "q, k, v", rope: "RoPE", pattern: "pattern",
    values: "values", mlp: "MLP", output: "output",
  };
  const state = {
    prompt: Object.keys(prompts)[0],
    part: "pattern",
    model: MODELS[0], // the one that leads, if both go in step
    lock: true,
    layer: { gpt2: Infinity, gemma3: 0 }, // at first near the end, where there is most to see
    position: { gpt2: 0, gemma3: 0 },
    head: { gpt2: 0, gemma3: 0 },
  };
  const files = {}; // by name, the promise of each file
  let runs = null; // {gpt2, gemma3} of the chosen prompt, once it is there
  let asked = null; // the prompt that is being loaded

  // ------------------------------------------------------------------------------------ data

  /* One model's numbers of a file: run.at("adds", layer, branch, position). */
  class Run {
    constructor(model, { about, tensors }) {
      this.about = about[model];
      this.tensors = tensors;
      this.model = model;
    }

    /* The last axes of an array, from a place on. */
    row(name, ...place) {
      const { shape, data } = this.tensors[`${this.model}.${name}`];
      const size = shape.slice(place.length).reduce((a, b) => a * b, 1);
      const start = place.reduce((index, at, axis) => index * shape[axis] + at, 0) * size;
      return data.subarray(start, start + size);
    }

    at(name, ...place) {
      return this.row(name, ...place)[0];
    }

    /* How much each key gets from a query, between 0 and 1. */
    pattern(layer, head, position) {
      return Array.from(this.row("patterns", layer, head, position), (weight) => weight / 65535);
    }

    /* A vector that is stored in 8 bits. */
    vector(name, ...place) {
      const scale = this.at(`${name}_scale`, ...place);
      return Array.from(this.row(name, ...place), (integer) => integer * scale);
    }

    get T() {
      return this.about.tokens.length;
    }

    text(id) {
      return play.token(this.about.texts[id]);
    }

    token(position) {
      return play.token(this.about.tokens[position].text);
    }

    likeliest(depth, position) {
      const ids = this.row("likeliest", depth, position);
      const p = this.row("likeliest_p", depth, position);
      return Array.from(ids, (id, i) => ({ id, text: this.text(id), p: p[i] }));
    }

    /* Where each token ends in the text, in bytes; <bos> ends where the text begins. */
    get ends() {
      let end = 0;
      return this.about.tokens.map(({ text, bytes }) => (end += text === "<bos>" ? 0 : bytes.length));
    }
  }

  function load(name) {
    files[name] ??= picture.load(name);
    files[name].catch(() => delete files[name]); // so that it can be tried again
    return files[name];
  }

  // ----------------------------------------------------------------------------------- state

  /* With the lock on, the model that does not lead stands at the same depth, at the token in
     which the leader's token ends. */
  function follow() {
    for (const model of MODELS) {
      const { about, T } = runs[model];
      state.layer[model] = Math.min(state.layer[model], about.L - 1);
      state.position[model] = Math.min(state.position[model], T - 1);
      state.head[model] = Math.min(state.head[model], about.H - 1);
    }
    if (!state.lock) return;
    const [lead, other] = state.model === "gpt2" ? MODELS : [...MODELS].reverse();
    const depth = state.layer[lead] / Math.max(1, runs[lead].about.L - 1);
    state.layer[other] = Math.round(depth * (runs[other].about.L - 1));
    const end = runs[lead].ends[state.position[lead]];
    const found = runs[other].ends.findIndex((other_end) => other_end >= end);
    state.position[other] = found < 0 ? runs[other].T - 1 : found;
  }

  function write() {
    const { prompt, part, model, lock } = state;
    const of = (name) => ({ layer: state.layer[name], position: state.position[name], head: state.head[name] });
    const other = MODELS.find((name) => name !== model);
    const values = { prompt, part, model, ...of(model), with: state.head[other] };
    if (!lock) values.with = Object.values(of(other)).join("."); // layer.position.head
    picture.state = values;
  }

  async function restore(values) {
    const [model, part] = values.part?.includes(".") ? values.part.split(".") : [values.model, values.part];
    if (MODELS.includes(model)) state.model = model;
    if (part in PARTS) state.part = part;
    for (const name of ["layer", "position", "head"]) {
      const number = Number.parseInt(values[name], 10);
      if (number >= 0) state[name][state.model] = number;
    }
    const other = MODELS.find((name) => name !== state.model);
    const numbers = (values.with ?? "").split(".").map((text) => Number.parseInt(text, 10));
    state.lock = numbers.length !== 3;
    if (numbers.every((number) => number >= 0)) {
      if (state.lock) [state.head[other]] = numbers;
      else [state.layer[other], state.position[other], state.head[other]] = numbers;
    }
    await choose(values.prompt in prompts ? values.prompt : state.prompt);
  }

  /* Show a prompt, if wanted from its last token on; false if it is not there, or no longer asked
     for. What is shown without its data is only what went wrong. */
  async function choose(prompt, start = false) {
    asked = prompt;
    prompt_choice.input.value = prompt;
    try {
      const content = await load(`steps-${prompt}`);
      if (asked !== prompt) return false; // meanwhile another one was chosen
      state.prompt = prompt;
      runs = Object.fromEntries(MODELS.map((model) => [model, new Run(model, content)]));
      failure.replaceChildren();
      frame.hidden = false;
    } catch (error) {
      if (asked !== prompt) return false;
      failure.replaceChildren(error.message);
      frame.hidden = true;
      return false;
    }
    if (start) for (const model of MODELS) state.position[model] = runs[model].T - 1;
    if (state.layer.gpt2 === Infinity) state.layer.gpt2 = Math.round(0.85 * (runs.gpt2.about.L - 1));
    for (const panel of panels) panel.take(runs[panel.model]);
    update();
    return true;
  }

  function update(changed = false) {
    if (!runs) return;
    follow();
    if (changed) write();
    for (const [key, button] of Object.entries(part_buttons)) {
      button.setAttribute("aria-selected", String(key === state.part));
      button.tabIndex = key === state.part ? 0 : -1;
    }
    lock.input.checked = state.lock;
    for (const panel of panels) panel.update();
    const run = runs[state.model];
    const [best] = run.likeliest(state.layer[state.model] + 1, state.position[state.model]);
    spoken.textContent = `${NAMES[state.model]}, block ${state.layer[state.model]}, token `
      + `${run.token(state.position[state.model])}: would say ${best.text}, ${percent(best.p)}`;
  }

  /* Change what the state says of one model, which leads from now on. */
  function go(model, changes) {
    state.model = model;
    for (const [name, value] of Object.entries(changes)) {
      const { about, T } = runs[model];
      const last = { layer: about.L, position: T, head: about.H }[name] - 1;
      state[name][model] = Math.max(0, Math.min(last, value));
    }
    update(true);
  }

  function show(part) {
    state.part = part;
    update(true);
  }

  // ------------------------------------------------------------------------------- small things

  const percent = (p) => {
    if (p < 0.0005) return "< 0.1 %";
    return p >= 0.0995 ? `${Math.round(100 * p)} %` : `${(100 * p).toFixed(1)} %`;
  };
  const number = (x) => {
    if (Math.abs(x) >= 1000) return Math.round(x).toLocaleString("en");
    return x.toFixed(Math.abs(x) >= 100 ? 0 : Math.abs(x) >= 1 ? 1 : 2);
  };
  const signed = (x) => (x < 0 ? `−${number(-x)}` : number(x));

  /* A row of a table of bars: what it is, a bar as long as a share says, and the number. */
  function bar(label, share, text, { color = "grey", chosen = false, key, choose: take, title } = {}) {
    const name = take
      ? play.el("button", { type: "button", class: "steps-name", "data-key": key, onclick: take }, label)
      : play.el("span", { class: "steps-name", title: title ?? label }, label);
    const width = `${(100 * Math.max(0, Math.min(1, share))).toFixed(1)}%`;
    return play.el("div", { class: `steps-bar${chosen ? " steps-chosen" : ""}` },
      name,
      play.el("span", { class: "steps-track", "aria-hidden": "true" },
        play.el("span", { class: `steps-fill steps-${color}`, style: `width:${width}` })),
      play.el("span", { class: "steps-number" }, text));
  }

  const bars = (rows) => play.el("div", { class: "steps-bars" }, rows);

  /* Numbers as a row of colours: blue above zero, orange below, as strong as they are large. */
  function strip(values, most) {
    const canvas = play.el("canvas", { class: "steps-strip", width: values.length, height: 1, "aria-hidden": "true" });
    const context = canvas.getContext("2d");
    const image = context.createImageData(values.length, 1);
    values.forEach((value, i) => {
      const [r, g, b] = value < 0 ? [224, 138, 30] : [47, 143, 208];
      image.data.set([r, g, b, Math.round(255 * Math.min(1, Math.abs(value) / most) ** 0.7)], 4 * i);
    });
    context.putImageData(image, 0, 0);
    return canvas;
  }

  const largest = (vectors) => Math.max(1e-9, ...vectors.map((values) => Math.max(...values.map(Math.abs))));

  /* A pattern (T, T) as a small picture. */
  function thumbnail(run, layer, head) {
    const canvas = play.el("canvas", { class: "steps-thumbnail", width: run.T, height: run.T, "aria-hidden": "true" });
    const context = canvas.getContext("2d");
    const image = context.createImageData(run.T, run.T);
    for (let query = 0; query < run.T; query++) {
      run.pattern(layer, head, query).forEach((weight, key) => {
        image.data.set([47, 143, 208, Math.round(255 * weight ** 0.6)], 4 * (query * run.T + key));
      });
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  // ----------------------------------------------------------------------------------- panels

  /* Everything about one model. */
  class Panel {
    constructor(model) {
      this.model = model;
      this.facts = play.el("span", { class: "play-muted" });
      this.tokens = play.el("div", { class: "steps-tokens", role: "group", "aria-label": `${NAMES[model]}: tokens` });
      this.drawing = play.el("div", { class: "steps-drawing", "aria-hidden": "true" });
      this.depth = play.el("div", { class: "steps-depth", "aria-hidden": "true" });
      this.slider = play.slider("Block", {
        min: 0, max: 1, value: 0, change: (layer) => this.go({ layer }),
      });
      this.summary = play.el("div", { class: "steps-summary" });
      this.details = play.el("div", { class: "steps-details" });
      this.element = play.el("div", {
        class: "steps-panel", role: "group", tabindex: "0", "aria-label": `${NAMES[model]}: arrow keys choose token and block`,
        onkeydown: (event) => this.key(event),
      },
      play.el("div", { class: "steps-title" }, play.el("strong", {}, NAMES[model]), this.facts),
      this.tokens, this.drawing, this.slider.element, this.depth, this.summary, this.details);
    }

    get layer() {
      return state.layer[this.model];
    }

    get position() {
      return state.position[this.model];
    }

    get head() {
      return state.head[this.model];
    }

    /* The head whose keys and values the chosen head uses. */
    get shared() {
      return Math.floor((this.head * this.run.about.K) / this.run.about.H);
    }

    go(changes) {
      go(this.model, changes);
    }

    key(event) {
      if (event.target.matches("input, select") || event.ctrlKey || event.altKey || event.metaKey) return;
      const changes = {
        ArrowLeft: { position: this.position - 1 },
        ArrowRight: { position: this.position + 1 },
        ArrowUp: { layer: this.layer - 1 },
        ArrowDown: { layer: this.layer + 1 },
      }[event.key];
      if (!changes) return;
      event.preventDefault();
      this.go(changes);
    }

    /* Show another run: new tokens, another number of blocks. */
    take(run) {
      this.run = run;
      const { L, H, K, C } = run.about;
      const shared = K < H ? ` that share ${K === 1 ? "one key and value" : `${K} keys and values`}` : "";
      this.facts.textContent = ` ${L} blocks, ${H} heads${shared}, ${C} features`;
      this.slider.input.max = L - 1;
      this.buttons = run.about.tokens.map(({ id, text }, position) => play.el("button", {
        type: "button", class: "steps-token play-box", title: `token ${position}, id ${id}`,
        onclick: () => this.go({ position }),
      }, play.el("span", {}, play.token(text)), play.el("small", {}, String(id))));
      this.tokens.replaceChildren(...this.buttons);
    }

    update() {
      const held = this.buttons.includes(document.activeElement);
      this.buttons.forEach((button, position) => {
        button.setAttribute("aria-pressed", String(position === this.position));
        button.tabIndex = position === this.position ? 0 : -1; // the arrow keys reach the others
      });
      if (held) this.buttons[this.position].focus({ preventScroll: true });
      const { input, element } = this.slider;
      input.value = this.layer;
      const kind = this.kind();
      const shown = `${this.layer}${kind ? `, ${kind}` : ""}`;
      element.querySelector("output").textContent = shown;
      input.setAttribute("aria-valuetext", shown);
      input.setAttribute("aria-label", `${NAMES[this.model]}: block`);
      this.drawing.replaceChildren(this.draw());
      this.depth.replaceChildren(this.drawDepth());
      this.summary.replaceChildren(...this.summarize());
      const focus = this.details.contains(document.activeElement) && document.activeElement.dataset.key;
      this.fill();
      if (focus) this.details.querySelector(`[data-key="${focus}"]`)?.focus();
    }

    /* Whether a layer sees everything, in a model that has two kinds. */
    kind(layer = this.layer) {
      const { layers, context } = this.run.about;
      return layers && (layers[layer].window < context ? "local" : "global");
    }

    /* The block as a drawing; what the other model lacks is orange, the chosen part filled. */
    draw() {
      const gemma = this.model === "gemma3";
      const box = (part, x, y, text, { own = false, width = 58, more } = {}) => {
        const classes = `steps-box${own ? " steps-own" : ""}${part === state.part ? " steps-on" : ""}`;
        return play.svg("g", { class: classes, "data-part": part, onclick: () => { state.model = this.model; show(part); } },
          play.svg("rect", { x: x - width / 2, y: y - (more ? 18 : 12), width, height: more ? 36 : 24, rx: 5 }),
          play.svg("text", { x, y: y + (more ? -3 : 4) }, text),
          more ? play.svg("text", { x, y: y + 12 }, more) : null);
      };
      const plus = (x) => play.svg("g", { class: "steps-plus" },
        play.svg("circle", { cx: x, cy: 130, r: 8 }),
        play.svg("path", { d: `M${x - 4} 130h8m-4 -4v8` }));
      const { H, K } = this.run.about;
      return play.svg("svg", { viewBox: "0 0 440 154" },
        play.svg("rect", { class: "steps-frame", x: 63, y: 2, width: 314, height: 148, rx: 8 }),
        play.svg("path", { class: "steps-stream", d: "M6 130H434" }),
        play.svg("path", { class: "steps-flow steps-line-blue", d: "M104 130V20H232V122" }),
        play.svg("path", { class: "steps-flow steps-line-green", d: "M296 130V56H346V122" }),
        play.svg("text", { class: "steps-label steps-text-blue", x: 168, y: gemma ? 60 : 52 }, "attention"),
        gemma ? play.svg("text", { class: "steps-label steps-text-own", x: 168, y: 76 }, this.kind()) : null,
        play.svg("text", { class: "steps-label", x: 321, y: 24 }, `block ${this.layer}`),
        box("embedding", 31, 130, "embed", { own: !gemma, width: 54, more: gemma ? null : "+ place" }),
        box("norm", 104, 92, gemma ? "RMSNorm" : "LayerNorm", { width: 74 }),
        box("qkv", 104, 56, K < H ? `${H}q ${K}k ${K}v` : "q k v", { own: K < H }),
        gemma ? box("qkv", 104, 20, "QK-norm", { own: true, width: 62 }) : null,
        gemma ? box("rope", 168, 20, "RoPE", { own: true, width: 50 }) : null,
        box("pattern", 232, 20, "pattern"),
        box("values", 232, 56, "values"),
        gemma ? box("norm", 232, 92, "norm", { own: true, width: 50 }) : null,
        box("norm", 296, 92, "norm", { width: 44 }),
        box("mlp", 321, 56, gemma ? "gated MLP" : "MLP", { own: gemma, width: 96 }),
        gemma ? box("norm", 346, 92, "norm", { own: true, width: 44 }) : null,
        plus(232), plus(346),
        box("output", 408, 130, "output", { width: 54 }));
    }

    /* The stream and what is added to it, block by block, on one scale. */
    drawDepth() {
      const { run, position } = this;
      const { L } = run.about;
      const [width, height] = [440 / L, 60];
      const most = Math.max(...Array.from({ length: L + 1 }, (_, depth) => run.at("stream", depth, position)),
        ...Array.from({ length: L }, (_, layer) => [0, 1].map((branch) => run.at("adds", layer, branch, position))).flat());
      const column = (layer, x, value, name) => play.svg("rect", {
        class: `steps-area-${name}`, x: layer * width + x * width, y: height - (height - 4) * (value / most),
        width: width * (name === "grey" ? 0.9 : 0.32), height: (height - 4) * (value / most),
      });
      const columns = Array.from({ length: L }, (_, layer) => play.svg("g", {
        class: `steps-column${layer === this.layer ? " steps-on" : ""}`, onclick: () => this.go({ layer }),
      },
      play.svg("rect", { class: "steps-back", x: layer * width, y: 0, width, height: height + 14 }),
      column(layer, 0.05, run.at("stream", layer + 1, position), "grey"),
      column(layer, 0.15, run.at("adds", layer, 0, position), "blue"),
      column(layer, 0.53, run.at("adds", layer, 1, position), "green"),
      play.svg("text", { x: (layer + 0.5) * width, y: height + 11, class: this.kind(layer) === "global" ? "steps-text-own" : "" },
        L < 20 || layer % 2 === 0 ? String(layer) : "")));
      return play.svg("svg", { viewBox: `0 0 440 ${height + 16}` }, columns);
    }

    /* The chosen block in lengths. */
    summarize() {
      const { run, layer, position } = this;
      const before = run.at("stream", layer, position);
      const after = run.at("stream", layer + 1, position);
      const adds = [0, 1].map((branch) => run.at("adds", layer, branch, position));
      const turns = [0, 1].map((branch) => Math.round(run.at("turns", layer, branch, position)));
      const most = Math.max(before, after, ...adds);
      const [best] = run.likeliest(layer + 1, position);
      return [
        play.el("p", { class: "play-muted" },
          `Lengths in block ${layer} (in degrees, how far a branch turns the stream), at `,
          play.el("span", { class: "play-token" }, run.token(position))),
        bars([
          bar("stream before", before / most, number(before)),
          bar("+ attention", adds[0] / most, `${number(adds[0])}, turns ${turns[0]}°`, { color: "blue" }),
          bar("+ MLP", adds[1] / most, `${number(adds[1])}, turns ${turns[1]}°`, { color: "green" }),
          bar("= stream after", after / most, number(after)),
        ]),
        play.el("p", { class: "steps-says" }, "If the model stopped here, it would say ",
          play.el("span", { class: "steps-answer" },
            play.el("span", { class: "play-token" }, best.text), ` ${percent(best.p)}`)),
      ];
    }

    /* The details of the chosen part. */
    fill() {
      const line = picture.lines[`${this.model}.${state.part}`];
      const make = details[state.part];
      const content = make(this);
      this.details.replaceChildren(
        play.el("div", { class: "steps-head" },
          play.el("strong", {}, PARTS[state.part]),
          line ? picture.line(`${this.model}.${state.part}`) : null),
        ...content);
    }

    /* A note on what is this model's own. */
    own(text) {
      return play.el("p", { class: "steps-note" }, text);
    }

    /* Buttons for the heads, each with its pattern. */
    heads() {
      return play.el("div", { class: "steps-heads", role: "group", "aria-label": "heads" },
        Array.from({ length: this.run.about.H }, (_, head) => play.el("button", {
          type: "button", "data-key": `head-${head}`, "aria-pressed": String(head === this.head),
          "aria-label": `head ${head}`, onclick: () => this.go({ head }),
        }, thumbnail(this.run, this.layer, head), play.el("small", {}, String(head)))));
    }

    /* What needs q, k or v comes when their file is there. */
    vectors(make) {
      const place = play.el("div", {}, play.el("p", { class: "play-muted" }, "Loading q, k and v …"));
      const name = `steps-${state.prompt}-vectors`;
      const { model } = this;
      const fill = (content) => place.replaceChildren(...make(new Run(model, content)));
      if (arrived[name]) fill(arrived[name]);
      else {
        load(name).then((content) => {
          arrived[name] = content;
          if (place.isConnected) fill(content);
        }, (error) => place.replaceChildren(play.el("p", { class: "play-error", role: "alert" }, error.message)));
      }
      return place;
    }
  }

  const arrived = {}; // the files of vectors that are there

  // ---------------------------------------------------------------------------------- details

  /* A table of bars for the likeliest tokens at a depth. */
  function likeliest(run, depth, position) {
    return bars(run.likeliest(depth, position).map(({ id, text, p }) =>
      bar(text, p, percent(p), { color: "purple", chosen: id === run.at("answer", position), title: `id ${id}` })));
  }

  /* The vectors of all tokens as strips; `at` of a token gives its vector. */
  function strips(panel, title, at, of_length) {
    const { run, position } = panel;
    const vectors = Array.from({ length: run.T }, (_, t) => at(t));
    const most = largest(vectors);
    return play.el("div", { class: "steps-strips" },
      play.el("div", { class: "play-muted" }, title),
      vectors.map((values, t) => play.el("div", {
        class: `steps-bar${t === position ? " steps-chosen" : ""}`, onclick: () => panel.go({ position: t }),
      }, play.el("span", { class: "steps-name" }, run.token(t)), strip(values, most),
      play.el("span", { class: "steps-number" }, number(of_length(t))))));
  }

  const details = {
    embedding({ run, position, model, own }) {
      const { id, bytes } = run.about.tokens[position];
      const codes = bytes.map((byte) => play.el("span", { class: "steps-byte" },
        byte.toString(16).toUpperCase().padStart(2, "0"),
        play.el("small", {}, byte > 32 && byte < 127 ? String.fromCharCode(byte) : byte === 32 ? "␣" : "·")));
      const start = run.at("stream", 0, position);
      const [token, place] = [run.at("embedding", 0, position), model === "gpt2" ? run.at("embedding", 1, position) : 0];
      const most = Math.max(start, token, place);
      return [
        play.el("p", {}, "Token ", play.el("span", { class: "play-token" }, run.token(position)), ` has the id ${id}`
          + `${run.about.tokens[position].text === "<bos>" ? "; it stands for no bytes of the text." : ` and stands for ${bytes.length} ${bytes.length === 1 ? "byte" : "bytes"}:`}`),
        run.about.tokens[position].text === "<bos>" ? null : play.el("p", {}, codes),
        bars([
          bar("row of the id", token / most, number(token)),
          model === "gpt2" ? bar(`+ row of place ${position}`, place / most, number(place), { color: "orange" }) : null,
          bar("= stream", start / most, number(start)),
        ]),
        own(model === "gpt2"
          ? "Where the token stands is a vector of its own, added once and for all."
          : `The row is multiplied by √${run.about.C}. Nothing says yet where the token stands; RoPE will, in each block.`),
        play.el("p", { class: "play-muted" }, "Before any block, the final norm and the output embedding would say:"),
        likeliest(run, 0, position),
      ].filter(Boolean);
    },

    norm({ run, layer, position, model, own }) {
      const pairs = [
        ["stream", run.at("stream", layer, position), "attention reads", run.at("reads", layer, 0, position), "blue"],
        ["stream + attention", run.at("middle", layer, position), "MLP reads", run.at("reads", layer, 1, position), "green"],
      ];
      if (model === "gemma3") {
        pairs.splice(1, 0, ["attention gives", run.at("outs", layer, 0, position), "and adds", run.at("adds", layer, 0, position), "orange"]);
        pairs.push(["MLP gives", run.at("outs", layer, 1, position), "and adds", run.at("adds", layer, 1, position), "orange"]);
      }
      const rows = pairs.map(([name, before, then, after, color]) => play.el("div", { class: "steps-pair" }, bars([
        bar(name, before / Math.max(before, after), number(before)),
        bar(`→ ${then}`, after / Math.max(before, after), number(after), { color }),
      ])));
      return [...rows, own(model === "gpt2"
        ? "LayerNorm takes the mean away, divides by the standard deviation, and multiplies and shifts each feature. What a branch gives is added as it is."
        : "RMSNorm takes no mean away and shifts nothing. A second norm stands behind each branch, so that its weights decide how long a vector is added, however long it came.")];
    },

    qkv(panel) {
      const { run, layer, position, head, shared, model, own } = panel;
      const { H, K, d } = run.about;
      const before = model === "gemma3" && [run.at("q_before", layer, head, position), run.at("k_before", layer, shared, position)];
      return [
        panel.heads(),
        own(K < H
          ? `${H} heads ask with queries of their own; ${K === 1 ? "one key and one value" : `${K} keys and values`} a token answer all of them.`
          : "Each head has queries, keys and values of its own."),
        before ? own(`QK-norm made the chosen query ${number(run.at("q_length", layer, head, position))} long, which was ${number(before[0])}; and the key ${number(run.at("k_length", layer, shared, position))}, which was ${number(before[1])}.`) : null,
        panel.vectors((vectors) => [
          strips(panel, `q of head ${head}: ${d} features, and the length`, (t) => vectors.vector("q", layer, head, t), (t) => run.at("q_length", layer, head, t)),
          strips(panel, K < H ? "k, shared" : "k", (t) => vectors.vector("k", layer, shared, t), (t) => run.at("k_length", layer, shared, t)),
          strips(panel, K < H ? "v, shared" : "v", (t) => vectors.vector("v", layer, shared, t), (t) => run.at("v_length", layer, shared, t)),
        ]),
      ].filter(Boolean);
    },

    rope(panel) {
      const { run, layer, position, head, shared, model, own } = panel;
      if (model === "gpt2") {
        return [own(`GPT-2 turns nothing. Its place, ${position}, was added to the token's vector in the embedding, and keys and queries know of it only what came through the norms.`)];
      }
      const { d, layers } = run.about;
      const { theta } = layers[layer];
      const half = d / 2;
      return [
        panel.heads(),
        own(`Feature i and feature i + ${half} are a pair, which is turned by ${position} · ${theta.toLocaleString("en")}^(−i/${half}) radians. This ${panel.kind()} block has the base ${theta.toLocaleString("en")}.`),
        panel.vectors((vectors) => {
          const q = vectors.vector("q_norm", layer, head, position);
          const turned = vectors.vector("q", layer, head, position);
          const most = largest([q, turned]);
          const size = (pair) => Math.hypot(q[pair], q[pair + half]);
          const longest = [0, 1, 2, 3, 4, 5].map((sixth) => {
            const pairs = Array.from({ length: half }, (_, pair) => pair)
              .filter((pair) => Math.floor((6 * pair) / half) === sixth);
            return pairs.reduce((a, b) => (size(a) < size(b) ? b : a));
          });
          const k = [vectors.vector("k_norm", layer, shared, position), vectors.vector("k", layer, shared, position)];
          const row = (name, values, scale) => play.el("div", { class: "steps-bar" },
            play.el("span", { class: "steps-name" }, name), strip(values, scale));
          return [
            play.el("div", { class: "steps-strips" }, row("q before", q, most), row("q turned", turned, most),
              row("k before", k[0], largest(k)), row("k turned", k[1], largest(k))),
            play.el("p", { class: "play-muted" }, "Six pairs of q, from fast to slow, before (grey) and after; of each sixth the longest:"),
            play.el("div", { class: "steps-dials" }, longest.map((pair) => dial(pair, q, turned, half, position * theta ** (-pair / half)))),
          ];
        }),
      ];
    },

    pattern(panel) {
      const { run, layer, position, head, model, own } = panel;
      const weights = run.pattern(layer, head, position);
      const note = model === "gemma3"
        ? own(panel.kind() === "local"
          ? `Block ${layer} is local: a query sees the last ${run.about.layers[layer].window} tokens${run.T <= run.about.layers[layer].window ? ", here all" : ""}.`
          : `Block ${layer} is global: a query sees all tokens up to its own.`)
        : own("In every block of GPT-2 a query sees all tokens up to its own.");
      return [
        panel.heads(),
        play.el("div", { class: "steps-pattern" },
          heat(panel),
          play.el("div", {},
            play.el("p", { class: "play-muted" }, `Head ${head}: what `, play.el("span", { class: "play-token" }, run.token(position)), " looks at"),
            bars(weights.slice(0, position + 1).map((weight, key) => bar(run.token(key), weight, percent(weight), { color: "blue", title: `token ${key}` }))))),
        note,
      ];
    },

    values(panel) {
      const { run, layer, position, head, model, own } = panel;
      const { H } = run.about;
      const added = Array.from({ length: H }, (_, h) => run.at("heads", layer, h, position));
      const name = model === "gemma3" ? "outs" : "adds";
      const whole = run.at(name, layer, 0, position);
      const most = Math.max(whole, ...added);
      return [
        play.el("p", {}, "Each head collects an average of values; the output map makes a vector of the stream's size of it. How long these are:"),
        bars([
          ...added.map((value, h) => bar(`head ${h}`, value / most, number(value), {
            color: "blue", chosen: h === head, key: `head-${h}`, choose: () => panel.go({ head: h }),
          })),
          bar("their sum", whole / most, number(whole)),
          model === "gemma3" ? bar("after the norm", run.at("adds", layer, 0, position) / Math.max(most, run.at("adds", layer, 0, position)), number(run.at("adds", layer, 0, position)), { color: "orange" }) : null,
        ].filter(Boolean)),
        own(model === "gemma3"
          ? "The norm behind attention decides how long the sum becomes before it is added."
          : "The sum, with the map's bias, goes to the stream as it is."),
      ];
    },

    mlp({ run, layer, position, model, own }) {
      const units = Array.from(run.row("unit", layer, position));
      const of = (name) => Array.from(run.row(name, layer, position));
      const [values, adds] = [of("unit_value"), of("unit_adds")];
      const [gates, ups] = model === "gemma3" ? [of("unit_gate"), of("unit_up")] : [];
      const most = Math.max(...adds);
      return [
        play.el("p", {}, `The ${units.length} of ${run.about.F.toLocaleString("en")} hidden units that add most: how much${model === "gemma3" ? " (before the norm), and gate × up" : ", and their activation"}.`),
        bars(units.map((unit, i) => bar(`unit ${unit}`, adds[i] / most,
          `${number(adds[i])} (${gates ? `${signed(gates[i])} × ${signed(ups[i])}` : signed(values[i])})`, { color: "green" }))),
        own(model === "gpt2"
          ? "A unit is one product with what the MLP reads, through GELU."
          : "A unit is two products: one goes through GELU and is the gate that the other has to pass."),
      ];
    },

    output(panel) {
      const { run, layer, position } = panel;
      const { L } = run.about;
      const answer = run.text(run.at("answer", position));
      const sure = Array.from({ length: L + 1 }, (_, depth) => run.at("answer_p", depth, position));
      const x = (depth) => 10 + (420 * depth) / L;
      const y = (p) => 62 - 54 * p;
      const points = sure.map((p, depth) => `${x(depth).toFixed(1)},${y(p).toFixed(1)}`).join(" ");
      return [
        play.el("p", { class: "play-muted" }, `After block ${layer}, the final norm and the output embedding say:`),
        likeliest(run, layer + 1, position),
        play.el("p", { class: "play-muted" }, "The probability of ", play.el("span", { class: "play-token" }, answer),
          `, which the whole model finds likeliest (${percent(sure[L])}), after each block:`),
        play.svg("svg", { viewBox: "0 0 440 70", class: "steps-line", role: "img", "aria-label": `Its probability from block to block, ${sure.map(percent).join(", ")}` },
          play.svg("path", { class: "steps-axis", d: "M10 62H430M10 8H430" }),
          play.svg("polyline", { points }),
          play.svg("circle", { cx: x(layer + 1), cy: y(sure[layer + 1]), r: 5 })),
      ];
    },
  };

  /* A pair of features before and after it is turned, as two hands. */
  function dial(pair, before, after, half, angle) {
    const hand = (values, name) => {
      const [a, b] = [values[pair], values[pair + half]];
      const size = Math.hypot(a, b) || 1;
      return play.svg("path", { class: name, d: `M0 0L${((20 * a) / size).toFixed(2)} ${((-20 * b) / size).toFixed(2)}` });
    };
    const degrees = (angle * 180) / Math.PI;
    return play.el("figure", {},
      play.svg("svg", { viewBox: "-24 -24 48 48", role: "img", "aria-label": `pair ${pair}, turned by ${number(degrees)} degrees` },
        play.svg("circle", { r: 22 }), hand(before, "steps-hand-before"), hand(after, "steps-hand")),
      play.el("figcaption", {}, `i = ${pair}`, play.el("br"), `${number(degrees)}°`));
  }

  /* The pattern of the chosen head; a row is a query and can be chosen. */
  function heat(panel) {
    const { run, layer, head, position } = panel;
    const size = 18;
    const left = 62;
    const rows = Array.from({ length: run.T }, (_, query) => {
      const label = run.token(query);
      return play.svg("g", { class: query === position ? "steps-row steps-on" : "steps-row", onclick: () => panel.go({ position: query }) },
        play.svg("text", { x: left - 5, y: query * size + 13 }, label.length > 8 ? `${label.slice(0, 7)}…` : label),
        run.pattern(layer, head, query).slice(0, query + 1).map((weight, key) => play.svg("rect", {
          x: left + key * size, y: query * size, width: size - 1, height: size - 1,
          "fill-opacity": (0.04 + 0.96 * weight ** 0.7).toFixed(3),
        }, play.svg("title", {}, `${label} → ${run.token(key)}: ${percent(weight)}`))),
        play.svg("rect", { class: "steps-outline", x: left - 1, y: query * size - 1, width: (query + 1) * size + 1, height: size + 1 }));
    });
    return play.svg("svg", {
      class: "steps-heat", viewBox: `0 -2 ${left + run.T * size + 3} ${run.T * size + 4}`, role: "img",
      "aria-label": `The pattern of head ${head} in block ${layer}`,
    }, rows);
  }

  // -------------------------------------------------------------------------------- the frame

  const prompt_choice = play.choice("Prompt", prompts, {
    value: state.prompt,
    change: async (prompt) => {
      if (await choose(prompt, true)) write();
    },
  });
  const lock = play.toggle("both in step", {
    value: state.lock,
    change: (on) => {
      state.lock = on;
      update(true);
    },
  });
  const part_buttons = Object.fromEntries(Object.entries(PARTS).map(([key, text]) => [key, play.el("button", {
    type: "button", role: "tab", onclick: () => show(key),
  }, text)]));
  const tabs = play.el("div", {
    class: "steps-tabs", role: "tablist", "aria-label": "Part of the model",
    onkeydown: (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const keys = Object.keys(PARTS);
      show(keys[(keys.indexOf(state.part) + step + keys.length) % keys.length]);
      part_buttons[state.part].focus();
    },
  }, Object.values(part_buttons));
  const failure = play.el("p", { class: "play-error", role: "alert" });
  const spoken = play.el("p", { class: "steps-spoken", "aria-live": "polite" });
  const panels = MODELS.map((model) => new Panel(model));
  const frame = play.el("div", { class: "steps-panels" }, panels.map((panel) => panel.element));
  root.append(
    play.el("div", { class: "play-bar" }, prompt_choice.element, lock.element),
    play.el("p", { class: "play-muted" },
      "Choose a token, a block and a part. With the keyboard, in a model: ← → token, ↑ ↓ block."),
    tabs,
    failure,
    frame,
    play.el("p", { class: "steps-key" },
      play.el("span", { class: "steps-dot steps-grey" }), "stream ",
      play.el("span", { class: "steps-dot steps-blue" }), "attention ",
      play.el("span", { class: "steps-dot steps-green" }), "MLP ",
      play.el("span", { class: "steps-dot steps-orange" }), "only in this model. ",
      "In patterns, the bluer, the larger the share. Underlined blocks are global."),
    spoken,
  );

  await choose(state.prompt, true);
  picture.onState(restore);
});

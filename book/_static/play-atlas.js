/* An atlas of attention: all heads of both models as small heat maps; one can be opened, with the
   text, the query that the reader chooses, and what its attention falls on. The data are made in
   book/play/atlas.md; a text that is too long has cells of several tokens, otherwise a cell is a
   token. See play.js for what all pictures share. */

"use strict";

{
  const MODELS = ["gpt2", "gemma3"];
  const SHOWN = 7; // as many keys are listed

  const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0095 ? 1 : 0)} %`;

  const STATISTICS = {
    first: {
      name: "first token", show: percent,
      says: "The share of a query's attention that falls on the first token of the text.",
    },
    previous: {
      name: "previous token", show: percent,
      says: "The share that falls on the token just before the query.",
    },
    distance: {
      name: "distance", show: (x) => `${x.toFixed(1)} back`,
      says: "How many tokens back the attention falls on average.",
    },
    entropy: {
      name: "entropy", show: (x) => `${x.toFixed(1)} bits`,
      says: "How spread out it is: b bits are as much as even shares of 2\u1d47 tokens.",
    },
  };
  const KEYS = Object.keys(STATISTICS);

  /* Which heads are shown: of one model, or of one kind of its layers. */
  const SHOWS = {
    all: "all heads", gpt2: "GPT-2", gemma3: "Gemma 3", local: "Gemma 3, local layers",
    global: "Gemma 3, global layers",
  };
  const models = (show) => (show === "all" ? MODELS : [show === "gpt2" ? "gpt2" : "gemma3"]);

  /* The patterns of one model for one text. */
  class Patterns {
    constructor(model, { about, tensors }) {
      Object.assign(this, about.models[model]); // name, tokens, starts, windows
      this.model = model;
      const { first, rest, statistics, even } = Object.fromEntries(
        ["first", "rest", "statistics", "even"].map((name) => [name, tensors[`${model}.${name}`]]));
      [this.layers, this.heads, this.size] = first.shape;
      Object.assign(this, { first: first.data, rest: rest.data });
      Object.assign(this, { statistics: statistics.data, even: even.data });
      this.triangle = rest.shape[2];
      this.mixed = this.windows.some((window) => window) && this.windows.some((window) => !window);
    }

    /* The shares of a query's attention; with the first token taken out, those of the rest. */
    row(layer, head, query, out) {
      const shares = new Float32Array(query + 1);
      const unit = layer * this.heads + head;
      const begin = unit * this.triangle + (query * (query + 1)) / 2;
      let sum = 0;
      for (let key = 1; key <= query; key++) sum += shares[key] = this.rest[begin + key] ** 2;
      const first = out ? 0 : this.first[unit * this.size + query];
      const left = out ? 1 : 1 - first;
      for (let key = 1; key <= query; key++) shares[key] *= sum && left / sum;
      shares[0] = first;
      return shares;
    }

    /* Whether any token of a key's cell is in sight of a token of the query's. */
    visible(layer, query, key) {
      const window = this.windows[layer];
      return !window || this.starts[query] - (this.starts[key + 1] - 1) < window;
    }

    statistic(layer, head, which, out) {
      const at = ((out ? this.layers : 0) + layer) * this.heads + head;
      return this.statistics[at * KEYS.length + KEYS.indexOf(which)];
    }

    evenly(layer, which, out) {
      return this.even[((out ? this.layers : 0) + layer) * KEYS.length + KEYS.indexOf(which)];
    }

    kind(layer) {
      return this.mixed ? (this.windows[layer] ? "local" : "global") : "";
    }

    /* A key or query for reading: its text and where it stands. */
    place(cell) {
      const [begin, end] = [this.starts[cell], this.starts[cell + 1] - 1];
      return begin === end ? `${begin}` : `${begin}–${end}`;
    }
  }

  /* Paint a head's pattern, a pixel for each cell; what a query sees has a faint ground. */
  function paint(canvas, patterns, layer, head, out, [red, green, blue]) {
    const { size } = patterns;
    canvas.width = canvas.height = size;
    const image = new ImageData(size, size);
    const { data } = image;
    for (let query = 0; query < size; query++) {
      const shares = patterns.row(layer, head, query, out);
      for (let key = 0; key <= query; key++) {
        if (!patterns.visible(layer, query, key) || (out && key === 0)) continue;
        const at = 4 * (query * size + key);
        data[at] = red;
        data[at + 1] = green;
        data[at + 2] = blue;
        data[at + 3] = 20 + 235 * Math.sqrt(shares[key]);
      }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  /* The sign of a layer: a band if it is local, a full triangle if it is global. */
  function sign(kind) {
    const points = kind === "local" ? "1,1 11,11 6.5,11 1,5.5" : "1,1 11,11 1,11";
    return play.svg("svg", { class: "atlas-sign", viewBox: "0 0 12 12", "aria-hidden": "true" },
      play.svg("polygon", { points }));
  }

  /* What the colours mean: the root of a share, so that small ones are seen. */
  function scale() {
    const marks = [0, 0.01, 0.05, 0.2, 0.5, 1];
    return play.el("div", { class: "atlas-key-bar" },
      play.el("div", { class: "atlas-scale", role: "img", "aria-label": "The bluer, the larger the share" },
        marks.map((share) => play.el("span", { style: `left: ${100 * Math.sqrt(share)}%` }, percent(share)))),
      play.el("span", { class: "play-muted" },
        "of a token's attention. A row is a token that looks, a column one looked at."));
  }

  class Atlas {
    constructor(root, picture) {
      Object.assign(this, { root, picture });
      this.text = Object.keys(picture.options.texts)[0];
      this.order = "layer";
      this.shown = "all";
      this.out = false;
      this.open = null; // {model, layer, head, query}
      const colour = getComputedStyle(root).getPropertyValue("--play-blue").trim();
      this.colour = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
      this.build();
    }

    build() {
      const { texts } = this.picture.options;
      this.choices = {
        text: play.choice("Text", texts, { value: this.text, change: (text) => this.change({ text }) }),
        order: play.choice("Order", {
          layer: "by layer",
          ...Object.fromEntries(KEYS.map((key) => [key, `by ${STATISTICS[key].name}`])),
        }, { value: this.order, change: (order) => this.change({ order }) }),
        show: play.choice("Show", SHOWS, { value: this.shown, change: (shown) => this.change({ shown }) }),
        out: play.toggle("take the first token out", {
          value: this.out, change: (out) => this.change({ out }),
        }),
      };
      this.message = play.el("p", { class: "play-muted", role: "status" });
      this.sections = Object.fromEntries(MODELS.map((model) => [model, play.el("section", {
        class: "atlas-model", "data-model": model,
      })]));
      this.detail = play.el("section", { class: "atlas-detail", id: `${this.root.id}-head`, hidden: true,
        onkeydown: (event) => { if (event.key === "Escape") this.close(); } });
      this.root.append(
        play.el("div", { class: "play-bar" }, Object.values(this.choices).map(({ element }) => element)),
        this.message, scale(), ...Object.values(this.sections), this.detail,
      );
    }

    /* Change what is shown, all at once; a text that can't be loaded changes nothing. */
    async change({
      text = this.text, order = this.order, shown = this.shown, out = this.out, open = this.open, quiet = false,
    }) {
      this.root.querySelector(".play-error")?.remove();
      const turn = (this.turn = (this.turn ?? 0) + 1);
      if (text !== this.loaded) {
        this.message.textContent = "Loading …";
        try {
          const content = await this.picture.load(text);
          if (turn !== this.turn) return; // the reader has chosen again
          this.show(content);
          this.loaded = text;
        } catch (error) {
          if (!this.loaded) throw error;
          play.fail(this.root, error);
          text = this.loaded;
        }
        this.message.textContent = "";
      }
      Object.assign(this, { text, order, shown, out });
      this.choices.text.input.value = text;
      this.choices.order.input.value = order;
      this.choices.show.input.value = shown;
      this.choices.out.input.checked = out;
      for (const model of MODELS) this.drawGrid(model);
      this.openHead(open);
      if (!quiet) this.remember();
    }

    show({ about, tensors }) {
      this.missing = about.missing;
      this.patterns = Object.fromEntries(
        Object.keys(about.models).map((model) => [model, new Patterns(model, { about, tensors })]));
    }

    // ------------------------------------------------------------------------------ the address

    remember() {
      const { text, order, shown, out, open } = this;
      this.picture.state = {
        text: text.replace(/^atlas-/, ""), sink: out ? "out" : "in", order,
        ...(shown === "all" ? {} : { show: shown }), ...open,
      };
    }

    /* Show what the address says, as far as there is such a thing. */
    async restore({ text, sink, order, show, model, layer, head, query, part }) {
      const known = (name) => name && `atlas-${name}` in this.picture.options.texts;
      await this.change({
        text: known(text) ? `atlas-${text}` : this.text,
        order: order === "layer" || order in STATISTICS ? order : this.order,
        shown: show in SHOWS ? show : "all",
        out: sink ? sink === "out" : this.out,
        open: model
          ? { model, layer: Number(layer), head: Number(head), query: Number(query ?? NaN) }
          : null,
        quiet: true,
      });
      const section = this.open ? this.detail : this.sections[part];
      section?.scrollIntoView({ block: "nearest" });
      for (const [name, element] of Object.entries(this.sections)) {
        element.classList.toggle("atlas-part", name === part);
      }
    }

    // --------------------------------------------------------------------------------- the grid

    drawGrid(model) {
      const section = this.sections[model];
      const patterns = this.patterns[model];
      section.hidden = !models(this.shown).includes(model);
      if (section.hidden) return section.replaceChildren();
      if (!patterns) {
        section.replaceChildren(play.el("p", { class: "play-muted" }, this.missing[model]));
        return;
      }
      const { name, heads } = patterns;
      const chosen = [...patterns.windows.keys()].filter((layer) => this.shows(patterns, layer));
      const layers = chosen.length;
      const kind = layers < patterns.layers ? `${this.shown} ` : "";
      const grid = play.el("div", {
        class: "atlas-grid", role: "group",
        "aria-label": `${name}, ${layers} ${kind}layers of ${heads} heads; arrows move, Enter opens`,
        style: `--wide: ${Math.min(layers, 18)}; --narrow: ${layers % 6 ? Math.min(layers, 8) : 6}`,
        onkeydown: (event) => this.move(event, grid),
      });
      const readout = play.el("p", { class: "atlas-readout play-muted" });
      const columns = this.order === "layer"
        ? this.byLayer(patterns, chosen, readout) : this.sorted(patterns, chosen, readout);
      grid.append(...columns);
      grid.classList.toggle("atlas-sorted", this.order !== "layer");
      (grid.querySelector('[aria-expanded="true"]') ?? grid.querySelector("button")).tabIndex = 0;
      section.replaceChildren(
        play.el("p", { class: "atlas-name" }, play.el("strong", {}, name),
          play.el("span", { class: "play-muted" }, ` ${layers} ${kind}layers × ${heads} heads`)),
        grid, readout,
      );
      this.readOut(patterns, readout);
    }

    /* Whether a layer's heads are among those that are shown. */
    shows(patterns, layer) {
      const ofKind = !["local", "global"].includes(this.shown) || patterns.kind(layer) === this.shown;
      return ofKind && models(this.shown).includes(patterns.model);
    }

    byLayer(patterns, chosen, readout) {
      return chosen.map((layer) => {
        const kind = patterns.kind(layer);
        return play.el("div", {
          class: "atlas-layer", role: "group", "aria-label": `layer ${layer} ${kind}`,
          "data-kind": kind,
        },
        play.el("span", { class: "atlas-layer-name", "aria-hidden": "true" },
          play.el("span", {}, kind && sign(kind), ` ${layer}`),
          kind && play.el("small", {}, kind)),
        Array.from({ length: patterns.heads }, (_, head) => this.tile(patterns, layer, head, readout)));
      });
    }

    sorted(patterns, chosen, readout) {
      const all = [];
      for (const layer of chosen) {
        for (let head = 0; head < patterns.heads; head++) {
          all.push([layer, head, patterns.statistic(layer, head, this.order, this.out)]);
        }
      }
      all.sort((a, b) => b[2] - a[2]);
      return all.map(([layer, head, value]) => {
        const kind = patterns.kind(layer);
        return play.el("div", { class: "atlas-layer", "data-kind": kind },
          this.tile(patterns, layer, head, readout),
          play.el("span", { class: "atlas-layer-name", "aria-hidden": "true" },
            play.el("span", {}, kind && sign(kind), ` ${layer}.${head}`),
            play.el("small", {}, STATISTICS[this.order].show(value))));
      });
    }

    tile(patterns, layer, head, readout) {
      const { model } = patterns;
      const canvas = play.el("canvas", { "aria-hidden": "true" });
      paint(canvas, patterns, layer, head, this.out, this.colour);
      const tell = () => this.readOut(patterns, readout, layer, head);
      return play.el("button", {
        class: "atlas-head", type: "button", tabindex: -1, "aria-expanded": "false",
        "aria-controls": this.detail.id, "data-head": `${layer}.${head}`,
        "aria-label": this.describe(patterns, layer, head).join(", "),
        onpointerenter: tell, onfocus: tell,
        onclick: () => this.choose({ model, layer, head, query: this.open?.query ?? NaN }),
      }, canvas);
    }

    /* A head's name and its numbers, each a text. */
    describe(patterns, layer, head) {
      const kind = patterns.kind(layer);
      return [
        `Layer ${layer}, head ${head}${kind && `, ${kind}`}`,
        ...KEYS.map((key) => {
          const value = STATISTICS[key].show(patterns.statistic(layer, head, key, this.out));
          return `${STATISTICS[key].name} ${value}`;
        }),
      ];
    }

    readOut(patterns, readout, layer, head) {
      const texts = layer == null
        ? ["Point at a head, or move to it, to read its numbers; open it for more."]
        : this.describe(patterns, layer, head);
      readout.replaceChildren(...texts.map((text) => play.el("span", {}, text)));
    }

    /* Arrow keys go to the nearest head in their direction, however the heads are laid out. */
    move(event, grid) {
      const direction = {
        ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
      }[event.key];
      const all = [...grid.querySelectorAll("button")];
      let target = { Home: all[0], End: all.at(-1) }[event.key];
      if (direction) target = nearest(all, document.activeElement, direction);
      if (event.key === "Escape") this.close();
      if (!direction && !target) return;
      event.preventDefault();
      if (!target) return;
      for (const button of all) button.tabIndex = button === target ? 0 : -1;
      target.focus();
    }

    // ------------------------------------------------------------------------------ an open head

    choose(open) {
      this.openHead(open);
      this.remember();
      this.detail.querySelector(".atlas-title").focus();
    }

    close() {
      if (!this.open) return;
      const { model, layer, head } = this.open;
      this.openHead(null);
      this.remember();
      this.sections[model].querySelector(`[data-head="${layer}.${head}"]`).focus();
    }

    /* Open a head, or none; a head that this text doesn't have is none. */
    openHead(open) {
      const patterns = this.patterns[open?.model];
      const exists = Boolean(patterns) && open.layer in patterns.windows && this.shows(patterns, open.layer) &&
        Number.isInteger(open.head) && open.head >= 0 && open.head < patterns.heads;
      for (const button of this.root.querySelectorAll(".atlas-head")) {
        const mine = exists && button.dataset.head === `${open.layer}.${open.head}` &&
          this.sections[open.model].contains(button);
        button.setAttribute("aria-expanded", mine);
      }
      this.detail.hidden = !exists;
      this.open = exists ? { ...open } : null;
      if (!exists) return this.detail.replaceChildren();
      this.sections[open.model].after(this.detail);
      const query = Number.isInteger(open.query) && open.query >= 0 ? open.query : Infinity;
      this.open.query = Math.min(query, patterns.size - 1);
      this.drawDetail(patterns);
    }

    drawDetail(patterns) {
      const { model, layer, head } = this.open;
      const kind = patterns.kind(layer);
      const title = `${patterns.name}, layer ${layer}, head ${head}`;
      this.detail.setAttribute("aria-label", title);
      const map = this.map(patterns);
      this.words = patterns.tokens.map((text, cell) => play.el("button", {
        class: "atlas-token", type: "button", tabindex: -1,
        onclick: () => this.ask(cell, true),
      }, text.replace(/^ /, "").replaceAll("\n", "↵") || "␣"));
      this.arcs = play.svg("svg", { class: "atlas-arcs", "aria-hidden": "true" });
      this.flow = play.el("div", {
        class: "atlas-text", role: "group", "aria-label": "Choose the token that looks",
        onkeydown: (event) => this.step(event, patterns),
      }, this.arcs, this.words);
      this.said = play.el("p", { class: "atlas-said", role: "status" });
      this.list = play.el("ol", { class: "atlas-keys" });
      this.detail.replaceChildren(
        play.el("div", { class: "atlas-head-bar" },
          play.el("p", { class: "atlas-title", tabindex: -1 }, play.el("strong", {}, title), " ",
            kind && play.el("span", { class: "atlas-kind" }, sign(kind), ` ${kind}`)),
          play.el("button", { type: "button", class: "atlas-close", onclick: () => this.close() }, "Close")),
        play.el("p", {}, "Its pattern is computed in ", this.picture.line(model), "."),
        this.flow,
        play.el("div", { class: "atlas-panels" },
          play.el("div", { class: "atlas-panel" }, map, this.under),
          play.el("div", { class: "atlas-panel" }, this.said, this.list, this.numbers(patterns))),
      );
      this.showQuery(patterns);
    }

    /* The large heat map, with the query's row and the key under the pointer framed. */
    map(patterns) {
      const { layer, head } = this.open;
      const { size } = patterns;
      const canvas = play.el("canvas", {
        role: "img",
        "aria-label": "The pattern: a row for each token that looks, a column for each looked at",
      });
      paint(canvas, patterns, layer, head, this.out, this.colour);
      this.row = play.svg("rect", { class: "atlas-row", height: 1 });
      this.cell = play.svg("rect", { class: "atlas-cell", width: 1, height: 1, visibility: "hidden" });
      this.under = play.el("p", { class: "play-muted atlas-under" });
      const at = (event) => {
        const box = canvas.getBoundingClientRect();
        const index = (place, length) => Math.min(size - 1, Math.max(0, Math.floor((place / length) * size)));
        return [index(event.clientY - box.top, box.height), index(event.clientX - box.left, box.width)];
      };
      const hint = "Down: the token that looks. Across: the one looked at. Click on a row to choose it.";
      this.under.textContent = hint;
      return play.el("div", {
        class: "atlas-map",
        onclick: (event) => this.ask(at(event)[0]),
        onpointermove: (event) => {
          const [query, key] = at(event);
          this.cell.setAttribute("x", key);
          this.cell.setAttribute("y", query);
          this.cell.setAttribute("visibility", "visible");
          this.under.textContent = this.pair(patterns, query, key);
        },
        onpointerleave: () => {
          this.cell.setAttribute("visibility", "hidden");
          this.under.textContent = hint;
        },
      }, canvas, play.svg("svg", {
        viewBox: `0 0 ${size} ${size}`, "aria-hidden": "true", preserveAspectRatio: "none",
      }, this.row, this.cell));
    }

    pair(patterns, query, key) {
      const { layer, head } = this.open;
      const [from, to] = [query, key].map((cell) => named(patterns, cell));
      if (key > query) return `${to} comes after ${from}: not seen`;
      if (!patterns.visible(layer, query, key)) return `${to} is outside the window of ${from}: not seen`;
      if (this.out && key === 0) return `${to} is taken out`;
      return `${from} gives ${to} ${percent(patterns.row(layer, head, query, this.out)[key])}`;
    }

    numbers(patterns) {
      const { layer, head } = this.open;
      const rows = KEYS.map((key) => {
        const { name, show, says } = STATISTICS[key];
        return play.el("tr", {},
          play.el("th", { scope: "row" }, name, play.el("span", { class: "atlas-says" }, says)),
          play.el("td", { "data-statistic": key }, show(patterns.statistic(layer, head, key, this.out))),
          play.el("td", { class: "play-muted" }, show(patterns.evenly(layer, key, this.out))));
      });
      return play.el("table", { class: "atlas-numbers" },
        play.el("caption", {}, "Means over all queries but the first two",
          this.out ? ", the first token taken out" : ""),
        play.el("thead", {}, play.el("tr", {}, play.el("td", {}),
          play.el("th", { scope: "col" }, "this head"), play.el("th", { scope: "col" }, "even head"))),
        play.el("tbody", {}, rows));
    }

    /* Make a token the query. */
    ask(query, focus = false) {
      const patterns = this.patterns[this.open.model];
      this.open.query = query;
      this.showQuery(patterns);
      this.remember();
      if (focus) this.words[query].focus({ preventScroll: true });
    }

    step(event, { size }) {
      const { query } = this.open;
      const to = {
        ArrowLeft: query - 1, ArrowUp: query - 1, ArrowRight: query + 1, ArrowDown: query + 1,
        Home: 0, End: size - 1,
      }[event.key];
      if (to == null) return;
      event.preventDefault();
      this.ask(Math.min(size - 1, Math.max(0, to)), true);
    }

    showQuery(patterns) {
      const { layer, head, query } = this.open;
      const shares = patterns.row(layer, head, query, this.out);
      this.row.setAttribute("y", query);
      this.row.setAttribute("width", query + 1);
      this.words.forEach((word, cell) => {
        const seen = cell <= query && patterns.visible(layer, query, cell);
        const taken = this.out && cell === 0;
        word.tabIndex = cell === query ? 0 : -1;
        word.setAttribute("aria-current", cell === query);
        word.classList.toggle("atlas-unseen", !seen || taken);
        word.classList.toggle("atlas-taken", taken);
        word.style.setProperty("--share", seen ? Math.sqrt(shares[cell]) : 0);
        const what = taken ? "taken out" : seen ? percent(shares[cell]) : "not seen";
        word.setAttribute("aria-label", `${named(patterns, cell)}, ${cell === query ? "the query, " : ""}${what}`);
      });
      const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).filter((key) => shares[key] > 0);
      this.said.textContent = order.length
        ? `${named(patterns, query)} looks most at ${named(patterns, order[0])}, ${percent(shares[order[0]])}`
        : `${named(patterns, query)} sees nothing else`;
      this.list.replaceChildren(...order.slice(0, SHOWN).map((key) => play.el("li", { "data-key": key },
        play.el("span", { class: "atlas-key" }, patterns.tokens[key].trim().replaceAll("\n", "↵") || "↵"),
        play.el("span", { class: "play-muted" }, patterns.place(key)),
        play.el("span", { class: "atlas-bar", "aria-hidden": "true" },
          play.el("span", { style: `width: ${100 * shares[key]}%` })),
        play.el("span", { class: "atlas-share" }, percent(shares[key])))));
      this.drawArcs(shares, query);
      const box = this.flow; // a long text scrolls in a box of its own
      const word = this.words[query];
      if (word.offsetTop < box.scrollTop || word.offsetTop + word.offsetHeight > box.scrollTop + box.clientHeight) {
        box.scrollTop = word.offsetTop - box.clientHeight / 2;
      }
    }

    /* Arcs from the query to the keys that it looks at, bold where it looks most. */
    drawArcs(shares, query) {
      this.arcs.setAttribute("width", this.flow.clientWidth);
      this.arcs.setAttribute("height", this.flow.scrollHeight);
      const from = middle(this.words[query]);
      const arcs = [];
      for (let key = 0; key < query; key++) {
        if (shares[key] < 0.02) continue;
        const to = middle(this.words[key]);
        const width = Math.abs(to.x - from.x);
        const path = to.top === from.top
          ? `M${from.x},${from.top} C${from.x},${from.top - 6 - width / 18} ${to.x},${to.top - 6 - width / 18} ${to.x},${to.top}`
          : `M${from.x},${from.top} C${from.x},${from.top - 18} ${to.x},${to.bottom + 18} ${to.x},${to.bottom}`;
        arcs.push(play.svg("path", { d: path, "stroke-width": 0.8 + 7 * shares[key] }));
      }
      this.arcs.replaceChildren(...arcs);
    }
  }

  function middle(element) {
    const { offsetLeft, offsetTop, offsetWidth, offsetHeight } = element;
    return { x: offsetLeft + offsetWidth / 2, top: offsetTop, bottom: offsetTop + offsetHeight };
  }

  /* A cell in a sentence: what it says, and where, since words come more than once. */
  function named(patterns, cell) {
    const text = patterns.tokens[cell].trim().replaceAll("\n", "↵") || "↵";
    return `“${text.length > 24 ? `${text.slice(0, 23)}…` : text}” (${patterns.place(cell)})`;
  }

  /* The element that lies nearest in a direction [x, y]; what lies aside counts as farther. */
  function nearest(elements, from, [x, y]) {
    const centre = (element) => {
      const { left, top, width, height } = element.getBoundingClientRect();
      return [left + width / 2, top + height / 2];
    };
    const [fromX, fromY] = centre(from);
    let best = null;
    let least = Infinity;
    for (const element of elements) {
      const [toX, toY] = centre(element);
      const ahead = (toX - fromX) * x + (toY - fromY) * y;
      const aside = Math.abs((toX - fromX) * y) + Math.abs((toY - fromY) * x);
      if (ahead > 1 && ahead + 3 * aside < least) [best, least] = [element, ahead + 3 * aside];
    }
    return best;
  }

  play.define("atlas", async (root, picture) => {
    const atlas = new Atlas(root, picture);
    await atlas.change({ quiet: true });
    picture.onState((state) => atlas.restore(state).catch((error) => play.fail(root, error)));
    let width = root.clientWidth;
    new ResizeObserver(() => { // arcs lead from word to word, wherever these are
      if (atlas.open && root.clientWidth !== width) atlas.openHead(atlas.open);
      width = root.clientWidth;
    }).observe(root);
  });
}

/* The cache calculator: what the keys and values of a text take, by the config.json of a model. */

"use strict";

{
  const LOCAL = "sliding_attention", GLOBAL = "full_attention";

  /* Which layers are global, every how many-th, where the program knows it and config.json doesn't say. */
  const PATTERNS = { gemma2: 2, mistral: Infinity, mixtral: Infinity, phi3: Infinity, starcoder2: Infinity };

  /* Fields of models that keep something else than a key and a value of each token in each layer. */
  const OTHERWISE = [
    "attention_chunk_size", "attn_layer_period", "block_types", "cross_attention_layers",
    "is_encoder_decoder", "kv_lora_rank", "layers_block_type", "multi_query", "num_kv_shared_layers",
  ];

  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  function refuse(name, value, wanted) {
    throw new Error(`config.json: ${name} is ${JSON.stringify(value)}; here it has to be ${wanted}.`);
  }

  /* What the cache depends on, with the window of each layer, Infinity if it has none; defaults are
     those of fields that are left out (or null), by model_type. */
  function readConfig(text, defaults) {
    const top = JSON.parse(text);
    if (!isObject(top)) throw new SyntaxError("no object with fields");
    if (top.text_config != null && !isObject(top.text_config)) refuse("text_config", top.text_config, "an object");
    const whole = { ...top, ...top.text_config }; // models that see have a config for text
    const given = Object.entries(whole).filter(([, value]) => value !== null);
    const c = { ...defaults[whole.model_type], ...Object.fromEntries(given) };
    const other = OTHERWISE.find((name) => c[name]);
    if (other) refuse(other, c[other], "left out: this is another kind of cache");

    const number = (largest, ...names) => {
      const name = names.find((name) => name in c);
      if (!name) throw new Error(`config.json: ${names.join(" or ")} is missing.`);
      if (Number.isInteger(c[name]) && c[name] > 0 && c[name] <= largest) return c[name];
      return refuse(name, c[name], `a whole number from 1 to ${count(largest)}`);
    };
    const layers = number(1000, "num_hidden_layers", "n_layer");
    const heads = number(10_000, "num_attention_heads", "n_head");
    const keyHeads = "num_key_value_heads" in c ? number(10_000, "num_key_value_heads") : heads;
    if (heads % keyHeads) refuse("num_key_value_heads", keyHeads, `a divisor of the ${heads} heads`);
    const size = "head_dim" in c ? number(10_000, "head_dim") : number(1e6, "hidden_size", "n_embd") / heads;
    if (size % 1) {
      refuse("hidden_size" in c ? "hidden_size" : "n_embd", size * heads, `a multiple of the ${heads} heads`);
    }
    const context = number(1e8, "max_position_embeddings", "n_positions", "n_ctx");
    const kinds = readKinds(c, layers);
    const window = kinds.includes(LOCAL) ? number(1e8, "sliding_window") : Infinity;
    const windows = kinds.map((kind) => (kind === LOCAL ? window : Infinity));
    return { windows, heads, keyHeads, size, context, type: c.model_type };
  }

  /* The kind of each layer: listed, or by a pattern, or all global if there is no window. */
  function readKinds(c, layers) {
    const listed = c.layer_types, numbers = Array.from({ length: layers }, (_, i) => i + 1);
    if (listed !== undefined) {
      const known = Array.isArray(listed) && listed.every((kind) => kind === LOCAL || kind === GLOBAL);
      if (known && listed.length === layers) return listed;
      refuse("layer_types", listed, `a list of ${layers}, each "${LOCAL}" or "${GLOBAL}"`);
    }
    if (!("sliding_window" in c) || c.use_sliding_window === false) return numbers.map(() => GLOBAL);
    if (Number.isInteger(c.max_window_layers)) return numbers.map((i) => (i > c.max_window_layers ? LOCAL : GLOBAL));
    const name = ["sliding_window_pattern", "_sliding_window_pattern"].find((name) => name in c);
    const pattern = name ? c[name] : PATTERNS[c.model_type];
    if (pattern === undefined) throw new Error("config.json: layer_types is missing; who has the sliding_window?");
    if (!(pattern >= 1)) refuse(name, pattern, "a number from 1");
    return numbers.map((i) => (i % pattern ? LOCAL : GLOBAL));
  }

  /* Places of a layer as gemma3.py's grow makes them. */
  function grown(length, window, chunk) {
    let room = 512;
    while (room < length) room *= 4;
    return Math.min(room, window + chunk - 1);
  }

  /* Texts to choose from: 64, 96, 128, 192, …, and the longest that the model allows. */
  function lengths(context) {
    const found = [];
    for (let n = 64; n < context; n *= 2) found.push(n, n + n / 2);
    return [...found.filter((n) => n < context), context];
  }

  const count = (number) => number.toLocaleString("en");
  const rounded = (number) => number.toLocaleString("en", { maximumSignificantDigits: 3 });
  const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
  const UNITS = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [0, "bytes"]];
  function show(bytes) {
    const [unit, name] = UNITS.find(([unit]) => bytes >= unit);
    return play.el("b", { title: `${count(bytes)} bytes` }, `${rounded(bytes / (unit || 1))} ${name}`);
  }

  play.define("cache", (root, picture) => {
    const { presets, defaults, chunk, chosen, gpt2 } = picture.options;
    const state = { config: chosen, tokens: Infinity, texts: 1, bytes: 4 };
    let config; // as it was read, or undefined
    let steps = [1]; // the lengths of the slider
    let longest = true; // another model then gets its own longest text

    const set = (name) => (value) => { state[name] = Number(value); draw(); };
    const names = Object.fromEntries(Object.keys(presets).map((name) => [name, name]));
    const controls = {
      config: play.choice("Model", { ...names, own: "another config.json" }, { value: chosen, change: fill }),
      tokens: play.slider("Tokens", {
        min: 0, max: 0, value: 0, show: (i) => count(steps[i]),
        change: (i) => { longest = i === steps.length - 1; set("tokens")(steps[i]); },
      }),
      texts: play.slider("Texts at once", { min: 1, max: 64, value: 1, change: set("texts") }),
      bytes: play.choice("Numbers", { 4: "float32, 4 bytes", 2: "bfloat16, 2 bytes", 1: "int8, 1 byte" }, {
        value: 4, change: set("bytes"),
      }),
    };
    const area = play.el("textarea", {
      rows: 6, spellcheck: "false", "aria-label": "The config.json of a model",
      placeholder: "Paste a config.json here.", oninput: () => play.set(controls.config.input, "own"),
    });
    const total = play.el("p", { "aria-live": "polite" }), result = play.el("div");

    /* Put a preset's config into the text, and read the text. */
    function fill(name) {
      state.config = name;
      if (name !== "own") area.value = JSON.stringify(presets[name], null, 1);
      config = undefined;
      try {
        config = readConfig(area.value, defaults);
      } catch (error) {
        total.replaceChildren();
        const what = error instanceof SyntaxError ? "This is not a config in JSON: " : "";
        result.replaceChildren(play.el("p", { class: "play-error", role: "alert" }, what, error.message));
        return;
      }
      steps = lengths(config.context);
      const at = longest ? -1 : steps.findIndex((n) => n >= state.tokens);
      controls.tokens.input.max = steps.length - 1;
      play.set(controls.tokens.input, at < 0 ? steps.length - 1 : at);
    }

    function draw() {
      if (!config) return;
      const { windows, heads, keyHeads, size, context, type } = config;
      const { tokens, texts, bytes } = state;
      const local = windows.filter((window) => window < Infinity), global = windows.length - local.length;
      const place = 2 * keyHeads * size * bytes; // a key and a value
      /* Bytes of local and of global layers, if these have so many places. */
      const bytesOf = (...places) => [local.length, global].map((n, i) => n && n * places[i] * place * texts);
      const window = local[0] ?? Infinity, visible = Math.min(tokens, window);
      const now = bytesOf(visible, tokens);
      const kept = bytesOf(grown(tokens, window, chunk), grown(tokens, context, chunk));
      const variants = [
        ["What queries can still see", now],
        type === "gemma3_text"
          ? [["As ", picture.line("grow", "gemma3.py"), " keeps it: in steps, with room for a chunk"], kept] : null,
        ["Without windows", bytesOf(tokens, tokens)],
        ["With windows, and a key and a value for each query head", now.map((n) => (n * heads) / keyHeads)],
      ].filter(Boolean);
      const [whole, most] = [sum(now), Math.max(...variants.map(([, parts]) => sum(parts)))];
      const row = (colour, name, places, bytes) => play.el("tr", {},
        play.el("td", {}, play.el("i", { class: colour }), ` ${name}`),
        play.el("td", {}, count(places)), play.el("td", {}, show(bytes)));
      const what = `${plural(texts, "text")} of ${plural(tokens, "token")}`;
      total.replaceChildren(`The cache of ${what} takes `, show(whole), ".");
      result.replaceChildren(
        play.el("table", { class: "cache-kinds" },
          play.el("tr", {}, ["Layers", "Places", "Bytes"].map((name) => play.el("th", { scope: "col" }, name))),
          local.length ? row("cache-local", `${local.length} local, window ${count(window)}`, visible, now[0]) : null,
          global ? row("cache-global", `${global} global`, tokens, now[1]) : null),
        play.el("p", {}, `A place takes ${count(place)} bytes in each layer: a key and a value of `,
          `${plural(keyHeads, "head")}, ${plural(size, "feature")} each, ${plural(bytes, "byte")} a number. `,
          picture.line(type === "gpt2" ? "gpt2" : "shape")),
        play.el("ul", { class: "cache-variants" }, variants.map(([name, parts]) => line(name, parts, whole, most))),
      );
    }

    const sum = ([local, global]) => local + global;

    /* A line of text and a bar: a size, and how many times as large as the cache it is. */
    function line(name, parts, whole, most) {
      const times = sum(parts) === whole ? "" : ` (× ${rounded(sum(parts) / whole)})`;
      const part = (kind, i) => play.el("span", { class: kind, style: `width: ${(100 * parts[i]) / most}%` });
      return play.el("li", {}, name, ": ", show(sum(parts)), times,
        play.el("div", { class: "cache-bar", "aria-hidden": "true" }, ["cache-local", "cache-global"].map(part)));
    }

    const { config: model, ...others } = controls;
    const bar = (...fields) => play.el("div", { class: "play-bar" }, fields.map(({ element }) => element));
    root.append(bar(model), area, bar(...Object.values(others)), total, result);
    fill(chosen);

    root.addEventListener("change", () => { picture.state = state; });
    picture.onState(({ part, config: name, tokens, texts, bytes }) => {
      state.tokens = Number(tokens ?? state.tokens);
      longest &&= tokens === undefined;
      play.set(controls.config.input, part ? (part === "gpt2" ? gpt2 : chosen) : name ?? state.config);
      play.set(controls.texts.input, texts ?? state.texts);
      play.set(controls.bytes.input, bytes ?? state.bytes);
    });
  });
}

/* The cache calculator: what the keys and values of a text take, by the config.json of a model. */

"use strict";

{
  const LOCAL = "sliding_attention", GLOBAL = "full_attention";

  /* Every how many-th layer is global, where config.json has a window and leaves this to the program. */
  const PATTERNS = { gemma2: 2, mistral: Infinity, mixtral: Infinity, phi3: Infinity, starcoder2: Infinity };

  /* Fields of models that keep something else than a key and a value of each token in each layer. */
  const OTHERWISE = [
    "kv_lora_rank", "multi_query", "num_kv_shared_layers", "attention_chunk_size", "block_types",
    "layers_block_type", "attn_layer_period", "cross_attention_layers", "is_encoder_decoder",
  ];

  const refuse = (name, value, wanted) => {
    throw new Error(`config.json: ${name} is ${JSON.stringify(value)}; here it has to be ${wanted}.`);
  };
  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

  /* What the cache depends on: {windows, heads, keyHeads, size, context, type}, with the window of
     each layer, Infinity if it has none. Defaults are those of fields left out, by model_type. */
  function readConfig(text, defaults) {
    let top;
    try {
      top = JSON.parse(text);
    } catch (error) {
      throw new Error(`This is not JSON: ${error.message}.`);
    }
    if (!isObject(top)) throw new Error("This is JSON, but no object with fields.");
    if (top.text_config != null && !isObject(top.text_config)) refuse("text_config", top.text_config, "an object");
    const given = Object.entries({ ...top, ...top.text_config }).filter(([, value]) => value != null);
    const type = Object.fromEntries(given).model_type;
    const c = { ...(Object.hasOwn(defaults, type) ? defaults[type] : {}), ...Object.fromEntries(given) };
    for (const name of OTHERWISE) if (c[name]) refuse(name, c[name], "left out: such a cache isn't computed");

    const number = (largest, ...names) => {
      const name = names.find((name) => name in c);
      if (!name) throw new Error(`config.json: ${names.join(" or ")} is missing.`);
      const value = c[name];
      if (Number.isInteger(value) && value > 0 && value <= largest) return value;
      return refuse(name, value, `a whole number from 1 to ${largest.toLocaleString("en")}`);
    };
    const layers = number(1000, "num_hidden_layers", "n_layer");
    const heads = number(10_000, "num_attention_heads", "n_head");
    const keyHeads = "num_key_value_heads" in c ? number(10_000, "num_key_value_heads") : heads;
    if (heads % keyHeads) refuse("num_key_value_heads", keyHeads, `a divisor of the ${heads} heads`);
    const width = "head_dim" in c ? null : number(1_000_000, "hidden_size", "n_embd");
    if (width % heads) {
      refuse("hidden_size" in c ? "hidden_size" : "n_embd", width, `a multiple of the ${heads} heads, or head_dim given`);
    }
    const size = width ? width / heads : number(10_000, "head_dim");
    const context = number(100_000_000, "max_position_embeddings", "n_positions", "n_ctx");
    const kinds = readKinds(c, layers);
    const window = kinds.includes(LOCAL) ? number(100_000_000, "sliding_window") : Infinity;
    return { windows: kinds.map((kind) => (kind === LOCAL ? window : Infinity)), heads, keyHeads, size, context, type };
  }

  /* The kind of each layer: listed, or by a pattern, or all global if there is no window. */
  function readKinds(c, layers) {
    const kinds = c.layer_types, numbers = Array.from({ length: layers }, (_, i) => i + 1);
    if (kinds !== undefined) {
      const known = Array.isArray(kinds) && kinds.every((kind) => kind === LOCAL || kind === GLOBAL);
      if (!known || kinds.length !== layers) {
        refuse("layer_types", kinds, `a list of ${layers}, each "${LOCAL}" or "${GLOBAL}"`);
      }
      return kinds;
    }
    if (!("sliding_window" in c) || c.use_sliding_window === false) return numbers.map(() => GLOBAL);
    if (c.use_sliding_window) return numbers.map((i) => (i > c.max_window_layers ? LOCAL : GLOBAL));
    const name = ["sliding_window_pattern", "_sliding_window_pattern"].find((name) => name in c);
    const pattern = name ? c[name] : PATTERNS[c.model_type];
    if (pattern === undefined) {
      throw new Error("config.json: layer_types is missing, so which layers have the sliding_window is not said.");
    }
    if (!(pattern >= 1)) refuse(name, pattern, "a number from 1");
    return numbers.map((i) => (i % pattern ? LOCAL : GLOBAL));
  }

  /* Places of a layer: as many as a query can see; and as gemma3.py's grow makes them. */
  const visible = (length, window) => Math.min(length, window);
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
  const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

  /* Bytes for reading: 15.7 MB. */
  function show(bytes) {
    const [unit, name] = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]].find(([unit]) => bytes >= unit) ?? [1, "bytes"];
    const value = bytes / unit;
    return `${value >= 100 ? count(Math.round(value)) : value.toLocaleString("en", { maximumSignificantDigits: 3 })} ${name}`;
  }

  play.define("cache", (root, picture) => {
    const { presets, defaults, chunk, chosen } = picture.options;
    const state = { config: chosen, tokens: Infinity, texts: 1, bytes: 4 };
    let steps = [1]; // the lengths of the slider

    const controls = {
      config: play.choice("Model", { ...Object.fromEntries(Object.keys(presets).map((name) => [name, name])), own: "another config.json" }, {
        value: chosen, change: fill,
      }),
      tokens: play.slider("Tokens", {
        min: 0, max: 0, value: 0, show: (i) => count(steps[i]),
        change: (i) => { state.tokens = steps[i]; draw(); },
      }),
      texts: play.slider("Texts at once", { min: 1, max: 64, value: 1, change: (n) => { state.texts = n; draw(); } }),
      bytes: play.choice("Numbers", { 4: "float32, 4 bytes", 2: "bfloat16, 2 bytes", 1: "int8, 1 byte" }, {
        value: 4, change: (n) => { state.bytes = Number(n); draw(); },
      }),
    };
    const area = play.el("textarea", {
      rows: 6, spellcheck: "false", "aria-label": "config.json of a model",
      placeholder: "Paste the config.json of a model here.",
      oninput: () => { play.set(controls.config.input, "own"); },
    });
    const result = play.el("div", { class: "cache-result", "aria-live": "polite" });

    /* Put a preset's config into the text; "own" leaves the text as it is. */
    function fill(name) {
      state.config = name;
      if (name !== "own") area.value = JSON.stringify(presets[name], null, 1);
      read();
    }

    let config;
    function read() {
      config = null;
      try {
        config = readConfig(area.value, defaults);
      } catch (error) {
        result.replaceChildren(play.el("p", { class: "play-error" }, error.message));
        return;
      }
      steps = lengths(config.context);
      const at = steps.findIndex((n) => n >= state.tokens);
      controls.tokens.input.max = steps.length - 1;
      play.set(controls.tokens.input, at < 0 ? steps.length - 1 : at);
    }

    function draw() {
      if (!config) return;
      const { windows, heads, keyHeads, size, context, type } = config;
      const { tokens, texts, bytes } = state;
      const local = windows.filter((window) => window < Infinity), global = windows.length - local.length;
      const place = 2 * keyHeads * size * bytes; // a key and a value
      /* Bytes of local and global layers, for the places of a layer with a window. */
      const sizes = (places, each = place) =>
        [local.length * places(local[0]), global * places(Infinity)].map((n) => (n ? n * texts * each : 0));
      const now = sizes((window) => visible(tokens, window));
      const variants = [["As it is: what a query can still see", now]];
      if (type === "gemma3_text") {
        const kept = sizes((window) => grown(tokens, Math.min(window, context), chunk));
        variants.push([["As ", picture.line("grow", "gemma3.py"), " keeps it: in steps, with room for a chunk"], kept]);
      }
      variants.push(["Without windows", sizes(() => tokens)]);
      variants.push(["With a key and a value for each query head", sizes((window) => visible(tokens, window), 2 * heads * size * bytes)]);
      const most = Math.max(...variants.map(([, [a, b]]) => a + b));
      result.replaceChildren(
        play.el("table", { class: "cache-kinds" },
          play.el("tr", {}, ["Layers", "Places", "Bytes"].map((name) => play.el("th", { scope: "col" }, name))),
          local.length ? kind("cache-local", `${count(local.length)} local, window ${count(local[0])}`, visible(tokens, local[0]), now[0]) : null,
          global ? kind("cache-global", `${count(global)} global`, tokens, now[1]) : null),
        play.el("p", {}, `A place takes ${count(place)} bytes in each layer: a key and a value (2), ` +
          `${plural(keyHeads, "head")}, ${count(size)} features, ${plural(bytes, "byte")}. `, picture.line(type === "gpt2" ? "gpt2" : "shape")),
        play.el("ul", { class: "cache-variants" }, variants.map((variant) => bar(variant, now, most))),
      );
    }

    const kind = (colour, name, places, bytes) => play.el("tr", {},
      play.el("td", {}, play.el("i", { class: colour }), ` ${name}`),
      play.el("td", {}, count(places)), play.el("td", {}, show(bytes)));

    /* A line with a bar: local and global layers, and how many times as large as it is now. */
    function bar([name, [local, global]], now, most) {
      const times = (local + global) / (now[0] + now[1]);
      const part = (colour, bytes) => play.el("span", { class: colour, style: `width: ${(100 * bytes) / most}%` });
      return play.el("li", {}, name, ": ", play.el("b", {}, show(local + global)),
        times === 1 ? "" : ` (× ${times.toLocaleString("en", { maximumSignificantDigits: 3 })})`,
        play.el("div", { class: "cache-bar", "aria-hidden": "true" }, part("cache-local", local), part("cache-global", global)));
    }

    const { config: model, ...others } = controls;
    root.append(
      play.el("div", { class: "play-bar" }, model.element), area,
      play.el("div", { class: "play-bar" }, Object.values(others).map(({ element }) => element)),
      result,
    );
    fill(chosen);

    root.addEventListener("change", () => { picture.state = state; });
    picture.onState(({ part, config: name, tokens, texts, bytes }) => {
      if (part === "gpt2") name = picture.options.gpt2;
      else if (part) name = chosen;
      if (tokens) state.tokens = Number(tokens);
      if (name) play.set(controls.config.input, name);
      else read();
      if (texts) play.set(controls.texts.input, texts);
      if (bytes) play.set(controls.bytes.input, bytes);
    });
  });
}

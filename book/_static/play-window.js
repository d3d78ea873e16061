/* The mask of a sliding window: which keys each query sees, with a text that is read at once or
   token by token, and with the bug of giving all queries the keys of the last one. */

"use strict";

{
  /* The build keeps the styles of classes that it finds by their whole names in the scripts. */
  const KEY = {
    "window-seen": "seen", "window-hidden": "computed, then hidden", "window-missed": "should be seen",
  };

  /* For each query, the keys in the cache when it is computed, and those of them that it sees. */
  function rows({ tokens, window, layer, reading, bug }) {
    const reach = layer === "local" ? window : tokens;
    return Array.from({ length: tokens }, (_, query) => {
      const last = reading === "prompt" ? tokens - 1 : query; // a prompt's keys are written first
      const places = reading === "prompt" && !bug ? tokens : reach; // the bug: the last keys only
      const kept = span(Math.max(0, last - places + 1), last);
      return { query, kept, places, seen: kept.filter((key) => key <= query && query - key < reach) };
    });
  }

  const span = (first, last) => Array.from({ length: last - first + 1 }, (_, i) => first + i);

  /* Numbers for reading, consecutive ones: "3", "3 and 4", "3 to 7". */
  function words(numbers) {
    const [first, last] = [numbers[0], numbers.at(-1)];
    return first === last ? `${first}` : `${first} ${last === first + 1 ? "and" : "to"} ${last}`;
  }

  const keys = (seen) => (seen.length ? `${seen.length > 1 ? "keys" : "key"} ${words(seen)}` : "no key");

  play.define("window", (root, picture) => {
    const { tokens, window } = picture.options;
    const state = { tokens, window, layer: "local", reading: "prompt", bug: false, query: tokens >> 1 };
    let right, shown; // the rows without the bug, and as they are now

    function set(name, value) {
      state[name] = value;
      if (name === "tokens") controls.query.input.max = value - 1;
      if (name === "tokens" && state.query >= value) play.set(controls.query.input, value - 1);
      if (name === "query") select();
      else draw();
    }

    const change = (name) => (value) => set(name, value);
    const controls = {
      tokens: play.slider("Tokens", { min: 1, max: 20, value: tokens, change: change("tokens") }),
      window: play.slider("Window", { min: 1, max: 20, value: window, change: change("window") }),
      layer: play.choice("Layer", { local: "local", global: "global" }, {
        value: "local", change: change("layer"),
      }),
      reading: play.choice("Read", { prompt: "at once, a prompt", tokens: "token by token" }, {
        value: "prompt", change: change("reading"),
      }),
      bug: play.toggle("The bug: only the last keys, for all queries", {
        value: false, change: change("bug"),
      }),
      query: play.slider("Query", { min: 0, max: tokens - 1, value: state.query, change: change("query") }),
    };
    const grid = play.el("div", { class: "window-grid", role: "img" });
    const ring = play.el("p", { class: "window-ring" });
    const numbers = play.el("p", { class: "window-numbers" });
    const verdict = play.el("p", { class: "window-verdict", "aria-live": "polite" });
    const sentence = play.el("p", { class: "window-sentence", "aria-live": "polite" });

    function draw() {
      right = rows({ ...state, bug: false });
      shown = rows(state);
      grid.style.setProperty("--tokens", state.tokens);
      const positions = span(0, state.tokens - 1).map(label);
      grid.replaceChildren(
        play.el("div", { class: "window-row" }, play.el("span"), positions, label("seen")),
        ...shown.map(drawRow),
      );
      const total = (count) => shown.reduce((sum, row) => sum + count(row), 0);
      numbers.textContent = `Products of a query and a key: ${total((row) => row.places)}; ` +
        `not hidden: ${total((row) => row.seen.length)}.`;
      grid.setAttribute("aria-label", `${state.tokens} queries and keys. ${judge()}`);
      verdict.textContent = judge();
      verdict.classList.toggle("window-wrong", wrong().length > 0);
      select();
    }

    function drawRow({ query, kept, seen }) {
      const cells = span(0, state.tokens - 1).map((key) => {
        const kind = seen.includes(key) ? "window-seen"
          : right[query].seen.includes(key) ? "window-missed"
          : kept.includes(key) ? "window-hidden" : null;
        return play.el("i", { class: kind });
      });
      return play.el("div", { class: "window-row", "data-query": query }, label(query), cells, label(seen.length));
    }

    const label = (text) => play.el("span", { class: "window-label" }, text);

    /* The queries that don't see what they should. */
    const wrong = () => shown.filter(({ query, seen }) => seen.length < right[query].seen.length);

    function judge() {
      if (!state.bug) return "Each query sees what it should.";
      if (state.layer === "global") return "The bug is not in global layers: they see all keys.";
      if (state.reading === "tokens") return "The bug changes nothing here: each query is the last.";
      if (!wrong().length) return "The bug changes nothing here: the text fits into the window.";
      const blind = wrong().filter(({ seen }) => !seen.length).length;
      return `${blind} ${blind === 1 ? "query sees" : "queries see"} nothing, ` +
        `${wrong().length - blind} too little, ${state.tokens - wrong().length} what it should.`;
    }

    /* Mark one query's row, and say what it sees. */
    function select() {
      const { query, places, seen } = shown[state.query];
      for (const row of grid.children) {
        row.classList.toggle("window-selected", row.dataset.query === String(query));
      }
      const due = right[query].seen;
      sentence.textContent = `Query ${query} sees ${keys(seen)}` +
        (seen.length < due.length ? `, and should see ${keys(due)}.` : `: ${seen.length} of ${state.tokens}.`);
      ring.hidden = state.reading !== "tokens";
      if (!ring.hidden) ring.replaceChildren(...drawRing(query, places, seen), picture.line("ring"));
    }

    /* The places of the cache, a ring, when this query has just been written. */
    function drawRing(query, places, seen) {
      const boxes = span(0, places - 1).map((place) => {
        const steps = (((query - place) % places) + places) % places; // since it was written
        const held = query - steps;
        const kind = seen.includes(held) ? "window-seen" : null;
        return play.el("span", { class: kind }, held < 0 ? "–" : held);
      });
      return [`The ${places === 1 ? "place holds" : `${places} places hold`} `, ...boxes];
    }

    grid.addEventListener("pointerover", follow);
    grid.addEventListener("pointerdown", follow);
    function follow(event) {
      const query = event.target.closest("[data-query]")?.dataset.query;
      if (query && query !== String(state.query)) play.set(controls.query.input, query);
    }

    const { query, ...others } = controls;
    root.append(
      play.el("div", { class: "play-bar" }, Object.values(others).map(({ element }) => element)),
      play.el("div", { class: "window-columns" }, grid,
        play.el("div", {},
          play.el("p", { class: "window-key" },
            Object.entries(KEY).map(([kind, text]) =>
              play.el("span", {}, play.el("i", { class: kind }), ` ${text}`))),
          verdict, numbers, play.el("p", {}, picture.line("mask")), query.element, sentence, ring)),
    );
    draw();

    root.addEventListener("change", () => { picture.state = state; });
    picture.onState(({ part, ...values }) => {
      if (part === "ring") play.set(controls.reading.input, "tokens");
      if (part === "mask") play.set(controls.reading.input, "prompt");
      for (const name in controls) if (name in values) play.set(controls[name].input, values[name]);
    });
  });
}

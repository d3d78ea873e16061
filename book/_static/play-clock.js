/* RoPE's clock: pairs of features as clock faces, each with the hand of a query and that of a key.
   Both begin in the same direction and are turned by their positions. */

"use strict";

{
  const HANDS = 8; // of all pairs, those that are drawn
  const FARTHEST = 32768; // tokens between query and key
  const POINTS = 700; // of the curve

  /* The speeds of all pairs, in radians a token: the second line of rope. */
  const speeds = (pairs, base) => Array.from({ length: pairs }, (_, i) => base ** (-i / pairs));

  /* The dot product of the point (1, 0) in all pairs, turned by two positions, over their number. */
  function product(omegas, m, n) {
    let sum = 0;
    for (const omega of omegas) {
      sum += Math.cos(m * omega) * Math.cos(n * omega) + Math.sin(m * omega) * Math.sin(n * omega);
    }
    return sum / omegas.length;
  }

  /* Whole distances, the farther the sparser. */
  const distances = [...new Set(Array.from({ length: POINTS + 1 }, (_, i) =>
    Math.round(FARTHEST ** (i / POINTS))))];
  const across = (distance) => Math.log(distance) / Math.log(FARTHEST); // 0 to 1, from left to right
  const up = (value) => (value + 0.3) / 1.3;

  const text = (number) => number.toLocaleString("en", { maximumSignificantDigits: 3 });
  const exact = (number) => Math.round(number).toLocaleString("en");

  play.define("clock", (root, picture) => {
    const { pairs, layers } = picture.options;
    const drawn = Array.from({ length: HANDS }, (_, i) => Math.min(i * pairs / HANDS, pairs - 1));
    drawn[HANDS - 1] = pairs - 1;
    const state = { key: 0, distance: 10, base: layers.local.theta };

    const controls = {
      key: play.slider("Position n of the key", {
        min: 0, max: 1000, value: 0, show: exact, change: (value) => set("key", value),
      }),
      distance: play.slider("Distance m − n", {
        min: 0, max: 150, value: 33, show: (x) => exact(2 ** (x / 10)),
        change: (x) => set("distance", Math.round(2 ** (x / 10))),
      }),
      base: play.slider("Base θ", {
        min: Math.log10(layers.local.theta), max: Math.log10(layers.global.theta), step: 0.01,
        value: Math.log10(state.base), show: (x) => text(10 ** x), change: (x) => set("base", 10 ** x),
      }),
    };
    const marks = Object.entries(layers).map(([kind, { theta }]) =>
      play.el("button", { type: "button", onclick: () => move("base", Math.log10(theta)) },
        `${kind}: ${exact(theta)}`));
    const run = play.el("button", { type: "button", "aria-pressed": "false", onclick: toggleRun },
      "Let both walk");
    const faces = drawn.map(face);
    const sentence = play.el("p", { class: "clock-product", "aria-live": "polite" });
    const spread = play.el("p");
    const curve = play.svg("path", { class: "clock-curve" });
    const dot = play.el("span", { class: "clock-dot" });

    function set(name, value) {
      state[name] = value;
      draw(name === "base");
    }

    function move(name, value) {
      play.set(controls[name].input, value);
      picture.state = state;
    }

    function face(pair) {
      const sector = play.svg("path", { class: "clock-sector" });
      const hands = ["key", "query"].map((name) => play.svg("line", { class: `clock-${name}` }));
      const label = play.el("span");
      const svg = play.svg("svg", { viewBox: "-1.1 -1.1 2.2 2.2", "aria-hidden": "true" },
        play.svg("circle", { r: 1, class: "clock-face" }), sector, ...hands);
      return { pair, sector, hands, label, element: play.el("figure", {}, svg, label) };
    }

    function drawFace({ pair, sector, hands, label, element }, omega) {
      const ends = [state.key, state.key + state.distance].map((position) => at(position * omega));
      ends.forEach(([x, y], i) => {
        hands[i].setAttribute("x2", 0.92 * x);
        hands[i].setAttribute("y2", 0.92 * y);
      });
      const near = state.distance * omega < Math.PI; // less than half a turn apart
      sector.setAttribute("d", near ? `M0 0 L${ends[0]} A1 1 0 0 0 ${ends[1]} Z` : "");
      element.classList.toggle("clock-far", !near);
      label.replaceChildren(play.el("b", {}, `pair ${pair}`), play.el("br"), text((2 * Math.PI) / omega));
    }

    const at = (angle) => [Math.cos(angle), -Math.sin(angle)]; // SVG counts downwards

    function draw(anew) {
      const omegas = speeds(pairs, state.base);
      const { key: n, distance } = state;
      const value = product(omegas, n + distance, n);
      for (const clock of faces) drawFace(clock, omegas[clock.pair]);
      sentence.replaceChildren(
        `Query at m = ${exact(n + distance)}, key at n = ${exact(n)}: dot product `,
        play.el("output", {}, value.toFixed(3)),
        `. With m = ${exact(distance)} and n = 0: ${product(omegas, distance, 0).toFixed(3)}.`,
      );
      const near = omegas.filter((omega) => distance * omega < Math.PI).length;
      spread.textContent = `A turn takes from ${text(2 * Math.PI)} tokens (pair 0) to ` +
        `${text((2 * Math.PI) / omegas.at(-1))} (pair ${pairs - 1}). ` +
        `Over this distance ${near} of ${pairs} pairs make less than half a turn.`;
      dot.style.left = `${100 * across(distance)}%`;
      dot.style.bottom = `${100 * up(value)}%`;
      if (anew) curve.setAttribute("d", `M${trace(omegas)}`);
    }

    const trace = (omegas) => distances.map((distance) =>
      `${(1000 * across(distance)).toFixed(1)} ${(100 - 100 * up(product(omegas, distance, 0))).toFixed(2)}`).join("L");

    /* Query and key walk on together: the hands turn, and the dot product stays. */
    let timer = 0;
    function toggleRun() {
      if (timer) timer = clearInterval(timer);
      else timer = setInterval(() => play.set(controls.key.input, (state.key + 1) % 1001), 150);
      run.setAttribute("aria-pressed", String(Boolean(timer)));
    }

    const ticks = [1, 10, 100, layers.local.window, 4096, layers.global.window].map((distance) =>
      play.el("span", { style: `left: ${100 * across(distance)}%` }, exact(distance)));
    const windows = Object.entries(layers).map(([kind, { window }]) =>
      play.el("span", { class: "clock-window", style: `left: ${100 * across(window)}%` }, `${kind} layers end`));
    const zero = 100 - 100 * up(0);
    root.append(
      play.el("div", { class: "play-bar" }, controls.key.element, run, controls.distance.element),
      play.el("div", { class: "play-bar" }, controls.base.element, marks),
      play.el("div", { class: "clock-faces" }, faces.map(({ element }) => element)),
      play.el("p", { class: "play-muted" },
        play.el("i", { class: "clock-query" }), " query ", play.el("i", { class: "clock-key" }), " key ",
        play.el("i", { class: "clock-sector" }), " less than half a turn apart. ",
        "Below each pair: how many tokens a turn takes. ", picture.line("angle")),
      sentence, spread,
      play.el("div", { class: "clock-plot" },
        play.svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img",
          "aria-label": "The dot product falls with the distance, wavering; the larger the base, the later." },
          play.svg("path", { class: "clock-zero", d: `M0 ${zero}H1000` }), curve),
        windows, dot, play.el("div", { class: "clock-ticks", "aria-hidden": "true" }, ticks)),
      play.el("p", { class: "play-muted" },
        "The dot product, divided by the number of pairs, over the distance in tokens. ", picture.line("turn")),
    );
    draw(true);

    root.addEventListener("change", () => { picture.state = state; });
    picture.onState(({ key, distance, base }) => {
      if (key) play.set(controls.key.input, key);
      if (distance) play.set(controls.distance.input, 10 * Math.log2(distance));
      if (base) play.set(controls.base.input, Math.log10(base));
    });
  });
}

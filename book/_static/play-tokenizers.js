/* Two tokenizers on the reader's own text: GPT-2's and Gemma's tokens in boxes above each other,
   what each needs, and the joins of one word in their order.

   The chapter sends the tokens of some prepared texts, so that there is something to see at once.
   The vocabularies are loaded when the reader types, or looks at joins; from then on everything
   is computed here, by src/gpt2.js and gemma3-tokenizer.js. */

"use strict";

const NAMES = { gpt2: "GPT-2", gemma: "Gemma 3" };
const LONGEST = 20000; // characters of a text
const LONG_WORD = 200; // characters
const MOST_PARTS = 48; // of a word whose joins are drawn
const IN_ADDRESS = 1500; // characters of a text that the address takes
const WRAPS = 6; // tokens of a group that may need more than one line
const LINE = 100; // groups of tokens in a line at most

/* ----------------------------------------------------------------------------- tokens of a text */

/* Where in a text's bytes each of some byte strings lies, if they are the text in this order. To
   Gemma a typed "▁", three bytes, is a space. */
function placed(original, strings) {
  let end = 0;
  return strings.map((bytes) => {
    const begin = end;
    for (const byte of bytes) end += byte === 0x20 && original[end] !== 0x20 ? 3 : 1;
    return { bytes, begin, end };
  });
}

/* Groups of tokens between places where both tokenizers cut, but never within a character. */
function groups(original, tokens) {
  const cuts = new Set(tokens.gpt2.map((token) => token.end));
  const shared = tokens.gemma
    .map((token) => token.end)
    .filter((end) => cuts.has(end) && (original[end] & 0xc0) !== 0x80);
  const next = { gpt2: 0, gemma: 0 };
  return shared.map((end) => {
    const group = { end };
    for (const who of Object.keys(NAMES)) {
      const first = next[who];
      while (next[who] < tokens[who].length && tokens[who][next[who]].end <= end) next[who]++;
      group[who] = tokens[who].slice(first, next[who]);
    }
    group.begin = group.gpt2[0].begin;
    group.same = group.gpt2.length === 1 && group.gemma.length === 1;
    return group;
  });
}

/* Words as a browser finds them, in Chinese and Thai too. */
function countWords(text) {
  const segments = new Intl.Segmenter("en", { granularity: "word" }).segment(text);
  let count = 0;
  for (const segment of segments) count += segment.isWordLike;
  return count;
}

/* ---------------------------------------------------------------------------------------- joins */

/* The joins of words, each a list of parts to begin with: one word after the other, and of the
   pairs in a word that make a token the one with the lowest id first. Gives a row for each join:
   the parts, which of them was made and its id, and the pairs that are possible next. */
function joins(words, find) {
  let parts = words.flatMap((word, n) => word.map((bytes) => ({ bytes, word: n })));
  const rows = [];
  for (let made = {}; ;) {
    const pairs = parts.slice(1).flatMap((right, place) => {
      const left = parts[place];
      const bytes = Uint8Array.of(...left.bytes, ...right.bytes);
      const id = left.word === right.word ? find(bytes) : undefined;
      return id === undefined ? [] : [{ bytes, id, place, word: left.word }];
    });
    pairs.sort((a, b) => a.word - b.word || a.id - b.id || a.place - b.place);
    const next = pairs.filter((pair) => pair.word === pairs[0].word);
    rows.push({ parts, next, ...made });
    if (!next.length) return rows;
    const [{ bytes, id, place, word }] = next;
    parts = parts.toSpliced(place, 2, { bytes, word });
    made = { place, id };
  }
}

/* --------------------------------------------------------------------------------- vocabularies */

async function unzip(array) {
  const stream = new Blob([array]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const scripts = {}; // promises, so that each is added once

function addScript(path) {
  const src = document.documentElement.dataset.content_root + path;
  scripts[path] ??= new Promise((resolve, reject) => {
    const onerror = () => {
      delete scripts[path]; // it may be tried again
      reject(new Error(`The script ${path} is missing.`));
    };
    document.head.append(play.el("script", { src, onload: resolve, onerror }));
  });
  return scripts[path];
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // U+FFFD for what is no UTF-8

/* Each tokenizer as this picture needs it, all in bytes: the ids of a text, the bytes of a token,
   the words, the parts that joins begin with, and the id of a part. */

async function loadGpt2(picture, progress) {
  const [vocabulary, script] = await Promise.all([
    picture.load("gpt2-vocabulary", progress),
    picture.load("gpt2-js"), // src/gpt2.js, whose names are not for the page: others may have them
    addScript("_static/gemma3-tokenizer.js"),
  ]);
  const bytes = await unzip(vocabulary.tensors.bytes.data);
  const lengths = await unzip(vocabulary.tensors.lengths.data);
  const source = decoder.decode(script.tensors.source.data);
  const { Tokenizer, WORD, END_OF_TEXT } = new Function(
    `${source}\nreturn { Tokenizer, WORD, END_OF_TEXT };`,
  )();
  const single = (byte) => Uint8Array.of(byte);
  const keyed = (string) => String.fromCharCode(...string); // a byte is a character, as in gpt2.js

  /* gpt2.js looks at all pairs after each join. That is simple, and too slow for a long word. */
  class Patient extends Tokenizer {
    merge(word) {
      if (word.length < LONG_WORD) return super.merge(word);
      const parts = Array.from(encoder.encode(word), (byte) => keyed([byte]));
      return joinNeighbours(parts, this.id).map((part) => this.id.get(part));
    }
  }

  const gpt2 = new Patient(bytes, lengths);
  const words = (text) =>
    text
      .split(END_OF_TEXT)
      .flatMap((part) => [...(part.match(WORD) ?? []), END_OF_TEXT])
      .slice(0, -1);
  return {
    encode: (text) => gpt2.encode(text),
    tokenBytes: (id) => gpt2.token_bytes[id],
    words: (text) => words(text).map((word) => encoder.encode(word)),
    parts: (word) => (keyed(word) === END_OF_TEXT ? [word] : Array.from(word, single)),
    find: (part) => gpt2.id.get(keyed(part)),
  };
}

async function loadGemma(picture, progress) {
  const [{ tensors }] = await Promise.all([
    picture.load("gemma-vocabulary", progress),
    addScript("_static/gemma3-tokenizer.js"),
  ]);
  const pieces = decoder.decode(await unzip(tensors.text.data));
  const lengths = await unzip(tensors.lengths.data);
  const gemma = new GemmaTokenizer(pieces, lengths, tensors.special.data, tensors.bytes.data);
  return {
    encode: (text) => gemma.encode(text),
    tokenBytes: (id) => gemma.tokenBytes(id),
    words: (text) => gemma.words(text).map((word) => encoder.encode(word)),
    parts: (word) => gemma.parts(decoder.decode(word)).map((part) => encoder.encode(part)),
    find: (part) => gemma.id.get(decoder.decode(part)),
  };
}

/* ------------------------------------------------------------------------------ what is written */

const INVISIBLE = /^[\p{C}\p{Z}\p{Default_Ignorable_Code_Point}]+$/u;
const CONTROL = /[ \p{Cc}\p{Bidi_Control}\u2028\u2029]/gu;

const FROM_THE_RIGHT = // a letter of these scripts
  /[\p{sc=Arabic}\p{sc=Hebrew}\p{sc=Syriac}\p{sc=Thaana}\p{sc=Nko}\p{sc=Adlam}]/u;

const codePoint = (character) =>
  `U+${character.codePointAt().toString(16).toUpperCase().padStart(4, "0")}`;

const SIGNS = { " ": "␣", "\n": "↵", "\t": "⇥" };

const sign = (character) => SIGNS[character] ?? codePoint(character);

const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");

/* How a token is shown: its text with what is invisible made visible, or its bytes, where these
   are no whole characters. */
function shown(bytes) {
  const text = decoder.decode(bytes);
  const whole = !text.includes("\ufffd") || hex(encoder.encode(text)) === hex(bytes);
  if (!whole) return { text: hex(bytes), raw: true };
  if (!INVISIBLE.test(text)) return { text: text.replace(CONTROL, sign), raw: false };
  const raw = [...text].some((character) => !(character in SIGNS));
  return { text: [...text].map(sign).join(raw ? " " : ""), raw };
}

const muted = (text) => play.el("span", { class: "play-muted" }, text);

const number = (value, digits = 0) =>
  Number.isFinite(value)
    ? value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
    : "–";

function box(bytes, attributes = {}) {
  const { text, raw } = shown(bytes);
  return play.el("span", { class: raw ? "tz-piece tz-raw" : "tz-piece", ...attributes }, text);
}

/* ------------------------------------------------------------------------------------ the parts */

/* The table of what each tokenizer needs. */
function countsTable(text, original, tokens) {
  const [words, characters] = [countWords(text), [...text].length];
  const most = Math.max(tokens.gpt2.length, tokens.gemma.length, 1);
  const head = ["tokenizer", "tokens", "tokens a word", "characters a token", "bytes a token"];
  return play.el(
    "table",
    { class: "tz-counts" },
    play.el(
      "thead",
      {},
      play.el("tr", {}, head.map((cell) => play.el("th", { scope: "col" }, cell))),
    ),
    play.el("tbody", {}, Object.entries(NAMES).map(([who, name]) => {
      const n = tokens[who].length;
      const values = [[n / words, 2], [characters / n, 2], [original.length / n, 2]];
      return play.el(
        "tr",
        { class: `tz-${who}` },
        play.el("th", { scope: "row" }, name),
        play.el(
          "td",
          { class: "tz-total" },
          play.el("span", { class: "tz-bar", style: `width: ${(100 * n) / most}%` }),
          play.el("span", { class: "tz-number" }, number(n)),
        ),
        values.map(([value, digits]) => play.el("td", {}, number(value, digits))),
      );
    })),
  );
}

/* Yield the boxes of both tokenizers, line by line, as they are needed. Lines break where the text
   does. Each box is noted with its token in tokenOf. */
function* boxes(list, tokenOf) {
  const models = new Map(); // a copy of a box is made faster than a box
  const tokenBox = (who, token) => {
    const key = `${who} ${token.id} ${token.n % 2}`;
    if (!models.has(key)) {
      const classes = token.n % 2 ? "tz-token tz-odd" : "tz-token";
      const attributes = { class: classes, role: "button", tabindex: -1, "data-id": token.id };
      models.set(key, play.el("span", attributes, box(token.bytes)));
    }
    token.element = models.get(key).cloneNode(true);
    tokenOf.set(token.element, token);
    return token.element;
  };
  const row = (who, tokens) => {
    const long = tokens.length > WRAPS ? " tz-long" : "";
    const classes = `tz-row tz-${who}${long}`;
    return play.el("span", { class: classes }, tokens.map((token) => tokenBox(who, token)));
  };
  let line = [];
  for (const group of list) {
    const both = Object.keys(NAMES).map((who) => row(who, group[who]));
    line.push(play.el("span", { class: group.same ? "tz-group" : "tz-group tz-differs" }, both));
    const ended = group.gpt2.at(-1).bytes.at(-1) === 10;
    if (ended || line.length === LINE || group === list.at(-1)) {
      yield play.el("div", { class: "tz-line" }, line);
      line = [];
    }
  }
}

/* The rows of joins of one tokenizer, the first k + 1 of them seen, and what comes next. */
function ladder(who, rows, k, dir, source) {
  const last = Math.min(k, rows.length - 1);
  const { next, parts } = rows[last];
  const left = parts.length > 1 ? `${parts.length} parts are` : "one part is";
  const name = (bytes) => play.el("bdi", { class: "tz-word" }, shown(bytes).text);
  const says = next.length
    ? [
      next.length > 1 ? `${next.length} pairs make a token; ` : "One pair makes a token: ",
      name(next[0].bytes),
      next.length > 1 ? ` has the lowest id, ${number(next[0].id)}.` : `, ${number(next[0].id)}.`,
    ]
    : [`No pair makes a token: ${left} left.`];
  return play.el(
    "div",
    { class: `tz-ladder tz-${who}` },
    play.el("h4", {}, NAMES[who], " ", source),
    play.el("ol", {}, rows.map((row, n) =>
      play.el(
        "li",
        { class: n > last && "tz-later", "aria-hidden": n > last && "true" },
        play.el("span", { class: "tz-join" }, n ? number(row.id) : "parts"),
        play.el("span", { class: "tz-parts", dir }, row.parts.map((part, i) => {
          const classes = ["tz-piece"];
          if (n && i === row.place) classes.push("tz-made");
          if (i && part.word !== row.parts[i - 1].word) classes.push("tz-apart");
          if (shown(part.bytes).raw) classes.push("tz-raw");
          return box(part.bytes, { class: classes.join(" ") });
        })),
      ))),
    play.el("p", { class: "tz-next" }, says),
  );
}

/* ---------------------------------------------------------------------------------- the picture */

play.define("tokenizers", (root, picture) => {
  const { presets, megabytes } = picture.options;
  const now = { preset: "", text: "", original: null, tokens: null, groups: [] };
  let tokenizers = null; // both, once they are loaded
  let loading = null; // a promise of it
  let range = null; // of bytes, whose joins are shown
  let part = ""; // of the picture that the address names

  const titles = Object.entries(presets).map(([key, { title }]) => [key, title]);
  const choice = play.choice(
    "Text",
    { ...Object.fromEntries(titles), "": "your own" },
    { value: Object.keys(presets)[0], change: (key) => (key ? usePreset(key) : field.focus()) },
  );
  const field = play.el("textarea", {
    class: "tz-text", dir: "auto", rows: 3, maxlength: LONGEST, spellcheck: "false",
    "aria-label": "Text for both tokenizers", oninput: () => useText(field.value),
  });
  const loader = play.el("div", { class: "tz-loader" });
  const counts = play.el("div", { class: "play-scroll" });
  const summary = play.el("p", { class: "tz-summary", role: "status" });
  const details = play.el("p", { class: "tz-details", "aria-live": "polite" });
  const stage = play.el("div", {
    class: "tz-stage", role: "group",
    "aria-label": "Tokens. Left and right: along; up and down: the other tokenizer; Enter: joins",
  });
  const steps = play.el("div", { class: "tz-steps" });
  root.append(
    play.el("div", { class: "play-bar" }, choice.element), field, loader, counts, summary, stage,
    details, steps,
  );
  offer();

  /* ---- loading */

  function offer() {
    const size = `${number(megabytes, 1)} MB`;
    const onclick = async () => (await ready()) && field.focus();
    loader.replaceChildren(
      play.el("button", { type: "button", onclick }, "Load both vocabularies"),
      muted(` ${size}, for your own text and for joins. Typing loads them too.`),
    );
  }

  /* Load both vocabularies, once. */
  function ready() {
    loading ??= load().catch((error) => {
      loading = null; // so that it can be tried again
      offer();
      loader.append(play.el("p", { class: "play-error", role: "alert" }, error.message));
      throw error;
    });
    return loading.then(() => true, () => false);
  }

  async function load() {
    const bar = play.el("progress", { "aria-label": "Loading both vocabularies" });
    loader.replaceChildren(bar, muted(" Loading both vocabularies …"));
    const done = { gpt2: 0, gemma: 0 };
    const progress = (who) => (bytes) => {
      done[who] = bytes;
      bar.value = Math.min(1, (done.gpt2 + done.gemma) / (megabytes * 1e6));
    };
    const [gpt2, gemma] = await Promise.all([
      loadGpt2(picture, progress("gpt2")),
      loadGemma(picture, progress("gemma")),
    ]);
    tokenizers = play.tokenizers = { gpt2, gemma }; // the latter for the browser's console
    loader.remove();
  }

  /* ---- the text */

  function usePreset(key) {
    const { text, gpt2, gemma } = presets[key];
    field.value = text;
    const original = encoder.encode(text);
    const take = (list) => {
      let end = 0;
      return list.map(([id, size]) => ({ id, bytes: original.slice(end, (end += size)) }));
    };
    show(key, text, { gpt2: take(gpt2), gemma: take(gemma) });
  }

  async function useText(value) {
    choice.input.value = "";
    root.setAttribute("aria-busy", true); // until its tokens are there, others are shown, pale
    if (!(await ready()) || field.value !== value) return; // more was typed meanwhile
    const text = value.toWellFormed();
    const tokens = {};
    for (const who of Object.keys(NAMES)) {
      const { encode, tokenBytes } = tokenizers[who];
      tokens[who] = encode(text).map((id) => ({ id, bytes: tokenBytes(id) }));
    }
    show("", text, tokens);
  }

  function show(preset, text, tokens) {
    const original = encoder.encode(text);
    for (const who of Object.keys(NAMES)) {
      const places = placed(original, tokens[who].map((token) => token.bytes));
      tokens[who] = places.map((place, n) => ({ ...place, who, n, id: tokens[who][n].id }));
    }
    Object.assign(now, { preset, text, original, tokens, groups: groups(original, tokens) });
    choice.input.value = preset;
    root.setAttribute("aria-busy", false);
    counts.replaceChildren(countsTable(text, original, tokens));
    const { gpt2, gemma } = tokens;
    const ends = new Set(gpt2.map((token) => token.end));
    const both = gemma.filter((token) => ends.has(token.end)).length;
    const alone = [gpt2, gemma].map((list) => number(list.length - both));
    summary.textContent = text
      ? `Both end a token at ${number(both)} places, GPT-2 alone at ${alone[0]}, `
        + `Gemma alone at ${alone[1]}. Lit is where they differ.`
      : "No text, no tokens.";
    stage.dir = FROM_THE_RIGHT.test(text.match(/\p{L}/u)?.[0]) ? "rtl" : "ltr";
    now.tokenOf = new Map();
    now.lines = boxes(now.groups, now.tokenOf);
    stage.replaceChildren();
    stage.scrollTop = 0;
    fillStage();
    stage.querySelector(".tz-token")?.setAttribute("tabindex", 0);
    details.textContent = "Point at a token for its bytes; press it for the joins of its word.";
    range = null;
    steps.replaceChildren();
    remember();
  }

  /* Draw one more line, if there is one. */
  function drawLine() {
    const { value, done } = now.lines.next();
    if (!done) stage.append(value);
    return !done;
  }

  /* Draw as far as is seen, and a screen more: a long text has tens of thousands of tokens. */
  function fillStage() {
    while (stage.scrollHeight < stage.scrollTop + 2 * stage.clientHeight + 1 && drawLine());
  }

  stage.addEventListener("scroll", fillStage);

  /* ---- one token */

  function describe(token) {
    const { who, bytes } = token;
    details.replaceChildren(
      play.el("strong", {}, NAMES[who]),
      `, token ${number(token.n + 1)} of ${number(now.tokens[who].length)}: `,
      play.el("bdi", { class: "tz-word" }, shown(bytes).text),
      ` · id ${number(token.id)} · ${bytes.length > 1 ? `${bytes.length} bytes` : "1 byte"}: `,
      play.el("code", {}, hex(bytes)),
    );
    for (const old of stage.querySelectorAll(".tz-held")) old.classList.remove("tz-held");
    for (const name of Object.keys(NAMES)) {
      for (const { element, begin, end } of now.tokens[name]) {
        if (begin < token.end && end > token.begin) element?.classList.add("tz-held");
      }
    }
  }

  function moveTo(element) {
    stage.querySelector('[tabindex="0"]')?.setAttribute("tabindex", -1);
    element.setAttribute("tabindex", 0);
    element.focus();
  }

  function onKey(event) {
    const element = event.target.closest(".tz-token");
    if (!element) return;
    const { who, n, begin } = now.tokenOf.get(element);
    const other = who === "gpt2" ? "gemma" : "gpt2";
    const keys = ["ArrowLeft", "ArrowRight"];
    const [back, on] = stage.dir === "rtl" ? keys.toReversed() : keys;
    const own = now.tokens[who];
    let next = null;
    if (event.key === "Enter" || event.key === " ") choose(element);
    else if (event.key === back) next = own[n - 1];
    else if (event.key === on) next = own[n + 1];
    else if (event.key === "Home") next = own[0];
    else if (event.key === "End") next = own.at(-1);
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      next = now.tokens[other].findLast((token) => token.begin <= begin);
    } else return;
    event.preventDefault();
    if (!next) return;
    while (!next.element) drawLine();
    moveTo(next.element);
  }

  const over = (event) => {
    const element = event.target.closest(".tz-token");
    if (element) describe(now.tokenOf.get(element));
  };
  stage.addEventListener("mouseover", over);
  stage.addEventListener("focusin", over);
  stage.addEventListener("keydown", onKey);
  stage.addEventListener("click", (event) => {
    const element = event.target.closest(".tz-token");
    if (element) {
      moveTo(element);
      choose(element);
    }
  });

  /* ---- the joins of a word */

  async function choose(element) {
    const { begin } = now.tokenOf.get(element);
    const { text } = now;
    if ((await ready()) && text === now.text) showJoins(begin);
  }

  /* What is drawn for a place: all groups that GPT-2's word there touches, or, if that is long,
     the group alone. */
  function aroundPlace(place) {
    const words = placed(now.original, tokenizers.gpt2.words(now.text));
    const word = words.find(({ end }) => end > place);
    const touched = now.groups.filter(({ begin, end }) => begin < word.end && end > word.begin);
    const whole = { begin: touched[0].begin, end: touched.at(-1).end };
    return whole.end - whole.begin > MOST_PARTS ? now.groups.find(({ end }) => end > place) : whole;
  }

  /* The parts that joins begin with in the range, by words. The ends of the range are ends of
     tokens, over which no join leads, so what happens within is what happens in the whole text. */
  function partsOf(who) {
    const tokenizer = tokenizers[who];
    const words = placed(now.original, tokenizer.words(now.text));
    return words
      .filter(({ begin, end }) => begin < range.end && end > range.begin)
      .map((word) => {
        const inside = now.tokens[who].filter(({ begin, end }) =>
          begin >= Math.max(word.begin, range.begin) && end <= Math.min(word.end, range.end));
        return tokenizer.parts(Uint8Array.from(inside.flatMap((token) => [...token.bytes])));
      });
  }

  function showJoins(place) {
    const { begin, end } = aroundPlace(place);
    range = { begin, end };
    remember();
    const word = play.el("bdi", { class: "tz-word" }, shown(now.original.slice(begin, end)).text);
    if (end - begin > MOST_PARTS) {
      const why = ` are too many to draw: it has ${number(end - begin)} bytes.`;
      steps.replaceChildren(play.el("p", {}, "The joins of ", word, why));
      return;
    }
    const rows = {};
    for (const who of Object.keys(NAMES)) rows[who] = joins(partsOf(who), tokenizers[who].find);
    const last = Math.max(rows.gpt2.length, rows.gemma.length) - 1;
    const view = play.el("div", { class: "tz-ladders" });
    const draw = (k) =>
      view.replaceChildren(...Object.keys(NAMES).map((who) =>
        ladder(who, rows[who], k, stage.dir, picture.line(who))));
    const slider = play.slider("Joins", {
      min: 0, max: last, value: last, show: (k) => `${k} of ${last}`, change: draw,
    });
    draw(last);
    const move = (by) => {
      slider.input.valueAsNumber += by;
      slider.input.dispatchEvent(new Event("input"));
    };
    const button = (label, sign, by) =>
      play.el("button", { type: "button", "aria-label": label, onclick: () => move(by) }, sign);
    steps.replaceChildren(
      play.el("h3", {}, "The joins of ", word),
      play.el(
        "div",
        { class: "play-bar" },
        button("One join back", "◀", -1),
        slider.element,
        button("One join on", "▶", 1),
      ),
      view,
    );
  }

  /* ---- the address */

  function remember() {
    if (!started) return;
    const { preset, text } = now;
    const joins = range ? { part: part || "gemma", at: range.begin } : {};
    if (preset) picture.state = { preset, ...joins };
    else picture.state = text.length > IN_ADDRESS ? {} : { text, ...joins };
  }

  async function restore(state) {
    part = state.part in picture.lines ? state.part : "";
    if (state.text !== undefined) {
      field.value = state.text;
      await useText(state.text);
    } else {
      usePreset(state.preset in presets ? state.preset : Object.keys(presets)[0]);
    }
    if (part && now.groups.length && (await ready())) {
      const first = now.groups.find((group) => !group.same) ?? now.groups[0];
      showJoins(Math.min(Number(state.at ?? first.begin) || 0, now.original.length - 1));
      steps.scrollIntoView({ block: "nearest" });
    }
  }

  let started = false; // the address is the reader's until something is changed
  usePreset(Object.keys(presets)[0]);
  picture.onState(restore);
  started = true;
});

/* What all interactive pictures share: finding them on the page, loading their data, the state in
   the page's address, and making elements. Each kind of picture is a script of its own,
   play-KIND.js, that calls play.define, and a style, play-KIND.css. See book/_kit/playground.py for
   the other side. */

"use strict";

const play = {
  kinds: {}, // the function that starts a picture, by kind
  waiting: {}, // what to do with a file that comes as a script, by its name

  /* A picture's script hands over its function start(root, picture), which may be async. */
  define(kind, start) {
    play.kinds[kind] = start;
  },

  /* Start all pictures of the page. What goes wrong is said in the picture's place. */
  startAll() {
    for (const root of document.querySelectorAll(".play")) {
      const picture = new Picture(root);
      root.querySelector(".play-missing").remove();
      Promise.resolve()
        .then(() => play.kinds[root.dataset.kind](root, picture))
        .catch((error) => play.fail(root, error));
    }
  },

  fail(root, error) {
    console.error(error);
    root.append(play.el("p", { class: "play-error", role: "alert" }, error.message));
  },

  /* A data file that was loaded as a script calls this. */
  receive(file, base64) {
    play.waiting[file]?.(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer);
  },

  /* An HTML element; "on…" attributes are listeners, other values of true and false as usual. */
  el(tag, attributes = {}, ...children) {
    return play.fill(document.createElement(tag), attributes, children);
  },

  /* An SVG element. */
  svg(tag, attributes = {}, ...children) {
    return play.fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  },

  fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((child) => child != null));
    return element;
  },

  /* A slider, a choice or a switch, each with its label: {element, input}. */
  slider(label, { min, max, step = 1, value, show = String, change }) {
    const output = play.el("output", {}, show(value));
    const input = play.el("input", {
      type: "range", min, max, step, value, "aria-label": label, "aria-valuetext": show(value),
      oninput: () => {
        output.textContent = show(input.valueAsNumber);
        input.setAttribute("aria-valuetext", show(input.valueAsNumber));
        change(input.valueAsNumber);
      },
    });
    return { input, element: play.el("label", { class: "play-field" }, label, input, output) };
  },

  choice(label, options, { value, change }) {
    const input = play.el(
      "select",
      { onchange: () => change(input.value) },
      Object.entries(options).map(([key, text]) =>
        play.el("option", { value: key, selected: key === String(value) }, text)),
    );
    return { input, element: play.el("label", { class: "play-field" }, label, input) };
  },

  toggle(label, { value, change }) {
    const input = play.el("input", {
      type: "checkbox", checked: value, onchange: () => change(input.checked),
    });
    return { input, element: play.el("label", { class: "play-field" }, input, label) };
  },

  /* Set a slider, a choice or a switch as a reader would; what it doesn't offer is ignored. */
  set(input, value) {
    if (input.type === "checkbox") input.checked = String(value) === "true";
    else if (!input.options || [...input.options].some((o) => o.value === String(value))) input.value = value;
    input.dispatchEvent(new Event(input.type === "range" ? "input" : "change"));
  },

  /* Text of a token for reading: spaces and line breaks are made visible. */
  token(text) {
    return text.replaceAll(" ", "␣").replaceAll("\n", "↵") || "∅";
  },
};

/* One picture of the page: its options, its data, its links to src/, and its state. */
class Picture {
  constructor(root) {
    this.root = root;
    this.options = JSON.parse(root.dataset.options);
    this.files = JSON.parse(root.dataset.files);
    this.lines = {}; // {part: {href, text}}
    for (const link of root.querySelectorAll(".play-line")) {
      const { part, line } = link.dataset;
      this.lines[part] = { href: link.href, text: `${link.textContent}, line ${line}` };
      link.remove();
    }
  }

  /* A link to the line of src/ that computes a part of the picture. */
  line(part, text = this.lines[part].text) {
    return play.el("a", { class: "play-source", href: this.lines[part].href }, text);
  }

  /* Load a published file: {about, tensors: {name: {shape, data}}, buffer}, the buffer being the
     file as it is; progress is called with the bytes so far and in all, where these are known. */
  async load(name, progress = () => {}) {
    const digest = this.files[name];
    if (!digest) throw new Error(`This picture has no data named ${name}.`);
    const file = `${name}.${digest}`;
    const root = document.documentElement.dataset.content_root;
    const url = `${root}_play/${file}`;
    let content;
    try {
      const bytes = location.protocol === "file:"
        ? await loadScript(`${url}.js`, file)
        : await loadBytes(`${url}.safetensors`, progress);
      content = parseTensors(bytes);
    } catch (error) {
      throw new Error(`The data file ${file} is missing or damaged (${error.message}).`);
    }
    if (content.digest !== digest) {
      throw new Error(`The data file ${file} is not the one that this page was built with.`);
    }
    return content;
  }

  /* The state in the page's address, "#NAME&key=value&key=value": an object, {} if the address is
     not about this picture. */
  get state() {
    const [name, ...pairs] = location.hash.slice(1).split("&");
    return name === this.root.id ? Object.fromEntries(new URLSearchParams(pairs.join("&"))) : {};
  }

  /* Write a state that can be cited into the address, without a new entry of the history. */
  set state(values) {
    history.replaceState(null, "", `#${this.root.id}&${new URLSearchParams(values)}`);
  }

  /* Call a function now, if the address has a state of this picture, and whenever it gets one. */
  onState(restore) {
    const follow = () => {
      if (location.hash.slice(1).split("&")[0] !== this.root.id) return;
      restore(this.state);
      this.root.scrollIntoView({ block: "nearest" });
    };
    window.addEventListener("hashchange", follow);
    follow();
  }
}

async function loadBytes(url, progress) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  const total = Number(response.headers.get("Content-Length"));
  const parts = [];
  let done = 0;
  for (const reader = response.body.getReader(); ;) {
    const { value, done: ended } = await reader.read();
    if (ended) break;
    parts.push(value);
    progress((done += value.length), total);
  }
  return new Blob(parts).arrayBuffer();
}

function loadScript(url, file) {
  return new Promise((resolve, reject) => {
    play.waiting[file] = resolve;
    const script = play.el("script", { src: url, onerror: () => reject(new Error("not found")) });
    script.addEventListener("load", () => reject(new Error("it holds something else")));
    document.head.append(script);
  });
}

const ARRAYS = {
  F32: Float32Array, I32: Int32Array, U32: Uint32Array, I16: Int16Array, U16: Uint16Array,
  I8: Int8Array, U8: Uint8Array, F16: Uint16Array, // float16 as it is stored, see play.halves
};

/* Take a safetensors file apart: a length (8 bytes), a JSON header of that length, the numbers. */
function parseTensors(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(header)) {
    const data = buffer.slice(8 + size + begin, 8 + size + end); // a copy, so that it is aligned
    if (data.byteLength !== end - begin) throw new Error("it is cut off");
    tensors[name] = { shape, data: new ARRAYS[dtype](data) };
  }
  return { about: JSON.parse(__metadata__.about), digest: __metadata__.digest, tensors, buffer };
}

document.addEventListener("DOMContentLoaded", play.startAll);

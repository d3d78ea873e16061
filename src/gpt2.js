// Tangled from book/play/live.md; sha256 efd1e22ff11e
/* GPT-2 in plain JavaScript: continue a prompt in a page, a worker or Node. See gpt2.py. */
"use strict";

const ARRAYS = { F16: Uint16Array, F32: Float32Array, U16: Uint16Array, U8: Uint8Array };
const HALVES = Float32Array.from({ length: 2 ** 16 }, (_, bits) => half(bits));

/* The facts in a safetensors file's header, and its tensors as {name: {shape, data}}. */
function read_tensors(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const text = new TextDecoder().decode(new Uint8Array(buffer, 8, size));
  const { __metadata__, ...header } = JSON.parse(text);
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    const [begin, end] = data_offsets.map((offset) => 8 + size + offset);
    const stored = new ARRAYS[dtype](buffer.slice(begin, end));
    const singles = () => new Float32Array(stored.length).map((_, i) => HALVES[stored[i]]);
    tensors[name] = { shape, data: dtype === "F16" ? singles() : stored };
  }
  return { about: JSON.parse(__metadata__.about), tensors };
}

/* The number that 16 bits stand for: a sign, 5 bits of exponent, 10 bits of fraction. */
function half(bits) {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  return sign * (exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14);
}

const END_OF_TEXT = "<|endoftext|>";
const SPACE = String.raw`\p{White_Space}`; // Python's \s, which is not quite JavaScript's
const WORD = new RegExp(String.raw`'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+`
  + String.raw`| ?[^${SPACE}\p{L}\p{N}]+|${SPACE}+(?![^${SPACE}])|${SPACE}+`, "gu");

/* Byte-level byte-pair encoding (Radford et al., 2019, section 2.2). */
class Tokenizer {
  constructor(bytes, lengths) {
    let end = 0;
    this.token_bytes = Array.from(lengths, (length) => bytes.subarray(end, (end += length)));
    this.id = new Map(this.token_bytes.map((b, id) => [String.fromCharCode(...b), id]));
    this.end_of_text = this.id.get(END_OF_TEXT);
  }

  /* Token ids of one word: neighbours that make a token are joined, lowest id first. */
  merge(word) {
    const parts = Array.from(new TextEncoder().encode(word), (byte) => String.fromCharCode(byte));
    const joined = (i) => (i + 1 in parts && this.id.get(parts[i] + parts[i + 1])) || Infinity;
    const ids = parts.map((_, i) => joined(i)); // of each part and the next one, joined
    for (;;) {
      const a = ids.reduce((best, id, i) => (id < ids[best] ? i : best), 0);
      if (ids[a] === Infinity)
        return parts.map((part) => this.id.get(part));
      parts.splice(a, 2, parts[a] + parts[a + 1]);
      ids.splice(a, 2, joined(a));
      if (a > 0)
        ids[a - 1] = joined(a - 1);
    }
  }

  /* Token ids of a text. */
  encode(text) {
    const ids = (part) => (part.match(WORD) ?? []).flatMap((word) => this.merge(word));
    const all = text.split(END_OF_TEXT).flatMap((part) => [...ids(part), this.end_of_text]);
    return all.slice(0, -1); // the last part has no end of text behind it
  }

  /* Yield the text of token ids, whole characters at a time; U+FFFD for invalid UTF-8. */
  *decode(ids) {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    for (const id of ids)
      yield decoder.decode(this.token_bytes[id], { stream: true });
    yield decoder.decode();
  }
}

/* The dot product of n numbers of a from i on and n of b from j on; n is a multiple of 4. */
function dot(a, i, b, j, n) {
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0; // four sums, none of which waits for another
  for (const end = i + n; i < end; i += 4, j += 4) {
    s0 += a[i] * b[j];
    s1 += a[i + 1] * b[j + 1];
    s2 += a[i + 2] * b[j + 2];
    s3 += a[i + 3] * b[j + 3];
  }
  return s0 + s1 + s2 + s3;
}

/* x (T, in) times a weight (out, in), plus a bias (out) if there is one: (T, out). */
function linear(x, { weight, bias }) {
  const [n_out, n_in] = weight.shape;
  const T = x.length / n_in;
  const y = new Float32Array(T * n_out);
  for (let j = 0; j < n_out; j++)
    for (let t = 0; t < T; t++)
      y[t * n_out + j] = dot(x, t * n_in, weight.data, j * n_in, n_in) + (bias?.data[j] ?? 0);
  return y;
}

/* Each row of x (T, C) brought to mean 0 and variance 1, then scaled and shifted. */
function layer_norm(x, { weight, bias }, eps) {
  const C = weight.data.length;
  const y = new Float32Array(x.length);
  for (let t = 0; t < x.length; t += C) {
    const row = x.subarray(t, t + C);
    const mean = row.reduce((sum, value) => sum + value, 0) / C;
    const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / C;
    for (let i = 0; i < C; i++)
      y[t + i] = ((row[i] - mean) / Math.sqrt(variance + eps)) * weight.data[i] + bias.data[i];
  }
  return y;
}

/* The activation function of the MLP, in the form with tanh. */
function gelu(x) {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

/* Scores as probabilities. */
function softmax(scores) {
  const top = scores.reduce((a, b) => Math.max(a, b));
  const powers = scores.map((score) => Math.exp(score - top));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

/* Causal multi-head self-attention (Vaswani et al., 2017, section 3.2) of x (T, C). */
function attention(x, n_head, { c_attn, c_proj }, cache, start, is_off) {
  const C = c_proj.weight.shape[0];
  const [T, d] = [x.length / C, C / n_head];
  const qkv = linear(x, c_attn); // (T, 3C)
  const y = new Float32Array(T * C); // it stays 0 where a head is left out
  for (let t = 0; t < T; t++) {
    const [q, k, v] = [0, 1, 2].map((i) => qkv.subarray((3 * t + i) * C, (3 * t + i + 1) * C));
    cache.k.set(k, (start + t) * C); // (n_positions, C), the heads of a position side by side
    cache.v.set(v, (start + t) * C);
    for (let h = 0; h < n_head; h++) {
      const scores = new Float32Array(start + t + 1); // (S): no key comes after the query
      for (let s = 0; s < scores.length; s++)
        scores[s] = dot(q, h * d, cache.k, s * C + h * d, d) / Math.sqrt(d);
      const part = (cache.pattern[h][start + t] = softmax(scores)); // attention weights (S)
      const S = is_off(`attn.${h}`) ? 0 : part.length;
      for (let s = 0; s < S; s++)
        for (let i = h * d; i < (h + 1) * d; i++)
          y[t * C + i] += part[s] * cache.v[s * C + i];
    }
  }
  return linear(y, c_proj); // (T, C)
}

/* Attention, then a two-layer MLP; each reads x (T, C) normalized and adds to it. */
function block(x, { ln_1, attn, ln_2, mlp }, config, cache, start, is_off) {
  const { n_head, layer_norm_epsilon: eps } = config;
  const a = attention(layer_norm(x, ln_1, eps), n_head, attn, cache, start, is_off);
  x = x.map((value, i) => value + a[i]);
  if (is_off("mlp"))
    return x;
  const h = linear(layer_norm(x, ln_2, eps), mlp.c_fc).map(gelu); // (T, 4C)
  const b = linear(h, mlp.c_proj); // (T, C)
  return x.map((value, i) => value + b[i]);
}

/* The transformer of Radford et al. (2019); its parameters bear the checkpoint's names. */
class GPT2 {
  constructor(tensors, config) {
    this.config = config;
    for (const [name, tensor] of Object.entries(tensors)) {
      const path = name.split(".");
      path.slice(0, -1).reduce((part, key) => (part[key] ??= {}), this)[path.at(-1)] = tensor;
    }
  }

  /* What is kept of a text, by a model without the parts that are named in off. */
  cache(off = new Set()) {
    const { n_positions, n_embd, n_head, n_layer } = this.config;
    const room = () => new Float32Array(n_positions * n_embd);
    const one = () => ({ k: room(), v: room(), pattern: Array.from({ length: n_head }, () => []) });
    return { off, ids: [], h: Array.from({ length: n_layer }, one) };
  }

  /* Final states (T, C) of ids (T); their first position is start. */
  forward(ids, cache, start) {
    const C = this.config.n_embd;
    let x = new Float32Array(ids.length * C);
    for (let i = 0; i < x.length; i++) {
      const row = this.wte.index.data[ids[Math.floor(i / C)]];
      x[i] = this.wte.weight.data[row * C + (i % C)] + this.wpe.weight.data[start * C + i];
    }
    for (let i = 0; i < this.config.n_layer; i++) {
      const is_off = (part) => cache.off.has(`h.${i}.${part}`);
      if (!is_off("*"))
        x = block(x, this.h[i], this.config, cache.h[i], start, is_off);
    }
    return layer_norm(x, this.ln_f, this.config.layer_norm_epsilon);
  }

  /* The scores (V) of all tokens after ids; what the cache has of ids is not computed again. */
  logits(ids, cache) {
    const differs = ids.findIndex((id, i) => id !== cache.ids[i]);
    const start = differs < 0 ? ids.length - 1 : differs;
    const states = this.forward(ids.slice(start), cache, start); // (T, C)
    const scores = linear(states.slice(-this.config.n_embd), this.wte); // of the distinct rows
    cache.ids = [...ids];
    const row = this.wte.index.data; // (V): which of them is a token's
    return new Float32Array(row.length).map((_, id) => scores[row[id]]);
  }
}

/* The GPT2 and the Tokenizer in a file. */
function load(buffer) {
  const { about, tensors: { token_bytes, token_lengths, ...parameters } } = read_tensors(buffer);
  return [new GPT2(parameters, about), new Tokenizer(token_bytes.data, token_lengths.data)];
}

/* The top_k likeliest tokens, best first, and in what proportions they are to be drawn. */
function choices(logits, { temperature, top_k, top_p }) {
  const least = logits.slice(0, 2000 + top_k).sort().at(-top_k);
  const ids = [];
  for (let id = 0; id < logits.length; id++)
    if (logits[id] >= least)
      ids.push(id);
  const best = ids.sort((a, b) => logits[b] - logits[a]).slice(0, top_k);
  const p = softmax(best.map((id) => logits[id] / Math.max(temperature, 1e-9)));
  let sum = 0; // of the likelier ones: where it has reached top_p, no more are needed
  return { best, p: p.map((share) => ((sum += share) - share < top_p ? share : 0)) };
}

/* A function that gives numbers from 0 up to 1, the same ones for the same seed (mulberry32). */
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let z = Math.imul(seed ^ (seed >>> 15), seed | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

/* Yield up to tokens next ids of a text that begins with ids, and what each was drawn from. */
function* generate(model, ids, tokens, options, random, cache = model.cache()) {
  const text = [...ids];
  for (let n = 0; n < tokens && text.length < model.config.n_positions; n++) {
    const logits = model.logits(text, cache); // (V)
    const { best, p } = choices(logits, options);
    const u = random() * p.reduce((a, b) => a + b);
    let sum = 0;
    const id = best[p.findIndex((share) => (sum += share) > u)];
    text.push(id);
    yield { id, logits, best, p };
  }
}

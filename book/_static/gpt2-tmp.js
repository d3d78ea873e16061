"use strict";
class TmpGpt2 {
  constructor(bytes, lengths) {
    this.tokens = []; let end = 0;
    const s = Array.from(bytes, (b) => String.fromCharCode(b)).join("");
    for (const n of lengths) this.tokens.push(s.slice(end, (end += n)));
    this.id = new Map(this.tokens.map((t, i) => [t, i]));
  }
  words(text) {
    return text.split(/(<\|endoftext\|>)/).flatMap((p) => p === "<|endoftext|>" ? [p] : p.match(/'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu) ?? []);
  }
  merge(word) {
    const w = Array.from(new TextEncoder().encode(word), (b) => String.fromCharCode(b));
    for (;;) {
      let best = Infinity, at = -1;
      for (let i = 0; i + 1 < w.length; i++) { const id = this.id.get(w[i] + w[i + 1]); if (id < best) { best = id; at = i; } }
      if (at < 0) return w.map((x) => this.id.get(x));
      w.splice(at, 2, w[at] + w[at + 1]);
    }
  }
  encode(text) { return this.words(text).flatMap((w) => w === "<|endoftext|>" ? [50256] : this.merge(w)); }
}

/* Gemma 3's tokenizer, as src/gemma3_tokenizer.py has it and under the same names: the chapter on
   it explains each step. Here the pieces come as one text with lengths, since the page is sent
   what Python has read from the file already. */

"use strict";

const GEMMA_WORD = /▁{2,31}|(?: |▁(?!▁))*(?:>[ ▁]<\/|[^ ▁])*/gu;
const GEMMA_PART = /<\/?\w+>|\[multimodal\]|\n{1,31}|\t{1,31}| {2,31}|./gsu;

class GemmaTokenizer {
  /* The pieces in the order of their ids, put together, and the length of each as JavaScript
     counts; the ids that no text spells; and the id of each of the 256 bytes. */
  constructor(text, lengths, special, byteId) {
    this.pieces = [];
    for (let i = 0, end = 0; i < lengths.length; i++) {
      this.pieces.push(text.slice(end, (end += lengths[i])));
    }
    this.id = new Map(this.pieces.map((piece, i) => [piece, i]));
    for (const i of special) this.id.delete(this.pieces[i]);
    this.byteId = byteId;
    this.byte = new Map([...byteId].map((id, byte) => [id, byte]));
    this.wordIds = new Map(); // most words come again
  }

  /* The words of a text, and the parts of a word that joins begin with. */
  words(text) {
    return text.match(GEMMA_WORD).filter((word) => word).map((word) => word.replaceAll("▁", " "));
  }

  parts(word) {
    return word.match(GEMMA_PART).flatMap((part) => (this.id.has(part) ? [part] : [...part]));
  }

  /* Token ids of one word. A part that is no piece is a character, and is spelled in bytes. */
  merge(word) {
    return joinNeighbours(this.parts(word), this.id).flatMap((part) =>
      this.id.get(part) ?? Array.from(new TextEncoder().encode(part), (b) => this.byteId[b]));
  }

  encode(text) {
    const ids = [];
    for (const word of this.words(text)) {
      if (!this.wordIds.has(word)) this.wordIds.set(word, this.merge(word));
      for (const id of this.wordIds.get(word)) ids.push(id);
    }
    return ids;
  }

  /* The bytes of a token. */
  tokenBytes(id) {
    return this.byte.has(id)
      ? Uint8Array.of(this.byte.get(id))
      : new TextEncoder().encode(this.pieces[id]);
  }
}

/* Byte-pair encoding: neighbours that make a token are joined, lowest id first, until none do. */
function joinNeighbours(parts, ids) {
  const word = parts.join("");
  const n = word.length;
  const end = new Int32Array(n + 1).fill(-1); // of the part that begins at i
  const begin = new Int32Array(n + 1).fill(-1); // of the part that ends at j
  const pairs = new Heap();
  const add = (i, j, k) => {
    const id = ids.get(word.slice(i, k));
    if (id !== undefined) pairs.push([id * 2 ** 26 + i, i, j, k]); // by id, then from the left
  };
  let place = 0;
  for (const part of parts) {
    const next = place + part.length;
    end[place] = next;
    begin[next] = place;
    if (place > 0) add(begin[place], place, next);
    place = next;
  }
  while (pairs.size > 0) {
    const [, a, b, c] = pairs.pop();
    if (end[a] !== b || end[b] !== c) continue; // one of the two was joined to another
    end[a] = c;
    begin[c] = a;
    end[b] = -1;
    if (a > 0) add(begin[a], a, c);
    if (c < n) add(a, c, end[c]);
  }
  const joined = [];
  for (let i = 0; i < n; i = end[i]) joined.push(word.slice(i, end[i]));
  return joined;
}

/* A heap: arrays, of which pop gives the one whose first number is lowest. */
class Heap {
  items = [];

  get size() {
    return this.items.length;
  }

  push(item) {
    const { items } = this;
    let i = items.length;
    for (let up; i && items[(up = (i - 1) >> 1)][0] > item[0]; i = up) items[i] = items[up];
    items[i] = item;
  }

  pop() {
    const { items } = this;
    const [first, last] = [items[0], items.pop()];
    if (items.length) {
      let i = 0;
      for (let down; (down = 2 * i + 1) < items.length; i = down) {
        if (down + 1 < items.length && items[down + 1][0] < items[down][0]) down++;
        if (items[down][0] >= last[0]) break;
        items[i] = items[down];
      }
      items[i] = last;
    }
    return first;
  }
}

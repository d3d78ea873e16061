# Tangled from book/gemma3/tokenizer.md; sha256 99ddc1599154
"""Gemma 3's tokenizer: byte-pair encoding of characters, read from a SentencePiece model."""

import codecs
import functools
import heapq
import itertools
import re


def varint(message, i):
    """The number that begins at place i of a protobuf message, and the place behind it."""
    if message[i] < 128:
        return message[i], i + 1
    rest, end = varint(message, i + 1)  # seven bits a byte; the eighth says that more follow
    return message[i] - 128 + 128 * rest, end


def fields(message):
    """Yield the number and the value, an int or bytes, of each field of a protobuf message."""
    i = 0
    while i != len(message):
        key, i = varint(message, i)
        if key & 7 == 0:  # a number
            value, i = varint(message, i)
        else:  # bytes, as many as a number says, or 8, or 4
            size, i = varint(message, i) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], i)
            value, i = message[i : i + size], i + size
        yield key >> 3, value


MARKS = {"<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"}
LEARNED, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
WORD = re.compile("▁{2,31}|(?: |▁(?!▁))*(?:>[ ▁]</|[^ ▁])*")
PART = re.compile(r"</?\w+>|\[multimodal\]|\n{1,31}|\t{1,31}| {2,31}|.", re.DOTALL)


class Tokenizer:
    """Byte-pair encoding of characters, from the bytes of a SentencePiece tokenizer.model."""
    def __init__(self, model):
        self.token_bytes, self.id, self.special = [], {}, {}
        try:
            for piece in (dict(fields(value)) for number, value in fields(model) if number == 1):
                text, kind = str(piece[1], "utf-8").replace("▁", " "), piece.get(3, LEARNED)
                plain = kind in (LEARNED, USER_DEFINED) and text not in MARKS
                (self.id if plain else self.special)[text] = len(self.token_bytes)
                self.token_bytes.append(bytes.fromhex(text[3:5]) if kind == BYTE else text.encode())
            self.byte_id = [self.special[f"<0x{byte:02X}>"] for byte in range(256)]
        except (LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError("tokenizer.model is cut off or damaged") from error
        self.word_ids = functools.lru_cache(2**16)(self.merge)  # most words come again

    def merge(self, word):
        """Token ids of one word: neighbours that make a piece are joined, lowest id first."""
        parts = [p for part in PART.findall(word) for p in ([part] if part in self.id else part)]
        get, never = self.id.get, len(self.token_bytes)
        cuts = [0, *itertools.accumulate(map(len, parts))]  # where parts begin and end
        end, begin = dict(zip(cuts, cuts[1:])), dict(zip(cuts[1:], cuts))
        heap = sorted((get(word[i:k], never), i, j, k) for i, j, k in zip(cuts, cuts[1:], cuts[2:]))
        while heap and heap[0][0] < never:
            _, a, b, c = heapq.heappop(heap)
            if end.get(a) == b and end.get(b) == c:  # both parts still stand
                end[a], begin[c] = c, a
                del end[b]
                for i, j, k in ((begin.get(a, 0), a, c), (a, c, end.get(c, 0))):
                    heapq.heappush(heap, (get(word[i:k], never), i, j, k))
        ids = []
        for part in (word[i:j] for i, j in end.items()):
            ids += [self.id[part]] if part in self.id else [self.byte_id[b] for b in part.encode()]
        return ids

    def encode(self, text):
        """Token ids of a text, which cannot spell the special pieces."""
        return [i for word in WORD.findall(text) for i in self.word_ids(word.replace("▁", " "))]

    def decode(self, ids):
        """Yield the text of token ids, whole characters at a time; U+FFFD for invalid UTF-8."""
        return codecs.iterdecode((self.token_bytes[i] for i in ids), "utf-8", "replace")

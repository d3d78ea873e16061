"""src/gemma3_tokenizer.py against the original's ids, and against damaged files."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import load_prepare
from streams import assert_held_back
from strings import GEMMA_PIECES

import gemma3
import gemma3_tokenizer
from gemma3_tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
CASES = json.loads((ROOT / "tests/fixtures/gemma3_tokens.json").read_bytes())["cases"]
SPECIAL = {
    "<pad>": 0,
    "<eos>": 1,
    "<bos>": 2,
    "<unk>": 3,
    "<start_of_turn>": 105,
    "<end_of_turn>": 106,
    "<start_of_image>": 255_999,
    "<end_of_image>": 256_000,
}
LONG = 20_000


@pytest.fixture(scope="module")
def prepare():
    """The module that writes tokenizer.model."""
    return load_prepare()


@pytest.fixture(scope="module")
def real(gemma):
    """The bytes of the real vocabulary."""
    return (gemma / "tokenizer.model").read_bytes()


@pytest.fixture(scope="module")
def tokenizer(real):
    return Tokenizer(real)


def test_the_model_uses_this_tokenizer():
    assert gemma3.Tokenizer is Tokenizer


@pytest.fixture(scope="module")
def tiny(tiny_gemma3):
    """The bytes of a vocabulary of some 400 pieces."""
    return (tiny_gemma3 / "tokenizer.model").read_bytes()


def toy(prepare, learned: str) -> Tokenizer:
    """A vocabulary of bytes and learned pieces, in this order."""
    pieces = [(f"<0x{byte:02X}>", 0.0, prepare.BYTE) for byte in range(256)]
    pieces += [(text, -float(i), prepare.NORMAL) for i, text in enumerate(learned.split())]
    return Tokenizer(prepare.sentencepiece_model(pieces))


# ------------------------------------------------------------------------------------------- ids


def test_texts_get_the_originals_ids(tokenizer):
    wrong = [ascii(case["text"]) for case in CASES if tokenizer.encode(case["text"]) != case["ids"]]
    assert len(CASES) > 3000 and wrong == []


def test_the_cases_have_what_is_hard():
    texts = [case["text"] for case in CASES]
    assert {*GEMMA_PIECES} <= {*texts}
    for part in ("▁", "▁▁", " ▁", "▁ ", "> </", ">▁</", " " * 33, "▁" * 33, "\n" * 33, "\t" * 33):
        assert sum(part in text for text in texts) > 5, part


def test_ids_decode_to_the_text_with_spaces_for_their_marks(tokenizer):
    for case in CASES:
        assert "".join(tokenizer.decode(case["ids"])) == case["text"].replace("▁", " ")


def test_every_piece_that_text_can_spell_is_encoded_as_itself(tokenizer):
    """Here of one in seven."""
    for text, i in list(tokenizer.id.items())[::7]:
        assert tokenizer.encode(text) == [i], ascii(text)


def test_the_patterns_fit_the_vocabulary(tokenizer, real):
    """PART finds what was set by hand, and nothing learned; no join leads over the end of a word.

    A learned piece holds no part that was set by hand, or joins could swallow it.
    """
    file = gemma3_tokenizer.fields(real)
    pieces = [dict(gemma3_tokenizer.fields(value)) for number, value in file if number == 1]
    by_kind = {kind: [] for kind in range(1, 7)}
    for piece in pieces:
        by_kind[piece.get(3, 1)].append(piece[1].decode().replace("▁", " "))
    set_by_hand = {*by_kind[gemma3_tokenizer.USER_DEFINED]}
    learned = by_kind[gemma3_tokenizer.LEARNED]
    assert all(gemma3_tokenizer.PART.fullmatch(text) for text in set_by_hand)
    marks = gemma3_tokenizer.MARKS
    assert set_by_hand > marks and {*learned} | set_by_hand - marks == {*tokenizer.id}
    for text in learned:
        assert len(text) == 1 or gemma3_tokenizer.PART.findall(text) == [*text], ascii(text)
        assert not set_by_hand & {*gemma3_tokenizer.PART.findall(text)}, ascii(text)
        assert gemma3_tokenizer.WORD.findall(text) == [text, ""], ascii(text)


@pytest.mark.parametrize(
    ("learned", "text", "tokens"),
    [
        ("bc ab", "abc", "a bc"),
        ("ab bc", "abc", "ab c"),
        ("ab bc abc", "abcabc", "abc abc"),
        ("bc abc ab", "abcab", "abc ab"),
        ("ca ab bc abca", "abcabc", "abca bc"),
        ("aa", "aaa", "aa a"),
        ("aa aaaa", "aaaaaaa", "aaaa aa a"),
        ("aa aaa", "aaaaa", "aa aaa"),
        ("", "abc", "a b c"),
    ],
)
def test_the_pair_learned_first_is_joined_first_and_from_the_left(prepare, learned, text, tokens):
    tokenizer = toy(prepare, f"{learned} a b c")
    assert [tokenizer.token_bytes[i].decode() for i in tokenizer.encode(text)] == tokens.split()


def test_a_character_without_a_piece_becomes_its_bytes(prepare):
    tokenizer = toy(prepare, "a")
    ids = tokenizer.encode("aéb🦔")
    assert [tokenizer.token_bytes[i] for i in ids] == [bytes([b]) for b in "aéb🦔".encode()]
    assert ids[0] == 256 and ids[1:] == [*"éb🦔".encode()]


# --------------------------------------------------------------------------------------- special


def test_no_text_spells_a_special_piece(tokenizer):
    names = {name: i for name, i in tokenizer.special.items() if not name.startswith("<0x")}
    assert names == SPECIAL and len(tokenizer.special) == len(SPECIAL) + 256
    for name, i in tokenizer.special.items():
        for text in (name, f"a{name}b", f" {name}\n", f"<{name}>", name + name):
            ids = tokenizer.encode(text)
            assert i not in ids and "".join(tokenizer.decode(ids)) == text


def test_a_turn_is_composed_of_ids(tokenizer):
    """The ids that `transformers` gives for the template."""
    special, encode = tokenizer.special, tokenizer.encode
    ids = [special["<bos>"], special["<start_of_turn>"], *encode("user\nHi<end_of_turn>")]
    ids += [special["<end_of_turn>"], *encode("\n"), special["<start_of_turn>"]]
    ids += encode("model\n")
    assert ids.count(106) == 1 and ids[:5] == [2, 105, 2364, 107, 10979]
    assert ids[-5:] == [106, 107, 105, 4368, 107]


# ------------------------------------------------------------------------------------- long words


class Counting(dict):
    """A vocabulary that counts how often a pair is looked up."""

    n = 0

    def get(self, *arguments):
        self.n += 1
        return super().get(*arguments)


@pytest.mark.parametrize(
    "text", [*"a \n\t😀🦔\0<▁-中", "> </", "<a", "▁ ", "<unused", "random"], ids=ascii
)
def test_the_look_ups_grow_with_the_length(tokenizer, monkeypatch, text):
    """A word of n characters takes at most n - 1 of them at the start and two for each join."""
    if text == "random":
        text = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=LONG))
    text = text * (LONG // len(text))
    counting = Counting(tokenizer.id)
    monkeypatch.setattr(tokenizer, "id", counting)
    ids = tokenizer.encode(text)
    assert counting.n <= 3 * len(text)
    assert "".join(tokenizer.decode(ids)) == text.replace("▁", " ")


def test_a_long_words_ids_are_those_of_a_plain_search(tokenizer):
    """Look at all pairs after each join: slow, and hard to get wrong."""
    word = "".join(random.Random(1).choices("aehnot", k=400))
    parts = [*word]
    while known := {tokenizer.id[a + b] for a, b in pairwise(parts) if a + b in tokenizer.id}:
        i = [tokenizer.id.get(a + b) for a, b in pairwise(parts)].index(min(known))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    assert tokenizer.encode(word) == [tokenizer.id[part] for part in parts]


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**14 - 1, 2**14, 2**32, 2**64 - 1])
def test_numbers_of_any_length_are_read(prepare, number):
    data = prepare.varint(number)
    assert gemma3_tokenizer.varint(b"." + data + b".", 1) == (number, 1 + len(data))
    assert list(gemma3_tokenizer.fields(b"\x08" + data)) == [(1, number)]


def test_fields_of_every_storage_are_read():
    message = b"\x08\x05" + b"\x11" + bytes(range(8)) + b"\x1a\x03abc" + b"\x25wxyz"
    message += b"\xaa\x02\x00"  # field 37
    expected = [(1, 5), (2, bytes(range(8))), (3, b"abc"), (4, b"wxyz"), (37, b"")]
    assert list(gemma3_tokenizer.fields(message)) == expected


def assert_refused(model: bytes) -> None:
    with pytest.raises(ValueError, match=r"^tokenizer\.model is cut off or damaged$"):
        Tokenizer(model)


def test_a_cut_file_is_refused_or_ends_with_a_whole_field(tiny):
    """Cut between two fields it is a smaller vocabulary: a loader compares it with the weights."""
    ends, i = [], 0
    for _, value in gemma3_tokenizer.fields(tiny):
        i += 1 + len(value) + (1 if len(value) < 128 else 2)
        ends.append(i)
    assert ends[-1] == len(tiny)
    known = Tokenizer(tiny).token_bytes
    n_pieces, last_byte = len(known), known.index(b"\xff")
    for size in range(len(tiny)):
        if size not in ends or ends.index(size) < last_byte:  # or the bytes are not all there
            assert_refused(tiny[:size])
        else:
            n = len(Tokenizer(tiny[:size]).token_bytes)
            assert n == min(ends.index(size) + 1, n_pieces)


@pytest.mark.parametrize(
    "model",
    [
        b"",
        b"\xff",
        b"\xff" * 100_000,  # a number without an end
        b"\x0a\xff\xff\xff\xff\x0f",  # four thousand million bytes that are not there
        b"\x0b",  # a group: nothing that protobuf still writes
        b"\x08\x01",  # a piece that is a number
        b"\x0a\x00",  # a piece without a text
        b"\x0a\x02\x08\x41",  # a text that is a number
        b"\x0a\x03\x0a\x01\xff",  # a text that is not UTF-8
        b"<!DOCTYPE html><html></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4689074\n",
    ],
    ids=ascii,
)
def test_what_is_no_vocabulary_is_refused(model):
    assert_refused(model)


def test_a_damaged_file_is_refused_or_read_but_never_breaks(tiny):
    rng = random.Random(0)
    refused = 0
    for _ in range(1000):
        data = bytearray(tiny)
        data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            Tokenizer(bytes(data))
        except ValueError as error:
            assert str(error) == "tokenizer.model is cut off or damaged"
            refused += 1
    assert refused > 300


# ----------------------------------------------------------------------------------------- decode


def test_a_character_is_held_back_until_it_is_whole(tiny):
    tokenizer = Tokenizer(tiny)
    text = "a €é the 👩🏽‍💻中"
    ids = tokenizer.encode(text)
    assert len(ids) > len(text)
    assert_held_back(tokenizer, text)


def test_invalid_utf8_decodes_to_replacement_characters(tiny):
    tokenizer = Tokenizer(tiny)
    data = b"a\xe4\xb8b\xffc\xf0\x9f"
    first = tokenizer.token_bytes.index(b"\0")
    assert tokenizer.token_bytes[first : first + 256] == [bytes([byte]) for byte in range(256)]
    assert "".join(tokenizer.decode(first + byte for byte in data)) == data.decode(errors="replace")

"""gemma3.read_safetensors: which files it takes, and what it reads, against the library.

The library's `deserialize` knows the format only; NumPy then has to have such an array, as in
`safetensors.numpy.load`, which we can't use since it knows no BF16. (A shape such as [0, 2**63]
is one that the format can describe and NumPy can't hold.)
"""

from __future__ import annotations

import copy
import json
import math
import random
import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

import gemma3

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}


def file_of(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(start: int, stop: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def theirs(data: bytes) -> dict[str, np.ndarray] | None:
    """The library's arrays, or None if there are none in NumPy, or of types that we don't know."""
    try:
        return {
            name: np.frombuffer(tensor["data"], gemma3.DTYPES[tensor["dtype"]]).reshape(
                tensor["shape"]
            )
            for name, tensor in safetensors.deserialize(data)
        }
    except (safetensors.SafetensorError, ValueError, KeyError):
        return None


def ours(path: Path) -> dict[str, np.ndarray] | str:
    """Our arrays, or the message. Nothing is read before all is known to be right."""
    found = {}
    try:
        for name, array in gemma3.read_safetensors(path):
            found[name] = array
    except ValueError as error:
        assert not found
        return str(error)
    return found


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()  # NaNs too
        assert found[name].ctypes.data % 64 == 0


@contextmanager
def memory_is_limited(data: bytes) -> Iterator[None]:
    """To the bytes of the file, and what its header takes as text and as Python objects."""
    size = int.from_bytes(data[:8], "little")
    header = size if size <= min(len(data), 100_000_000) else 0
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(data) + 150 * header + 20_000


# --------------------------------------------------------------------------------- valid files


@pytest.mark.parametrize("seed", range(20))
def test_files_of_the_library_are_read(tmp_path, seed):
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for i in range(rng.randint(1, 12)):
        shape = [rng.choice([0, 1, 2, 3, 5, 17]) for _ in range(rng.randint(0, 4))]
        dtype = rng.choice([torch.float32, torch.float16, torch.bfloat16])
        tensors[f"{rng.choice('abç')}.{i}"] = torch.randn(shape, generator=generator).to(dtype)
    metadata = rng.choice([None, {"format": "pt"}])
    path = tmp_path / "t.safetensors"
    safetensors.torch.save_file(tensors, path, metadata)
    found = dict(gemma3.read_safetensors(path))
    assert_same(found, theirs(path.read_bytes()))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), tensor.float().numpy())


@pytest.mark.parametrize("padding", range(4))
def test_tensors_at_odd_places_are_read(tmp_path, padding):
    """An odd header, and float32 after three halves: nothing promises a multiple of 4."""
    values = np.random.default_rng(0).normal(size=11)
    header = {"a": entry(0, 6, [3], "F16"), "b": entry(6, 6, [0, 4]), "c": entry(6, 38, [2, 4])}
    text = json.dumps(header).encode() + b" " * padding
    body = values[:3].astype("<f2").tobytes() + values[3:].astype("<f4").tobytes()
    (tmp_path / "t.safetensors").write_bytes(file_of(text, body))
    found = dict(gemma3.read_safetensors(tmp_path / "t.safetensors"))
    assert_same(found, theirs(file_of(text, body)))
    np.testing.assert_array_equal(found["c"], values[3:].astype(np.float32).reshape(2, 4))


def test_jax_takes_the_arrays_without_a_copy(tmp_path):
    path = tmp_path / "t.safetensors"
    shapes = {"a": (3,), "b": (257, 129), "c": ()}
    tensors = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    safetensors.torch.save_file(tensors, path)
    for _, array in gemma3.read_safetensors(path):
        assert jax.device_put(array).unsafe_buffer_pointer() == array.ctypes.data


# --------------------------------------------------------------------------------- files that lie

ONE = json.dumps({"a": entry(0, 4, [1])}).encode()
LIES = {
    "empty file": b"",
    "no header": b"\x10\0\0\0",
    "header longer than the file": struct.pack("<Q", 1000) + ONE + bytes(4),
    "header of 2**63 bytes": struct.pack("<Q", 1 << 63) + ONE + bytes(4),
    "header that is not JSON": file_of(b"{'a'}"),
    "header that is not UTF-8": file_of(b'{"\xff": 1}'),
    "header that begins with a byte order mark": file_of(b"\xef\xbb\xbf" + ONE, bytes(4)),
    "header that is a list": file_of([]),
    "header that is null": file_of(None),
    "entry that is a number": file_of({"a": 1}),
    "entry without a shape": file_of({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
    "entry without offsets": file_of({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "a field twice": file_of(b'{"a": {"shape": [1], ' + ONE[7:], bytes(4)),
    "three offsets": file_of({"a": entry(0, 4, [1]) | {"data_offsets": [0, 2, 4]}}, bytes(4)),
    "offsets that are words": file_of({"a": entry("0", "4", [1])}, bytes(4)),
    "offsets beyond the end": file_of({"a": entry(0, 8, [2])}, bytes(4)),
    "no data at all": file_of({"a": entry(0, 8, [2])}),
    "negative offset": file_of({"a": entry(-4, 0, [1])}, bytes(4)),
    "stop before start": file_of({"a": entry(0, 4, [1]), "b": entry(4, 0, [1])}, bytes(8)),
    "overlap": file_of({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
    "the same place twice": file_of({"a": entry(0, 8, [2]), "b": entry(0, 8, [2])}, bytes(8)),
    "overlap in a file of the right size": file_of(
        {"a": entry(0, 4, [1]), "b": entry(2, 6, [1])}, bytes(8)
    ),
    "ends too early in a file of the right size": file_of({"a": entry(0, 2, [1])}, bytes(4)),
    "hole": file_of({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)),
    "hole at the start": file_of({"a": entry(4, 8, [1])}, bytes(8)),
    "bytes behind the last tensor": file_of(ONE, bytes(12)),
    "unknown type": file_of({"a": entry(0, 4, [1], "F13")}, bytes(4)),
    "type that is a number": file_of({"a": entry(0, 4, [1]) | {"dtype": 32}}, bytes(4)),
    "too large for its shape": file_of({"a": entry(0, 12, [2])}, bytes(12)),
    "too small for its shape": file_of({"a": entry(0, 4, [2])}, bytes(4)),
    "half a number": file_of({"a": entry(0, 6, [1])}, bytes(6)),
    "a number for a shape": file_of({"a": entry(0, 4, [1]) | {"shape": "1"}}, bytes(4)),
    "true for a shape": file_of({"a": entry(0, 4, [True])}, bytes(4)),
    "a fraction for a shape": file_of({"a": entry(0, 4, [1.0])}, bytes(4)),
    "null for a shape": file_of({"a": entry(0, 4, [1]) | {"shape": None}}, bytes(4)),
    "-1 for a shape": file_of({"a": entry(0, 4, [-1])}, bytes(4)),
    "-0 for an offset": file_of(ONE.replace(b"[0", b"[-0"), bytes(4)),
    "a shape beyond 64 bits": file_of({"a": entry(0, 0, [0, 1 << 64])}),
    "metadata that are numbers": file_of({"__metadata__": {"a": 1}}),
    "metadata twice": file_of(b'{"__metadata__": {}, "__metadata__": {}}'),
    "half a character": file_of(b'{"__metadata__": {"a": "\\ud83d"}}'),
    "NaN": file_of(b'{"a": {"x": NaN, ' + ONE[7:], bytes(4)),
    "an infinite number": file_of(b'{"a": {"x": 1e999, ' + ONE[7:], bytes(4)),
    "an integer beyond any float": file_of(b'{"a": {"x": 1%s, ' % (400 * b"0") + ONE[7:], bytes(4)),
    "a terabyte": file_of({"a": entry(0, 4 * 10**12, [10**12])}, bytes(4)),
    "header of more than 100 MB": file_of(b"{}" + 99_999_999 * b" "),
    "nested 128 deep": file_of(b'{"a": {"x": %s, ' % (126 * b"[" + 126 * b"]") + ONE[7:], bytes(4)),
    "nested a million deep": file_of(b'{"a": ' + 1_000_000 * b"["),
}
ODD_BUT_VALID = {
    "no tensors": file_of(b"{}"),
    "white space": file_of(b"\n\t { } \r\n"),
    "null for metadata": file_of({"__metadata__": None}),
    "a name twice": file_of(
        b'{"a": %s, %s' % (json.dumps(entry(4, 8, [1])).encode(), ONE[1:]), bytes(4)
    ),
    "a field that nobody knows": file_of(
        {"a": entry(0, 4, [1]) | {"x": [-1.5, {"y": 2}]}}, bytes(4)
    ),
    "nested 127 deep": file_of(b'{"a": {"x": %s, ' % (125 * b"[" + 125 * b"]") + ONE[7:], bytes(4)),
    "brackets in strings": file_of({"__metadata__": {"a": '"\\' + 200 * "["}}),
    "brackets behind a backslash": file_of({"__metadata__": {"a": "\\", "b": 200 * "["}}),
    "a name in escapes": file_of(b'{"\\ud83d\\ude00": ' + ONE[6:], bytes(4)),
}


@pytest.mark.parametrize("lie", LIES)
def test_files_that_lie_are_refused(tmp_path, lie):
    path = tmp_path / "t.safetensors"
    path.write_bytes(LIES[lie])
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(LIES[lie])  # they do lie
    with memory_is_limited(LIES[lie]):
        message = ours(path)
    assert isinstance(message, str) and re.fullmatch(r"[^\n]{10,400}", message)
    if "header" in lie or "deep" in lie or "N" in lie:
        assert str(path) in message  # what else would say where to look


@pytest.mark.parametrize("kind", ODD_BUT_VALID)
def test_odd_files_that_are_valid_are_read(tmp_path, kind):
    path = tmp_path / "t.safetensors"
    path.write_bytes(ODD_BUT_VALID[kind])
    assert_same(ours(path), theirs(ODD_BUT_VALID[kind]))


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": ["F32", [1], [0, 4]]}',
        b'{"a": {"dtype": {"F32": null}, "shape": [1], "data_offsets": [0, 4]}}',
    ],
)
def test_what_the_library_takes_beyond_its_own_description_is_refused(tmp_path, text):
    """The known cases: a list of the three fields, and an object for the type.

    (The other way round, it refuses numbers within a rounding of the largest float in fields that
    neither reads, such as 1.7976931348623158e308.)
    """
    path = tmp_path / "t.safetensors"
    path.write_bytes(file_of(text, bytes(4)))
    assert theirs(path.read_bytes()) is not None
    assert ours(path).startswith("'a' needs")


def test_a_type_that_we_do_not_know_is_named_with_its_tensor_and_those_we_know(tmp_path):
    path = tmp_path / "t.safetensors"
    safetensors.torch.save_file({"w": torch.ones(2), "ids": torch.arange(3)}, path)
    assert re.search("'ids'.*'I64'.*F32, F16, BF16", ours(path))


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    safetensors.torch.save_file({"a": torch.ones(3, 5), "b": torch.ones(2)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert isinstance(ours(path), str)


def test_a_shape_of_a_million_axes_is_refused_at_once(tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(file_of({"a": entry(0, 0, [1 << 62] * 1_000_000)}))
    assert isinstance(ours(path), str)


# ---------------------------------------------------------------------------- 10,000 mutated files

# Headers are Objects here: lists of [key, value], so that keys can repeat. Raw is written as it is.
SPACE = [" ", "\n", "\t", "\r ", "  "]
VALUES = [
    *"-0 0 1 2 4 -1 1.0 1e0 true false null NaN Infinity -Infinity 1e999 0e999 1e-999 -1e5".split(),
    *"18446744073709551615 18446744073709551616 9223372036854775807 4294967296 1.5e300".split(),
    *"01 1. - +1 0x1 1_0 [] {} [-0] [1e999] tru".split(),
    *('{"a":NaN}', '{"a":1,"a":2}', '"1"', '"', "'a'", '"\\""', '"["', '"\\x"', '"\t"', '"\x7f"'),
    *('"\\ud800"', '"\\udc00"', '"\\ud83d\\ude00"', '"\\ud83dx"'),
    *('"\\\\ud800"', '"\\u0000"', '"é"'),
    *("1" * 25, "1" * 400, "1" * 5000, "-" + "1" * 400, "[" * 20 + "]" * 20),
    *(f"{n * '['}{n * ']'}" for n in (124, 125, 126, 127, 3000)),
    *(n * '{"a":' + "1" + n * "}" for n in (124, 125, 126)),
]
KEYS = ["x", "dtype", "shape", "data_offsets", "__metadata__", "", "a0"]
INSERTED = [*',"\\[]{}0-:', "\x01", "\xff", "/**/", "\\u00e9", "\ufeff", "\xa0", "\0", "\n"]


class Object(list):
    """An object of JSON: a list of [key, value]."""


class Raw(str):
    """Text that goes into the header as it is."""


def written(value: Any, rng: random.Random) -> str:
    space = rng.choice(SPACE) if rng.random() < 0.03 else ""
    if isinstance(value, Object):
        pairs = (f"{written(key, rng)}:{written(item, rng)}" for key, item in value)
        return f"{space}{{{','.join(pairs)}{space}}}"
    if isinstance(value, list):
        return f"{space}[{','.join(written(item, rng) for item in value)}]{space}"
    return value if isinstance(value, Raw) else json.dumps(value, ensure_ascii=rng.random() < 0.5)


def valid(rng: random.Random) -> tuple[Object, bytes]:
    header, end = Object(), 0
    for i in range(rng.randint(0, 4)):
        dtype = rng.choice(list(WIDTHS))
        shape = [rng.choice([0, 1, 1, 2, 3, 5]) for _ in range(rng.randint(0, 3))]
        start, end = end, end + WIDTHS[dtype] * math.prod(shape)
        fields = [["dtype", dtype], ["shape", shape], ["data_offsets", [start, end]]]
        rng.shuffle(fields)
        header.append([f"{rng.choice('abcé')}{i}", Object(fields)])
    if rng.random() < 0.5:
        header.append(["__metadata__", Object([["format", "pt"]][: rng.randint(0, 1)])])
    rng.shuffle(header)
    return header, rng.randbytes(end)


def parts(value: Any) -> list[tuple[Any, int]]:
    """Where the values of a header stand: (list, index)."""
    places = enumerate(value) if isinstance(value, list) and not isinstance(value, Object) else ()
    found = [(value, i) for i, _ in places]
    found += [(pair, 1) for pair in value] if isinstance(value, Object) else []
    return found + [place for holder, i in found for place in parts(holder[i])]


def change_structure(header: Object, rng: random.Random) -> None:
    places = parts(header)
    lists = [header] + [holder[i] for holder, i in places if isinstance(holder[i], list)]
    objects = [one for one in lists if isinstance(one, Object)]
    holder, i = rng.choice(places or [([0], 0)])
    some, target = rng.choice(lists), rng.choice(objects)
    match rng.randrange(8):
        case 0:
            holder[i] = Raw(rng.choice(VALUES))
        case 1:
            pair = [rng.choice(KEYS), Raw(rng.choice(VALUES))]
            target.insert(rng.randint(0, len(target)), pair)
        case 2 if some:
            some.insert(rng.randint(0, len(some)), copy.deepcopy(rng.choice(some)))
        case 3 if some:
            some.pop(rng.randrange(len(some)))
        case 4 if target:
            keys = [key for key, _ in target] + ["__metadata__", Raw('"\\ud800"'), Raw("a")]
            rng.choice(target)[0] = rng.choice([*keys, Raw('"\\u0061"'), Raw('"d\\u0074ype"')])
        case 5 if type(holder[i]) is int:
            holder[i] = max(0, holder[i] + rng.choice([-4, -2, -1, 1, 2, 4]))
        case 5 if type(holder[i]) is str:
            holder[i] = rng.choice("F32 F16 BF16 I64 F64 F13 f32 U8 BOOL F4 F8_E4M3".split())
        case 6:
            other, j = rng.choice(places or [([0], 0)])
            holder[i] = copy.deepcopy(other[j])
        case 7:
            fields = [["dtype", "F32"], ["shape", [0]], ["data_offsets", [0, 0]]]
            target.append([rng.choice("ab"), Object(fields)])


def mutated(rng: random.Random) -> bytes:
    header, body = valid(rng)
    kind = rng.choice(["structure"] * 5 + ["bytes", "bytes", "cut", "longer", "text", "length"])
    if kind == "structure":
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            change_structure(header, rng)
    text = written(header, rng)
    if kind == "text":
        i = rng.choice([0, len(text), rng.randint(0, len(text))])
        text = text[:i] + rng.choice(["", *INSERTED]) + text[i + rng.randint(0, 1) :]
    data = bytearray(
        file_of(text.encode(rng.choice(["utf-8", "utf-8", "utf-8", "latin-1"]), "replace"), body)
    )
    match kind:
        case "bytes":
            for _ in range(rng.choice([1, 1, 2, 4])):
                i = rng.randrange(len(data))
                data[i] = rng.choice([data[i] ^ (1 << rng.randrange(8)), rng.randrange(256)])
        case "cut":
            del data[rng.randrange(len(data)) :]
        case "longer":
            data += rng.randbytes(rng.randint(1, 9))
        case "length":
            near = len(text) + rng.choice([-1, 1, len(body), len(body) + 1])
            length = rng.choice([0, near, 1 << 63, 100_000_000, 100_000_001, rng.getrandbits(64)])
            data[:8] = struct.pack("<Q", max(0, length))
    return bytes(data)


@pytest.mark.parametrize("seed", range(10))
def test_of_a_thousand_mutated_files_exactly_those_of_the_library_are_read(tmp_path, seed):
    """No more memory than the file has bytes, besides what its header takes as Python objects."""
    path, rng, n_read = tmp_path / "t.safetensors", random.Random(seed), 0
    for _ in range(1000):
        data = mutated(rng)
        path.write_bytes(data)
        expected = theirs(data)
        with memory_is_limited(data):
            found = ours(path)
        assert isinstance(found, dict) == (expected is not None), (found, data)
        if expected is None:
            assert found and "\n" not in found
        else:
            assert_same(found, expected)
            n_read += 1
    assert 100 < n_read < 900


# ----------------------------------------------------------------------------------- real weights


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_loading_the_real_weights_takes_no_more_memory_than_they_have(gemma):
    """A process of its own, as the peak of this one is that of all tests (and its children's
    `ru_maxrss` begins with it)."""
    program = """
import re, sys
from pathlib import Path
sys.path.insert(0, "src")
import jax, numpy as np
import gemma3
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
jax.device_put(np.zeros(3)).block_until_ready()
before = peak()
params = {name: jax.device_put(array) for name, array in gemma3.read_safetensors(sys.argv[1])}
jax.block_until_ready(params)
print(peak() - before)
"""
    path = gemma / "model.safetensors"
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.9 < int(done.stdout) / path.stat().st_size < 1.05

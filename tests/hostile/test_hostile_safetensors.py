"""Malformed safetensors files of every kind: refused, and the reason said in one sentence."""

import json

import pytest
import safetensors

from deltavc.errors import UnsafeFile, UnsupportedFormat
from deltavc.formats.safetensors import SafetensorsFile

F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def file_of(header, data=b"\0" * 4, *, length=None, pad=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text + pad) if length is None else length
    return (size % (1 << 64)).to_bytes(8, "little") + text + pad + data


def with_field(**fields):
    return {"w": F4 | fields}


def raw(text):
    return b'{"w":' + text + b"}"


MALFORMED = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "length only": (0).to_bytes(8, "little"),
    "length of one": file_of(b"{", b""),
    "length past the end": file_of({"w": F4}, length=10_000),
    "length of 2**63": file_of({"w": F4}, length=1 << 63),
    "length of 2**64 - 1": file_of({"w": F4}, length=-1),
    "length of 100 MB + 1": file_of({"w": F4}, length=100_000_001),
    "length too short": file_of({"w": F4}, length=20),
    "length too long by one": file_of({"w": F4}, length=len(json.dumps({"w": F4})) + 1),
    "not JSON": file_of(b"hello world!"),
    "JSON that ends early": file_of(b'{"w": {"dtype"'),
    "not an object: list": file_of([1, 2]),
    "not an object: number": file_of(b"12345678"),
    "not an object: null": file_of(b"null"),
    "two objects": file_of(b"{}{}", b""),
    "space in front": file_of(b' {"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
    "tab behind": file_of({"w": F4}, pad=b"\t"),
    "NUL behind": file_of({"w": F4}, pad=b"\0"),
    "byte order mark": file_of(b"\xef\xbb\xbf" + json.dumps({"w": F4}).encode()),
    "UTF-16": file_of(json.dumps({"w": F4}).encode("utf-16")),
    "not UTF-8": file_of(raw(b'"\xff"')),
    "duplicate tensor": file_of(
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "duplicate field": file_of(
        b'{"w":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "duplicate metadata": file_of(
        b'{"__metadata__":{},"__metadata__":{},"w":{"dtype":"F32","shape":[1],'
        b'"data_offsets":[0,4]}}'
    ),
    "no dtype": file_of({"w": {"shape": [1], "data_offsets": [0, 4]}}),
    "no shape": file_of({"w": {"dtype": "F32", "data_offsets": [0, 4]}}),
    "no offsets": file_of({"w": {"dtype": "F32", "shape": [1]}}),
    "unknown field": file_of(with_field(extra=1)),
    "info is a list": file_of({"w": ["F32", [1], [0, 4]]}),
    "info is null": file_of({"w": None}),
    "unknown dtype": file_of(with_field(dtype="F33")),
    "lower-case dtype": file_of(with_field(dtype="f32")),
    "dtype is a number": file_of(with_field(dtype=32)),
    "dtype is null": file_of(with_field(dtype=None)),
    "dtype is a list": file_of(with_field(dtype=["F32"])),
    "long dtype": file_of(with_field(dtype="F" * 10_000)),
    "negative dimension": file_of(with_field(shape=[-1])),
    "two negative dimensions": file_of(with_field(shape=[-1, -1])),
    "float dimension": file_of(with_field(shape=[1.0])),
    "text dimension": file_of(with_field(shape=["1"])),
    "true dimension": file_of(with_field(shape=[True])),
    "null shape": file_of(with_field(shape=None)),
    "number as shape": file_of(with_field(shape=1)),
    "huge dimension": file_of(with_field(shape=[1 << 63])),
    "dimension of 60 digits": file_of(with_field(shape=[10**60])),
    "dimension of 5,000 digits": file_of(raw(b'{"shape":[' + b"9" * 5000 + b"]}")),
    "product that wraps to 1": file_of(with_field(shape=[(1 << 32) + 1, (1 << 32) + 1])),
    "product that wraps to 0": file_of(with_field(shape=[1 << 32, 1 << 32])),
    "huge dimensions times zero": file_of(
        with_field(shape=[1 << 40, 1 << 40, 0], data_offsets=[0, 0]), b""
    ),
    "a thousand dimensions": file_of(with_field(shape=[1] * 1000)),
    "shape larger than the bytes": file_of(with_field(shape=[2])),
    "shape smaller than the bytes": file_of(with_field(shape=[0])),
    "negative offset": file_of(with_field(data_offsets=[-4, 0])),
    "offsets backwards": file_of(with_field(data_offsets=[4, 0])),
    "one offset": file_of(with_field(data_offsets=[0])),
    "three offsets": file_of(with_field(data_offsets=[0, 4, 4])),
    "float offsets": file_of(with_field(data_offsets=[0.0, 4.0])),
    "true offset": file_of(raw(b'{"dtype":"U8","shape":[1],"data_offsets":[false,true]}'), b"\0"),
    "offset past the end": file_of(with_field(data_offsets=[4, 8])),
    "offset that wraps": file_of(with_field(data_offsets=[(1 << 64) - 4, 1 << 64])),
    "offsets as an object": file_of(with_field(data_offsets={"0": 0, "1": 4})),
    "a hole in front": file_of(with_field(data_offsets=[4, 8]), b"\0" * 8),
    "a hole between": file_of({"a": F4, "b": F4 | {"data_offsets": [8, 12]}}, b"\0" * 12),
    "an overlap": file_of({"a": F4, "b": F4 | {"data_offsets": [2, 6]}}, b"\0" * 6),
    "twice the same bytes": file_of({"a": F4, "b": F4}, b"\0" * 4),
    "trailing bytes": file_of({"w": F4}, b"\0" * 5),
    "data cut off": file_of({"w": F4}, b"\0" * 3),
    "no data": file_of({"w": F4}, b""),
    "bytes without tensors": file_of({}, b"\0"),
    "metadata is a list": file_of({"__metadata__": [], "w": F4}),
    "metadata is null": file_of({"__metadata__": None, "w": F4}),
    "metadata with a number": file_of({"__metadata__": {"a": 1}, "w": F4}),
    "metadata with an object": file_of({"__metadata__": {"a": {}}, "w": F4}),
    "metadata is a tensor": file_of({"__metadata__": F4}),
    "empty name": file_of({"": F4}),
    "long name": file_of({"w" * 513: F4}),
    "NUL in a name": file_of({"w\0": F4}),
    "newline in a name": file_of({"w\n": F4}),
    "escape in a name": file_of({"w\x1b[2J": F4}),
    "DEL in a name": file_of({"w\x7f": F4}),
    "C1 control in a name": file_of({"w\x9b": F4}),
    "lone surrogate in a name": file_of(
        b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "lone surrogate in metadata": file_of(
        b'{"__metadata__":{"a":"\\udfff"},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "NaN": file_of(raw(b'{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}')),
    "infinity": file_of(raw(b'{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}')),
    "minus infinity": file_of(raw(b'{"dtype":"F32","shape":[-Infinity],"data_offsets":[0,4]}')),
    "deep nesting": file_of(b'{"w":' * 2000 + b"1" + b"}" * 2000),
    "deep lists": file_of(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "comments": file_of(b'{"w":{"dtype":"F32",/**/"shape":[1],"data_offsets":[0,4]}}'),
    "trailing comma": file_of(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},}'),
    "single quotes": file_of(b"{'w':{'dtype':'F32','shape':[1],'data_offsets':[0,4]}}"),
    "a pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0cos\nsystem\n",
    "a zip": b"PK\x03\x04" + b"\0" * 60,
    "GGUF": b"GGUF" + b"\0" * 60,
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused(tmp_path, name):
    path = tmp_path / "m.safetensors"
    path.write_bytes(MALFORMED[name])
    with pytest.raises(UnsafeFile) as caught:
        SafetensorsFile(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    assert caught.value.exit_code == 46
    assert caught.value.hint


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "C64"])
def test_a_dtype_that_is_not_read_is_named(tmp_path, dtype):
    size = {"F4": [0, 1], "F8_E8M0": [0, 2], "C64": [0, 16]}[dtype]
    path = tmp_path / "m.safetensors"
    path.write_bytes(
        file_of(with_field(dtype=dtype, shape=[2], data_offsets=size), b"\0" * size[1])
    )
    with pytest.raises(UnsupportedFormat, match=dtype) as caught:
        SafetensorsFile(path)
    assert "BF16" in caught.value.hint


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"w": F4},
        {"__metadata__": {}, "w": F4},
        {"__metadata__": {"": ""}, "w": F4},
        {"w" * 512: F4},
        {"ключ 🔑 ‮": F4},
        {"../../etc/passwd": F4},
        {"w": F4 | {"shape": [1, 1, 1, 1, 1]}},
        {"e": F4 | {"shape": [0, 7], "data_offsets": [0, 0]}, "w": F4},
        {"w": F4, "e": F4 | {"shape": [0], "data_offsets": [4, 4]}},
    ],
)
def test_sound_files_are_taken(tmp_path, header):
    data = file_of(header, b"\0" * 4 if F4["dtype"] in str(header) else b"", pad=b"   ")
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with SafetensorsFile(path) as file:
        assert {entry.name for entry in file.entries} == set(header) - {"__metadata__"}
    assert {name for name, _ in safetensors.deserialize(data)} == set(header) - {"__metadata__"}


def test_a_header_that_claims_more_than_the_file_allocates_nothing(tmp_path):
    import tracemalloc

    path = tmp_path / "m.safetensors"
    path.write_bytes((99_000_000).to_bytes(8, "little") + b"{" * 100)
    tracemalloc.start()
    with pytest.raises(UnsafeFile):
        SafetensorsFile(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_hostile_names_are_shown_harmless(tmp_path):
    path = tmp_path / "a\x1b[2Jb.safetensors"
    path.write_bytes(file_of({"w\u202e\x07": F4}))
    with pytest.raises(UnsafeFile) as caught:
        SafetensorsFile(path)
    assert str(caught.value).isprintable()

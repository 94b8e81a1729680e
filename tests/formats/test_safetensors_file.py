"""Our reader and header builder against the reference library."""

import json
import os
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings

from deltavc.delta.tensor import DTYPES
from deltavc.errors import InternalError, UnsafeFile, UnsupportedFormat
from deltavc.formats.safetensors import SafetensorsFile, build_header

NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cs")) | st.sampled_from('."\\/é𝄞'),
    min_size=1,
    max_size=12,
).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def contents(draw):
    tensors = {}
    for name in draw(st.lists(NAMES, max_size=6, unique=True)):
        dtype, shape = DTYPES[draw(st.sampled_from(sorted(DTYPES)))], draw(SHAPES)
        count = int(np.prod(shape, dtype=int)) * dtype.size
        tensors[name] = (dtype, shape, draw(st.binary(min_size=count, max_size=count)))
    return tensors


def reference_bytes(tensors, metadata):
    """Writes with the reference library, whatever the dtype."""
    made = {}
    for name, (dtype, shape, data) in tensors.items():
        kind = getattr(torch, dtype.torch)
        flat = torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)
        made[name] = flat.reshape(shape)
    return safetensors.torch.save(made, metadata)


@given(contents(), st.sampled_from([None, {"format": "pt"}, {"k": "ü\n"}]))
@settings(max_examples=150, deadline=None)
def test_reads_what_the_reference_library_writes_and_writes_its_header(tmp_path_factory, given, md):
    path = tmp_path_factory.mktemp("st") / "m.safetensors"
    written = reference_bytes(given, md)
    path.write_bytes(written)
    with SafetensorsFile(path) as file:
        assert file.metadata == (md or {})
        assert {entry.name for entry in file.entries} == set(given)
        for name, (dtype, shape, data) in given.items():
            tensor = file.tensor(name)
            assert (tensor.dtype, tensor.shape) == (dtype, shape)
            assert bytes(tensor.raw()) == data
        entries = [(entry.name, entry.dtype, entry.shape) for entry in file.entries]
        header, offsets = build_header(entries, file.metadata)
        assert header == file.header == written[: len(header)]
        assert offsets == [entry.offset for entry in file.entries]


@given(contents())
@settings(max_examples=60, deadline=None)
def test_the_reference_library_reads_what_we_describe_in_any_order(given):
    items = sorted(given.items(), key=lambda item: item[0][::-1])
    header, offsets = build_header([(n, d, s) for n, (d, s, _) in items], {"a": "b"})
    blob = header + b"".join(data for _, (_, _, data) in items)
    found = dict(safetensors.deserialize(blob))
    assert set(found) == set(given)
    for (name, (_, shape, data)), offset in zip(items, offsets, strict=True):
        assert tuple(found[name]["shape"]) == shape
        assert bytes(found[name]["data"]) == data == blob[offset : offset + len(data)]


def test_views_are_read_only_and_outlive_the_file(tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"w": np.arange(6, dtype=np.float32)}, path)
    file = SafetensorsFile(path)
    tensor = file.tensor("w")
    assert not tensor.bits.flags.writeable
    file.close()
    file.close()
    assert tensor.to_float64().tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(InternalError):
        file.tensor("w")


def test_nothing_is_copied(tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(1000)}, path)
    with SafetensorsFile(path) as file:
        assert not file.tensor("w").bits.flags.owndata
        assert np.shares_memory(file.tensor("w").bits, file.tensor("w").bits)


def test_tensors_that_lie_at_odd_offsets(tmp_path):
    text = json.dumps(
        {
            "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "b": {"dtype": "F64", "shape": [2], "data_offsets": [1, 17]},
        }
    ).encode()
    text += b" " * (len(text) % 2)  # any length is allowed
    values = np.array([1.5, -0.0])
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\7" + values.tobytes())
    with SafetensorsFile(path) as file:
        assert file.tensor("b").to_float64().tobytes() == values.tobytes()


def test_an_unknown_tensor_and_a_name_that_stands_twice(tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(1)}, path)
    with SafetensorsFile(path) as file, pytest.raises(UnsupportedFormat):
        file.tensor("v")
    entry = ("w", DTYPES["F32"], (1,))
    with pytest.raises(UnsafeFile, match="twice"):
        build_header([entry, entry], None)
    with pytest.raises(UnsafeFile):
        build_header([("__metadata__", DTYPES["F32"], (1,))], None)


def test_an_empty_file_of_no_tensors(tmp_path):
    path = tmp_path / "none.safetensors"
    path.write_bytes(build_header([], None)[0])
    with SafetensorsFile(path) as file:
        assert file.entries == []


def test_reading_needs_no_torch():
    code = (
        "import sys; import deltavc.formats.checkpoint, deltavc.formats.peft_match,"
        " deltavc.formats.pickles; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0

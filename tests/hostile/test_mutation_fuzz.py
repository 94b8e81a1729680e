"""Good files with bytes and values changed: refused or read, never anything else.

Each mutant is opened and read to the last byte. Nothing but a refusal may come
out, and no safetensors file may be taken that the reference library refuses.
Seeds are fixed, so a failure can be run again.
"""

import copy
import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save, save_file

from deltavc.errors import DeltavcError
from deltavc.formats.checkpoint import open_checkpoint
from deltavc.formats.peft import open_adapter
from deltavc.formats.peft_match import match

HOSTILE_VALUES = [
    None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, "", "x", "F64",
    "../x", "/etc/passwd", "(a+)+$", "\x00", "\u202e", "x" * 2000, [], [[]], [-1], [0] * 50, {},
    {"": {}}, {"(a+)+$": 1}, {"q": -1}, {"q": 10**30},
]  # fmt: skip
HOSTILE_TEXTS = [b"NaN", b"1e999", b"[" * 300, b'"\\ud800"', b"\xff", b"9" * 5000, b"\0", b""]


def tensors(seed=0):
    made = np.random.default_rng(seed)
    return {
        "model.embed_tokens.weight": made.standard_normal((5, 4), np.float32),
        "model.layers.0.q.weight": made.standard_normal((4, 4), np.float32),
        "model.layers.0.q.bias": made.standard_normal(4).astype(np.float16),
        "step": np.array(7),
        "none": np.zeros((0, 3), np.uint8),
    }


def flip(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def replace_byte(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def cut(rng, data):
    return data[: rng.randrange(len(data))]


def repeat(rng, data):
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.randrange(1, 40))
    return data[:stop] + data[start:stop] + data[stop:]


def drop(rng, data):
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 40) :]


def splice(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + rng.choice(HOSTILE_TEXTS) + data[at:]


BYTES = [flip, replace_byte, cut, repeat, drop, splice]


def change_value(rng, value):
    """Changes one place of a JSON value: another value, another key, gone, or twice."""
    value = copy.deepcopy(value)
    node = value
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            return rng.choice(HOSTILE_VALUES)
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        what = rng.randrange(4)
        if what == 0 and isinstance(node, dict):
            node[str(rng.choice(HOSTILE_VALUES))] = node.pop(key)
        elif what == 1:
            node.pop(key)
        elif what == 2 and type(node[key]) is int:
            node[key] += rng.choice([-8, -4, -1, 1, 4, 8])
        else:
            node[key] = rng.choice(HOSTILE_VALUES)
        return value


def mutate_safetensors(rng, data):
    """Changes bytes anywhere, or the header with its length put right."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    way = rng.randrange(4)
    if way == 0:
        return rng.choice(BYTES)(rng, data)
    if way == 1:
        header = rng.choice(BYTES)(rng, header)
    elif way == 2:
        header = json.dumps(change_value(rng, json.loads(header))).encode()
    else:
        size = rng.choice(
            [0, 1, length - 1, length + 1, len(data), 2**31, 2**63, rng.getrandbits(64)]
        )
        return size.to_bytes(8, "little") + data[8:]
    return len(header).to_bytes(8, "little") + header + rest


def mutate_json(rng, data):
    if rng.random() < 0.3:
        return rng.choice(BYTES)(rng, data)
    return json.dumps(change_value(rng, json.loads(data))).encode()


def read_all(opened):
    found = {}
    for name in opened.entries:
        tensor = opened.tensor(name)
        found[name] = (tensor.dtype.name, tensor.shape, bytes(tensor.raw()))
    assert opened.tied is not None
    return found


class Counts:
    """How many mutants were taken and refused; each must take well under a second."""

    def __init__(self):
        self.taken = self.refused = 0

    def run(self, action):
        start, result, refusal = time.perf_counter(), None, None
        try:
            result = action()
        except DeltavcError as error:
            refusal = error
        assert time.perf_counter() - start < 1.0
        if refusal is None:
            self.taken += 1
            return result
        self.refused += 1
        assert refusal.exit_code in (25, 45, 46, 47, 48)
        assert refusal.hint
        assert str(refusal).isprintable()
        return None


def reference(data):
    """Returns what the reference library reads, or None where it refuses."""
    try:
        items = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return None
    return {n: (i["dtype"], tuple(i["shape"]), bytes(i["data"])) for n, i in items}


def fuzz_single(tmp_path, mutants, seed):
    rng, counts = random.Random(seed), Counts()
    good = [
        save(tensors(), {"format": "pt"}),
        save(tensors(1)),
        save({"w": np.ones(3)}, {"a": "b"}),
    ]
    path = tmp_path / "m.safetensors"
    for _ in range(mutants):
        data = mutate_safetensors(rng, rng.choice(good))
        if rng.random() < 0.2 and len(data) > 8:
            data = rng.choice(BYTES)(rng, data)
        path.write_bytes(data)

        def read():
            with open_checkpoint(path) as opened:
                return read_all(opened)

        found = counts.run(read)
        if found is not None:
            assert reference(data) == found
    assert counts.refused > mutants * 0.5
    assert counts.taken > mutants * 0.05
    return counts


def fuzz_folder(tmp_path, mutants, seed):
    rng, counts = random.Random(seed), Counts()
    clean = tmp_path / "clean"
    clean.mkdir()
    items = list(tensors().items())
    shards = {"m-1.safetensors": dict(items[:2]), "m-2.safetensors": dict(items[2:])}
    for name, content in shards.items():
        save_file(content, clean / name)
    index = {"weight_map": {tensor: name for name in shards for tensor in shards[name]}}
    (clean / "model.safetensors.index.json").write_text(json.dumps(index))
    (clean / "config.json").write_text(
        json.dumps({"tie_word_embeddings": True, "architectures": ["XForCausalLM"]})
    )
    folder = tmp_path / "folder"
    shutil.copytree(clean, folder)
    names = sorted(path.name for path in clean.iterdir())
    for _ in range(mutants):
        name = rng.choice([*names, "config.json", "model.safetensors.index.json"])
        data = (clean / name).read_bytes()
        mutate = mutate_json if name.endswith("json") else mutate_safetensors
        mutant = mutate(rng, data)
        (folder / name).write_bytes(mutant)

        def read():
            with open_checkpoint(folder) as opened:
                return read_all(opened)

        found = counts.run(read)
        if found is not None:
            assert set(found) == set(tensors())
            assert name.endswith("json") or reference(mutant) is not None
        (folder / name).write_bytes(data)
    assert counts.refused > mutants * 0.3
    assert counts.taken > mutants * 0.05
    return counts


ADAPTER = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "use_rslora": False,
    "fan_in_fan_out": False, "target_modules": ["q", "k"], "rank_pattern": {"k": 3},
    "alpha_pattern": {"layers.0.k": 5}, "modules_to_save": ["head"], "init_lora_weights": True,
    "trainable_token_indices": {"embed_tokens": [4, 1]}, "use_dora": False, "loftq_config": {},
    "base_model_name_or_path": "x", "task_type": "CAUSAL_LM", "lora_dropout": 0.1,
}  # fmt: skip


def fuzz_adapter(tmp_path, mutants, seed):
    rng, counts = random.Random(seed), Counts()
    made = np.random.default_rng(5)

    def numbers(*shape):
        return made.standard_normal(shape).astype(np.float32)

    prefix = "base_model.model.model."
    weights = save(
        {
            f"{prefix}layers.0.q.lora_A.weight": numbers(2, 4),
            f"{prefix}layers.0.q.lora_B.weight": numbers(4, 2),
            f"{prefix}layers.0.k.lora_A.weight": numbers(3, 4),
            f"{prefix}layers.0.k.lora_B.weight": numbers(6, 3),
            f"{prefix}embed_tokens.token_adapter.trainable_tokens_delta": numbers(2, 4),
            "base_model.model.head.weight": numbers(3, 4),
        }
    )
    clean = {
        "adapter_config.json": json.dumps(ADAPTER).encode(),
        "adapter_model.safetensors": weights,
    }
    with_shapes = {"layers.0.q": (4, 4), "layers.0.k": (6, 4), "embed_tokens": (5, 4)}
    from deltavc.delta.tensor import DTYPES

    base = {f"model.{n}.weight": (DTYPES["F32"], shape) for n, shape in with_shapes.items()}
    for name, data in clean.items():
        (tmp_path / name).write_bytes(data)
    for _ in range(mutants):
        name = rng.choice(sorted(clean))
        mutate = mutate_json if name.endswith("json") else mutate_safetensors
        mutant = mutate(rng, clean[name])
        (tmp_path / name).write_bytes(mutant)

        def read():
            with open_adapter(tmp_path) as adapter:
                found = match(adapter, base, {})
                deltas = [d for several in found.params.values() for d in several]
                return [delta.id() for delta in [*deltas, *found.new.values()]]

        if counts.run(read) is not None and not name.endswith("json"):
            assert reference(mutant) is not None
        (tmp_path / name).write_bytes(clean[name])
    assert counts.refused > mutants * 0.3
    assert counts.taken > mutants * 0.05
    return counts


KINDS = {"single": fuzz_single, "folder": fuzz_folder, "adapter": fuzz_adapter}


@pytest.fixture
def in_memory(tmp_path):
    """A folder in memory where there is one: cutting files on disk is nearly all of the time."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("kind", "mutants"), [("single", 4000), ("folder", 1000), ("adapter", 1500)]
)
def test_mutants_are_refused_or_read(in_memory, kind, mutants):
    KINDS[kind](in_memory, mutants, seed=20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "mutants"), [("single", 16_000), ("folder", 3000), ("adapter", 4000)]
)
def test_many_more_mutants(in_memory, kind, mutants):
    KINDS[kind](in_memory, mutants, seed=2026)

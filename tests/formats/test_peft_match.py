"""Adapters on bases of other dtypes, tied bases, and what comes whole."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import BaseMismatch, NonFiniteTensor, UnsupportedFormat
from deltavc.formats.peft import open_adapter
from deltavc.formats.peft_match import match

PREFIX = "base_model.model."
Q = {
    f"{PREFIX}q.lora_A.weight": torch.ones(2, 4),
    f"{PREFIX}q.lora_B.weight": torch.ones(4, 2),
}
EMBEDDING = {
    f"{PREFIX}e.lora_embedding_A": torch.arange(12.0).reshape(2, 6),
    f"{PREFIX}e.lora_embedding_B": torch.arange(8.0).reshape(4, 2),
}


def adapter_at(folder, tensors, **config):
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2} | config
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return open_adapter(folder)


def entries(dtype="F32", **shapes):
    return {f"{name}.weight": (DTYPES[dtype], shape) for name, shape in shapes.items()}


def ours(tensor):
    flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    dtype = next(d for d in DTYPES.values() if d.torch == str(tensor.dtype).removeprefix("torch."))
    return Tensor.from_buffer(dtype, tuple(tensor.shape), flat)


def rows_adapter(folder, values):
    delta = {f"{PREFIX}e.token_adapter.trainable_tokens_delta": values}
    return adapter_at(folder, Q | delta, trainable_token_indices=[2, 0])


def test_what_kinds_of_items_there_are(tmp_path):
    tensors = Q | {
        f"{PREFIX}e.token_adapter.trainable_tokens_delta": torch.ones(1, 4),
        f"{PREFIX}h.weight": torch.ones(3, 4),
        f"{PREFIX}h.bias": torch.ones(3),
        f"{PREFIX}lora_A.weight": torch.ones(2, 4),
        f"{PREFIX}lora_B.weight": torch.ones(4, 2),
    }
    with adapter_at(tmp_path, tensors, trainable_token_indices=[2]) as adapter:
        kinds = {item.name: item.kind for item in adapter.items}
    assert kinds == {
        "e.weight": "rows",
        "h.bias": "bias",
        "h.weight": "replace",
        "q.weight": "lowrank",
        "weight": "lowrank",  # the model is one layer
    }


@pytest.mark.parametrize("target", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_are_rounded_as_torch_rounds_them(tmp_path, source, target):
    torch.manual_seed(4)
    scale = torch.logspace(-6, 4, 8, dtype=torch.float64).reshape(2, 4)
    values = (torch.randn(2, 4, dtype=torch.float64) * scale).to(source)
    adapter = rows_adapter(tmp_path, values)
    found = match(adapter, entries(target, q=(4, 4), e=(5, 4)), {})
    rows = found.params["e.weight"][0].values()
    expected = values[[1, 0]].to(getattr(torch, DTYPES[target].torch))
    if source is torch.float64 and target in ("F16", "BF16"):
        # torch rounds twice, by way of float32; ours is nearest, so at most half a step away
        assert torch.allclose(torch.from_numpy(rows.to_float64()), values[[1, 0]], rtol=2**-8)
    else:
        assert rows.same_bits(ours(expected))


def test_rows_too_large_for_the_base(tmp_path):
    adapter = rows_adapter(tmp_path, torch.full((2, 4), 1e30))
    with pytest.raises(NonFiniteTensor, match="too large"):
        match(adapter, entries("F16", q=(4, 4), e=(5, 4)), {})


@pytest.mark.parametrize(
    ("loaded", "held", "same"),
    [
        (torch.float32, torch.float32, True),
        (torch.bfloat16, torch.float32, True),  # the base was loaded in bf16 to train
        (torch.float32, torch.bfloat16, True),
        (torch.float16, torch.float32, True),
        (torch.float64, torch.float16, True),
        (torch.float32, torch.float32, False),
        (torch.bfloat16, torch.float32, False),
        (torch.int8, torch.float32, False),
    ],
)
def test_a_copy_of_the_embedding_is_compared_in_the_dtype_it_was_loaded_in(
    tmp_path, loaded, held, same
):
    torch.manual_seed(5)
    base = torch.randn(6, 4).to(held)
    copy = base.to(loaded).clone()
    if not same and loaded is not torch.int8:
        copy[3, 2] *= 1.5
    adapter = adapter_at(tmp_path, EMBEDDING | {f"{PREFIX}e.base_layer.weight": copy})
    held_name = next(d.name for d in DTYPES.values() if str(held) == f"torch.{d.torch}")
    base_entries = entries(held_name, e=(6, 4))
    assert list(match(adapter, base_entries, {}).copies) == ["e.weight"]
    if same:
        found = match(adapter, base_entries, {}, read=lambda _: ours(base))
        assert list(found.params) == ["e.weight"]
    else:
        with pytest.raises(BaseMismatch, match="other values"):
            match(adapter, base_entries, {}, read=lambda _: ours(base))


def test_a_base_with_nan_has_no_copies_in_another_dtype(tmp_path):
    base = torch.full((6, 4), float("nan"))
    copy = torch.ones(6, 4, dtype=torch.bfloat16)
    adapter = adapter_at(tmp_path, EMBEDDING | {f"{PREFIX}e.base_layer.weight": copy})
    with pytest.raises(BaseMismatch):
        match(adapter, entries(e=(6, 4)), {}, read=lambda _: ours(base))


TIED = {"h.weight": "e.weight"}


def test_a_head_saved_whole_on_a_tied_base(tmp_path):
    head = {f"{PREFIX}h.weight": torch.ones(6, 4)}
    adapter = adapter_at(tmp_path, Q | head, modules_to_save=["h"])
    found = match(adapter, entries(q=(4, 4), e=(6, 4)), TIED)
    assert (list(found.replaced), found.new) == (["e.weight"], {})
    assert found.ties == {"h.weight": "e.weight"}


@pytest.mark.parametrize("difference", [0.0, 1.0])
def test_both_ends_of_a_tie_saved_whole(tmp_path, difference):
    both = {
        f"{PREFIX}h.weight": torch.ones(6, 4),
        f"{PREFIX}e.weight": torch.ones(6, 4) + difference,
    }
    adapter = adapter_at(tmp_path, Q | both, modules_to_save=["h", "e"])
    base = entries(q=(4, 4), e=(6, 4))
    if difference:
        with pytest.raises(UnsupportedFormat, match="two ways"):
            match(adapter, base, TIED)
    else:
        assert list(match(adapter, base, TIED).replaced) == ["e.weight"]


@pytest.mark.parametrize("first", ["e", "h"])
def test_one_end_of_a_tie_trained_and_the_other_saved(tmp_path, first):
    # whichever of the two the file has first
    second = "h" if first == "e" else "e"
    tensors = {
        f"{PREFIX}{first}.lora_A.weight": torch.ones(2, 4),
        f"{PREFIX}{first}.lora_B.weight": torch.ones(6, 2),
        f"{PREFIX}{second}.weight": torch.ones(6, 4),
    }
    adapter = adapter_at(tmp_path, tensors, modules_to_save=[second])
    with pytest.raises(UnsupportedFormat, match="two ways"):
        match(adapter, entries(e=(6, 4)), TIED)


@pytest.mark.parametrize("scale", [1, 2])
def test_factors_of_an_embedding_and_its_head_must_be_the_same(tmp_path, scale):
    head = {
        f"{PREFIX}h.lora_A.weight": EMBEDDING[f"{PREFIX}e.lora_embedding_B"].T.contiguous(),
        f"{PREFIX}h.lora_B.weight": EMBEDDING[f"{PREFIX}e.lora_embedding_A"].T.contiguous() * scale,
    }
    adapter = adapter_at(tmp_path, EMBEDDING | head)
    if scale == 1:
        found = match(adapter, entries(e=(6, 4)), TIED)
        assert len(found.params["e.weight"]) == 1
        assert found.names == {"e.weight": "e.weight", "h.weight": "e.weight"}
    else:
        with pytest.raises(UnsupportedFormat, match="two ways"):
            match(adapter, entries(e=(6, 4)), TIED)


def test_trained_rows_and_factors_of_one_embedding(tmp_path):
    rows = {f"{PREFIX}e.token_adapter.trainable_tokens_delta": torch.ones(1, 4)}
    adapter = adapter_at(tmp_path, EMBEDDING | rows, trainable_token_indices={"e": [2]})
    with pytest.raises(UnsupportedFormat, match="two ways"):
        match(adapter, entries(e=(6, 4)), {})


def test_integers_that_the_base_lacks_are_new(tmp_path):
    buffers = {f"{PREFIX}bn.num_batches_tracked": torch.tensor(7)}
    adapter = adapter_at(tmp_path, Q | buffers, modules_to_save=["bn"])
    new = match(adapter, entries(q=(4, 4)), {}).new
    assert new["bn.num_batches_tracked"].kind == "replace"
    assert new["bn.num_batches_tracked"].values().bits.tolist() == [7]


def test_an_adapter_that_only_brings_modules_whole(tmp_path):
    adapter = adapter_at(tmp_path, {f"{PREFIX}a.h.weight": torch.ones(3, 4)}, modules_to_save=["h"])
    found = match(adapter, entries(h=(3, 4)), {})
    assert (found.prefix, list(found.replaced)) == ("a.", ["h.weight"])
    with pytest.raises(BaseMismatch):
        match(adapter, entries(x=(3, 4)), {})


def test_the_deltas_are_the_factors_as_found(tmp_path):
    adapter = adapter_at(tmp_path, EMBEDDING)
    delta = match(adapter, entries(e=(6, 4)), {}).params["e.weight"][0]
    assert delta.factor("a").same_bits(ours(EMBEDDING[f"{PREFIX}e.lora_embedding_A"]))
    left, right = delta.matrices()
    expected = EMBEDDING[f"{PREFIX}e.lora_embedding_B"] @ EMBEDDING[f"{PREFIX}e.lora_embedding_A"]
    assert np.array_equal(left @ right, expected.T.numpy())

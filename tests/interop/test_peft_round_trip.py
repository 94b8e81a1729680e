"""Adapters that PEFT made, through a repository and back, against PEFT's own merge and logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltavc.errors import BaseMismatch, UnsupportedFormat

from .conftest import (  # type: ignore[import-not-found]
    Convolutions,
    Desk,
    answer,
    bert,
    gpt2,
    llama,
    peft,
    same,
    tensors_of,
    torch,
    trained,
    transformers,
)

pytestmark = pytest.mark.interop

LINEAR = ["query", "value", "dense"]
PATTERNS = {
    "rank_pattern": {"layer.0.attention.self.query": 2, "^pooler.dense": 5},
    "alpha_pattern": {"output.dense": 3, "query": 16},
}
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "plain": (bert, {"r": 4, "lora_alpha": 6, "target_modules": LINEAR}),
    "rslora": (bert, {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": LINEAR}),
    "patterns": (bert, {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, **PATTERNS}),
    "conv1d": (gpt2, {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "embedding": (llama, {"r": 4, "target_modules": ["embed_tokens", "q_proj"]}),
    "head": (llama, {"r": 2, "target_modules": ["q_proj", "lm_head"]}),
    "tied": (lambda: llama(tied=True), {"r": 2, "target_modules": ["embed_tokens", "v_proj"]}),
    "conv": (Convolutions, {"r": 2, "target_modules": ["one", "two", "head"]}),
    "conv-norm": (
        Convolutions,
        {"r": 2, "target_modules": ["one", "head"], "modules_to_save": ["norm"]},
    ),
    "saved": (bert, {"r": 2, "target_modules": ["query"], "modules_to_save": ["pooler"]}),
    "saved-head": (
        lambda: bert("BertForSequenceClassification", num_labels=3),
        {"r": 2, "target_modules": ["query"], "task_type": "SEQ_CLS"},
    ),
    "saved-embedding": (
        llama,
        {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "bias-all": (bert, {"r": 2, "target_modules": ["query"], "bias": "all"}),
    "bias-lora": (bert, {"r": 2, "target_modules": ["query"], "bias": "lora_only"}),
    "tokens": (
        llama,
        {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [9, 3, 27]},
    ),
    "tokens-tied": (
        lambda: llama(tied=True),
        {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [9, 3, 27]},
    ),
}

QUICK = ("patterns", "conv1d", "embedding", "conv-norm", "saved-head", "bias-all", "tokens-tied")


def exact_merge(make: Callable[[], Any], adapter: Path, dtype: Any) -> dict[str, Any]:
    """Returns PEFT's merge in float64 of a base that was saved in another dtype."""
    model = make().to(dtype).double()
    model = peft.PeftModel.from_pretrained(model, adapter).double()
    return dict(model.merge_and_unload().state_dict())


def ulp(value: Any) -> Any:
    """Returns the distance to the neighbour that is further from zero, in float64."""
    bits = {2: torch.int16, 4: torch.int32}[value.element_size()]
    magnitude = value.abs()
    above = (magnitude.view(bits) + 1).view(value.dtype)
    return above.double() - magnitude.double()


def assert_rounded(found: Any, wanted: Any, name: str) -> None:
    """Checks that a tensor is a float64 one rounded to nearest."""
    if not found.dtype.is_floating_point:
        assert torch.equal(found, wanted.to(found.dtype)), name
        return
    error = (found.double() - wanted).abs()
    assert torch.all(error <= ulp(found) * 0.5 * (1 + 1e-9) + wanted.abs() * 1e-14), name
    if found.dtype is torch.float32:  # a float64 cast rounds right here: the bits are the same
        assert torch.equal(found, wanted.float()), name


@pytest.mark.parametrize("case", CASES)
def test_the_model_is_the_rounded_sum(desk: Desk, case: str) -> None:
    make, config = CASES[case]
    dtype = torch.float32 if case in ("plain", "conv", "conv-norm") else torch.bfloat16
    desk.base(make().to(dtype))
    source = desk.adapter(lambda: make().to(dtype), **config)
    done = desk.commit(source)
    assert done.source == "peft"
    assert done.exact
    found = desk.repo.load()
    assert same(found, tensors_of(desk.out()))
    wanted = exact_merge(make, source, dtype)
    compared = {name for name in found if name in wanted}
    assert compared == set(found)
    for name in compared:
        assert_rounded(found[name], wanted[name], name)
    changed = sum(not torch.equal(found[n], v) for n, v in make().to(dtype).state_dict().items()
                  if n in found)  # fmt: skip
    assert changed == done.parameters


@pytest.mark.parametrize(
    "case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
)
def test_it_goes_out_as_it_came(desk: Desk, case: str) -> None:
    make, config = CASES[case]
    desk.base(make())
    source = desk.adapter(make, **config)
    desk.commit(source)
    out = desk.out(form="peft")
    given, found = tensors_of(source), tensors_of(out)
    copies = {name for name in given if name.endswith(".base_layer.weight")}
    assert same(found, {n: t for n, t in given.items() if n not in copies})
    loaded = peft.PeftModel.from_pretrained(make(), out)
    reference = peft.PeftModel.from_pretrained(make(), source)
    assert torch.equal(answer(loaded), answer(reference))
    assert not torch.equal(answer(loaded), answer(make()))


def test_a_second_round_trip_changes_nothing(desk: Desk) -> None:
    make, config = CASES["patterns"]
    desk.base(make())
    desk.commit(desk.adapter(make, **config))
    out = desk.out(form="peft")
    again = desk.commit(out, "the same once more")
    assert not again.changed
    assert desk.repo.resolve("HEAD") == again.commit


def test_a_new_head_on_a_bare_encoder(desk: Desk) -> None:
    def classifier() -> Any:
        model = bert("BertForSequenceClassification", num_labels=3)
        model.bert.load_state_dict(bert().state_dict())
        return model

    desk.base(bert())
    source = desk.adapter(classifier, r=2, target_modules=["query"], task_type="SEQ_CLS")
    done = desk.commit(source)
    assert {row.kind: row.parameters for row in done.kinds}["new"] == 2
    reference = peft.PeftModel.from_pretrained(classifier(), source)
    out = desk.out(form="peft")
    assert same(tensors_of(out), tensors_of(source))
    assert torch.equal(answer(peft.PeftModel.from_pretrained(classifier(), out)), answer(reference))
    full = transformers.AutoModelForSequenceClassification.from_pretrained(
        desk.out(), num_labels=3
    ).eval()
    merged = exact_merge(classifier, source, torch.float32)
    for name, tensor in full.state_dict().items():
        assert_rounded(tensor, merged[name], name)


@pytest.mark.parametrize(
    ("case", "alpha"),
    [("plain", 5), ("conv1d", 4), ("embedding", 5), ("conv", 4)]
    + [
        pytest.param(case, alpha, marks=pytest.mark.slow)
        for case, alpha in (("plain", 4), ("conv1d", 5), ("embedding", 4), ("conv", 5))
    ],
)
def test_two_stacked_adapters_go_out_as_one(desk: Desk, case: str, alpha: int) -> None:
    make, config = CASES[case]
    desk.base(make())
    # 2 and 1/2, which fit into the factors; or with 5 / 3, which take a higher rank
    config = {**config, "lora_alpha": 2 * config["r"]}
    first = desk.adapter(make, **config)
    second_config = {**config, "r": 8 if alpha == 4 else 3, "lora_alpha": alpha}
    second_folder = desk.folder("adapter")
    trained(make(), seed=8, **second_config).save_pretrained(second_folder)
    desk.commit(first)
    desk.commit(second_folder, stack=True)
    one = exact_merge(make, first, torch.float32)
    two = exact_merge(make, second_folder, torch.float32)
    base = {n: t.double() for n, t in make().state_dict().items()}
    out = desk.out(form="peft")
    ranks = json.loads((out / "adapter_config.json").read_text())
    assert (ranks["r"] == config["r"] + second_config["r"]) is (alpha == 4)
    both = exact_merge(make, out, torch.float32)
    found = desk.repo.load()
    for name, tensor in found.items():
        wanted = one[name].double() + two[name] - base[name]
        assert torch.allclose(both[name].double(), wanted, rtol=0, atol=1e-12), name
        assert_rounded(tensor, wanted, name)
    model = peft.PeftModel.from_pretrained(make(), out)
    reference = peft.PeftModel.from_pretrained(make(), first, adapter_name="one")
    reference.load_adapter(second_folder, adapter_name="two")
    reference.base_model.set_adapter(["one", "two"])
    assert torch.allclose(answer(model), answer(reference), atol=1e-5)


def test_a_lora_on_the_head_of_a_stack(desk: Desk) -> None:
    """A stack whose first adapter saves a module whole still goes out as one adapter."""
    make = bert
    desk.base(make())
    first = desk.adapter(make, r=2, target_modules=["query"], modules_to_save=["pooler"])
    desk.commit(first)
    desk.commit(desk.adapter(make, seed=9, r=3, target_modules=["value"]), stack=True)
    out = desk.out(form="peft")
    loaded = peft.PeftModel.from_pretrained(make(), out).merge_and_unload().state_dict()
    for name, tensor in desk.repo.load().items():
        assert torch.allclose(loaded[name], tensor, atol=1e-6), name


def test_a_revert_of_one_of_two_gives_the_other_back_as_it_came(desk: Desk) -> None:
    make, config = CASES["plain"]
    desk.base(make())
    first = desk.adapter(make, **config)
    desk.commit(first)
    middle = desk.adapter(make, seed=8, r=2, target_modules=["query"])
    desk.commit(middle, stack=True)
    desk.repo.revert(["HEAD"])
    out = desk.out(form="peft")
    assert same(tensors_of(out), tensors_of(first))
    assert json.loads((out / "adapter_config.json").read_text())["lora_alpha"] == 6


def test_a_checkpoint_does_not_go_out_as_an_adapter(desk: Desk) -> None:
    desk.base(bert())
    tuned = bert()
    with torch.no_grad():
        tuned.pooler.dense.weight.mul_(1.01)
    folder = desk.folder()
    tuned.save_pretrained(folder)
    desk.commit(folder)
    with pytest.raises(UnsupportedFormat, match=r"pooler\.dense\.weight"):
        desk.out(form="peft")


def test_an_adapter_of_another_model_is_refused_and_changes_nothing(desk: Desk) -> None:
    desk.base(bert())
    before = len(desk.repo.operations())
    with pytest.raises(BaseMismatch):
        desk.commit(desk.adapter(llama, r=2, target_modules=["q_proj"]))
    assert len(desk.repo.operations()) == before
    assert desk.repo.fsck().ok


def test_a_merged_lora_is_found_out_of_a_checkpoint(desk: Desk) -> None:
    def wide() -> Any:
        torch.manual_seed(1)
        config = transformers.BertConfig(
            vocab_size=40, hidden_size=128, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=256, max_position_embeddings=16,
        )  # fmt: skip
        return transformers.BertModel(config).eval()

    desk.base(wide())
    model = trained(wide(), r=4, size=0.05, target_modules=["query", "value", "intermediate.dense"])
    folder = desk.folder("merged")
    model.merge_and_unload().save_pretrained(folder)
    plan = desk.commit(folder, dry_run=True)
    rows = {row.kind: row for row in plan.kinds}
    assert rows["low-rank + correction"].parameters == 3
    assert rows["low-rank + correction"].rank_max == 4
    assert plan.commit is None
    done = desk.commit(folder)
    assert done.exact
    assert done.bytes_stored < plan.model_bytes / 4
    assert same(desk.repo.load(), tensors_of(folder))

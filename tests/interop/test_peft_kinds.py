"""Adapters of every kind, through a repository and back, against PEFT's own merge and logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deltavc.errors import UnsupportedFormat, UsageError
from deltavc.formats.peft_kinds import KINDS

from .conftest import (  # type: ignore[import-not-found]
    Desk,
    answer,
    llama,
    peft,
    same,
    tensors_of,
    torch,
)
from .kinds import CASES, adapted, bert  # type: ignore[import-not-found]

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def desks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Desk]:
    """Gives a repository on a model's base; the same one to all who ask for the same."""
    known: dict[tuple[Any, Any], Desk] = {}

    def desk_of(make: Callable[[], Any], dtype: Any = torch.float32) -> Desk:
        if (make, dtype) not in known:
            found = known[make, dtype] = Desk(tmp_path_factory.mktemp("desk"))
            found.base(make().to(dtype))
        return known[make, dtype]

    return desk_of


def saved(desk: Desk, case: str, *, seed: int = 7, dtype: Any = None) -> Path:
    """Saves an adapter of a kind."""
    make, config = CASES[case]
    folder: Path = desk.folder("adapter")
    adapted(make, config, seed=seed, dtype=dtype).save_pretrained(folder)
    return folder


def exact_merge(make: Callable[[], Any], adapter: Path, dtype: Any) -> dict[str, Any]:
    """Returns PEFT's merge in float64 of a base that was saved in another dtype."""
    model = peft.PeftModel.from_pretrained(make().to(dtype).double(), adapter).double()
    merged = model.merge_and_unload().state_dict()
    # PEFT forgets to unwrap modules_to_save when it merges layer norms
    return {name.replace(".modules_to_save.default", ""): value for name, value in merged.items()}


def ulp(value: Any) -> Any:
    bits = {2: torch.int16, 4: torch.int32}[value.element_size()]
    magnitude = value.abs()
    return ((magnitude.view(bits) + 1).view(value.dtype)).double() - magnitude.double()


def assert_rounded(found: Any, wanted: Any, name: str, *, relative: float = 1e-12) -> None:
    """Checks that a tensor is a float64 one rounded to nearest.

    PEFT's float64 has an error of its own: 1e-12 of the tensor's size is 5000 times
    that of a sum of a few dozen terms, and 20000 times less than a float32 tells.
    DoRA's gains are kept with 36 bits, an error of 7e-12.
    """
    error = (found.double() - wanted).abs()
    slack = float(wanted.abs().max()) * relative
    assert torch.all(error <= ulp(found) / 2 + slack), name


def error_of(case: str) -> float:
    return 1.5e-11 if case.startswith("dora") else 1e-12


@pytest.mark.parametrize("case", CASES)
def test_in_and_out(desks: Callable[..., Desk], case: str) -> None:
    """The model is PEFT's merge rounded once, and the adapter goes out as it came."""
    make, _ = CASES[case]
    desk = desks(make)
    source = saved(desk, case)
    done = desk.commit(source)
    assert done.source == "peft"
    assert done.exact
    found, before = desk.repo.load(), make().state_dict()
    wanted = exact_merge(make, source, torch.float32)
    assert set(found) <= set(wanted)
    for name, tensor in found.items():
        if tensor.is_floating_point():
            assert_rounded(tensor, wanted[name], name, relative=error_of(case))
    changed = {name for name, tensor in found.items() if not torch.equal(tensor, before[name])}
    assert 0 < len(changed) <= done.parameters  # a scaled bias of zeros stays what it is
    out = desk.out(form="peft")
    given, written = tensors_of(source), tensors_of(out)
    copies = {name for name in given if name.endswith(".base_layer.weight")}
    assert same(written, {name: t for name, t in given.items() if name not in copies})
    read = [json.loads((f / "adapter_config.json").read_text()) for f in (source, out)]
    assert read[0] == read[1]
    loaded = answer(peft.PeftModel.from_pretrained(make(), out))
    assert torch.equal(loaded, answer(peft.PeftModel.from_pretrained(make(), source)))


HALF = ("dora", "ia3", "loha", "oft", "boft", "hra", "experts")


@pytest.mark.parametrize("case", HALF)
def test_bfloat16_is_rounded_right(desks: Callable[..., Desk], case: str) -> None:
    make, _ = CASES[case]
    desk = desks(make, torch.bfloat16)
    source = saved(desk, case, dtype=torch.bfloat16)
    desk.commit(source)
    found, wanted = desk.repo.load(), exact_merge(make, source, torch.bfloat16)
    assert same(found, tensors_of(desk.out()))
    for name, tensor in found.items():
        assert_rounded(tensor, wanted[name], name, relative=error_of(case))
        half = wanted[name].float()  # at a bfloat16's midpoint only the float64 tells
        sure = half.view(torch.int32) & 0xFFFF != 0x8000
        assert torch.equal(tensor[sure], half.to(torch.bfloat16)[sure]), name


def test_what_is_stored_is_no_larger_than_the_adapter(desk: Desk) -> None:
    """At most 5 % more, of an adapter that is more than a few kilobytes."""
    model = bert(768)
    wide = partial(deepcopy, model)
    desk.base(model)
    for case in SIZED:
        folder = desk.folder("adapter")
        adapted(wide, CASES[case][1], seed=5).save_pretrained(folder)
        names = ("adapter_config.json", "adapter_model.safetensors")
        given = sum((folder / name).stat().st_size for name in names)
        assert desk.commit(folder).bytes_stored <= 1.05 * given, case


SIZED = (
    "dora", "dora-thin", "lora-bias", "adalora", "ia3", "loha", "lokr", "oft", "coft", "boft",
    "hra", "hra-orthogonal", "vera", "ln",
)  # fmt: skip


@pytest.mark.parametrize("other", ["dora", "lora", "ia3"])
def test_two_on_one_module_add_up_in_any_order(desk: Desk, other: str) -> None:
    """Each is a change of the base: the sum is the base and both, rounded once."""
    make = bert
    desk.base(make())
    one = saved(desk, "dora")
    two = desk.folder("adapter")
    configs = {"lora": lambda: peft.LoraConfig(r=2, target_modules=["query", "key"])}
    adapted(make, configs.get(other) or CASES[other][1], seed=9).save_pretrained(two)
    models = []
    for first, second in ((one, two), (two, one)):
        desk.commit(first)
        desk.commit(second, stack=True)
        models.append(desk.repo.load())
    assert same(models[0], models[1])
    before = {name: t.double() for name, t in make().state_dict().items()}
    merged = [exact_merge(make, folder, torch.float32) for folder in (one, two)]
    for name, tensor in models[0].items():
        wanted = merged[0][name] + merged[1][name] - before[name]
        assert_rounded(tensor, wanted, name, relative=3e-11)
    with pytest.raises(UnsupportedFormat) as caught:
        desk.out(form="peft")
    assert caught.value.exit_code == 45
    assert any("query.weight" in name for name in caught.value.context["parameters"])


def test_taking_one_of_two_away_gives_the_other_back(desk: Desk) -> None:
    desk.base(bert())
    source = saved(desk, "ia3")
    desk.commit(source)
    desk.commit(saved(desk, "oft", seed=8), stack=True)
    desk.repo.revert(["HEAD"])
    assert same(tensors_of(desk.out(form="peft")), tensors_of(source))


def test_a_lora_beside_another_kind_goes_out_alone_or_not_at_all(desk: Desk) -> None:
    desk.base(bert())
    lora = desk.adapter(bert, r=2, target_modules=["value"])
    desk.commit(saved(desk, "vera"))
    desk.commit(lora, stack=True)
    with pytest.raises(UnsupportedFormat, match=r"no LoRA can say that") as caught:
        desk.out(form="peft")
    assert not any("value" in name for name in caught.value.context["parameters"])
    desk.repo.revert(["HEAD~1"])
    assert same(tensors_of(desk.out(form="peft")), tensors_of(lora))


def test_a_part_of_an_adapter_is_none(desk: Desk) -> None:
    desk.base(bert())
    desk.commit(saved(desk, "hra"), params=["*.query.*"])
    with pytest.raises(UnsupportedFormat, match="not one adapter"):
        desk.out(form="peft")


def test_a_rank_is_not_bounded_in_what_goes_out_as_it_came(desk: Desk) -> None:
    desk.base(bert())
    desk.commit(saved(desk, "dora"))
    with pytest.raises(UnsupportedFormat, match="cannot be bounded"):
        desk.out(form="peft", max_rank=2)


PROMPTS: dict[str, dict[str, Any]] = {
    "PromptTuning": {"num_virtual_tokens": 3},
    "PrefixTuning": {"num_virtual_tokens": 3},
    "PromptEncoder": {"num_virtual_tokens": 3},
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_a_prompt_is_carried_and_given_back(desk: Desk, kind: str) -> None:
    desk.base(llama())
    desk.commit(desk.adapter(llama, r=2, target_modules=["q_proj"]))
    config = getattr(peft, f"{kind}Config")(task_type="CAUSAL_LM", **PROMPTS[kind])
    source = desk.folder("adapter")
    peft.get_peft_model(llama(), config).save_pretrained(source)
    done = desk.commit(source, "a prompt")
    assert done.parameters == 0  # a commit says what the model is: the LoRA is gone
    out = desk.out(form="peft")
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (source / name).read_bytes()
    loaded = peft.PeftModel.from_pretrained(llama(), out)
    assert torch.equal(answer(loaded), answer(peft.PeftModel.from_pretrained(llama(), source)))
    for write in (lambda: desk.out(), desk.repo.load):
        with pytest.raises(UnsupportedFormat, match=str(config.peft_type.value)) as caught:
            write()
        assert "--as peft" in caught.value.hint


def test_nothing_is_stacked_on_a_prompt_or_with_one(desk: Desk) -> None:
    desk.base(llama())
    lora = desk.adapter(llama, r=2, target_modules=["q_proj"])
    prompt = desk.folder("adapter")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(llama(), config).save_pretrained(prompt)
    desk.commit(lora)
    with pytest.raises(UsageError, match="PROMPT_TUNING"):
        desk.commit(prompt, stack=True)
    desk.commit(prompt)
    with pytest.raises(UsageError, match="HEAD carries"):
        desk.commit(lora, stack=True)
    desk.repo.revert(["HEAD"])
    assert same(tensors_of(desk.out(form="peft")), tensors_of(lora))


def test_pruned_ranks_of_adalora(desk: Desk) -> None:
    """Modules that lost ranks keep the scale of the first one; one that lost all is unchanged."""
    desk.base(bert())
    model = adapted(bert, CASES["adalora"][1])
    pattern = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_E"):
            kept = [False] * 4 if name.endswith("key") else [True, False, True, False]
            pattern[f"{name.removeprefix('base_model.model.')}.lora_E.default"] = kept
    model.peft_config["default"].rank_pattern = pattern
    source = desk.folder("adapter")
    model.save_pretrained(source)
    desk.commit(source)
    wanted = exact_merge(bert, source, torch.float32)
    for name, tensor in desk.repo.load().items():
        assert_rounded(tensor, wanted[name], name)
    assert same(tensors_of(desk.out(form="peft")), tensors_of(source))


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_the_installed_peft_is_decided(kind: str) -> None:
    """Each is read, harmless or refused by its name; none is refused as unknown."""
    needed = {"ADALORA": {"total_step": 10}}.get(kind, {})
    fields = peft.peft_model.PEFT_TYPE_TO_CONFIG_MAPPING[kind](**needed).to_dict()
    told = {field: refusal(kind, field) for field in {*fields, "a_flag_of_tomorrow"}}
    unknown = {field for field, why in told.items() if "does not know" in why}
    assert unknown == {"a_flag_of_tomorrow"}


def refusal(kind: str, field: str) -> str:
    """Returns why a config with a field set is refused; "" if it is not."""
    config = {"oft_block_size": 4, "peft_version": "0.21.2"} if kind == "OFT" else {}
    try:
        KINDS[kind].read({"peft_type": kind, **config, field: {"x": 1}})
    except UnsupportedFormat as error:
        return str(error)
    return ""

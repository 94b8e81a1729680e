"""Adapters of every kind, through a repository and back, against PEFT's own merge and logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Desk, answer, peft, same, tensors_of, torch  # type: ignore[import-not-found]
from .kinds import CASES, adapted  # type: ignore[import-not-found]

pytestmark = pytest.mark.interop


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
def test_the_model_is_peft_s_merge_rounded_once(desk: Desk, case: str) -> None:
    make, _ = CASES[case]
    desk.base(make())
    source = saved(desk, case)
    done = desk.commit(source)
    assert done.source == "peft"
    assert done.exact
    found = desk.repo.load()
    assert same(found, tensors_of(desk.out()))
    wanted = exact_merge(make, source, torch.float32)
    before = make().state_dict()
    assert set(found) <= set(wanted)
    for name, tensor in found.items():
        if tensor.is_floating_point():
            assert_rounded(tensor, wanted[name], name, relative=error_of(case))
    changed = {name for name, tensor in found.items() if not torch.equal(tensor, before[name])}
    assert 0 < len(changed) <= done.parameters  # a scaled bias of zeros stays what it is


@pytest.mark.parametrize("case", CASES)
def test_it_goes_out_as_it_came(desk: Desk, case: str) -> None:
    make, _ = CASES[case]
    desk.base(make())
    source = saved(desk, case)
    desk.commit(source)
    out = desk.out(form="peft")
    given, found = tensors_of(source), tensors_of(out)
    copies = {name for name in given if name.endswith(".base_layer.weight")}
    assert same(found, {name: t for name, t in given.items() if name not in copies})
    read = [json.loads((f / "adapter_config.json").read_text()) for f in (source, out)]
    assert read[0] == read[1]
    loaded = answer(peft.PeftModel.from_pretrained(make(), out))
    assert torch.equal(loaded, answer(peft.PeftModel.from_pretrained(make(), source)))
    assert not torch.equal(loaded, answer(make()))

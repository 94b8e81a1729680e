"""Merges of prompts, which act beside the weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from deltavc.errors import UsageError

from .conftest import Lab, read_model, write_model  # type: ignore[import-not-found]

Q = "layers.0.q"
NOTES = {"notes.json": '{"a": 1}'}


def prompt(lab: Lab) -> Path:
    """Writes a PEFT folder of a prompt."""
    folder: Path = lab.folder()
    folder.mkdir()
    values = lab.rng.normal(size=(3, 8)).astype("f4")
    save_file({"prompt_embeddings": values}, folder / "adapter_model.safetensors")
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def fork(lab: Lab, ours: Path, theirs: Path) -> None:
    """Makes branches main and side from the base itself; stands on main."""
    lab.commit(lab.base_folder, "the base itself")
    lab.repo.switch("side", create=True)
    lab.commit(theirs, "theirs")
    lab.repo.switch("main")
    lab.commit(ours, "ours")


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("strategy", [None, "sum", "ours"])
def test_a_prompt_does_not_meet_changed_weights(lab: Lab, ours: bool, strategy: str | None) -> None:
    sides = [prompt(lab), lab.lora(Q)]
    fork(lab, *(sides if ours else reversed(sides)))
    before = lab.repo.resolve("HEAD")
    for dry in (True, False):
        with pytest.raises(UsageError, match=r"PROMPT_TUNING.*beside weights") as caught:
            lab.repo.merge(["side"], strategy=strategy, dry_run=dry)
    assert f"deltavc checkout {'HEAD' if ours else 'side'} --to" in caught.value.hint
    assert lab.repo.resolve("HEAD") == before


def test_of_two_prompts_none_is_dropped(lab: Lab) -> None:
    fork(lab, prompt(lab), prompt(lab))
    with pytest.raises(UsageError, match=r"'side' carries.*as another side's does"):
        lab.repo.merge(["side"])


def test_a_prompt_meets_what_leaves_the_weights_alone(lab: Lab, tmp_path: Path) -> None:
    source = prompt(lab)
    fork(lab, source, write_model(lab.folder(), lab.base, **NOTES))
    done = lab.repo.merge(["side"])
    assert done.kind == "merge"
    out = tmp_path / "out"
    lab.repo.checkout("HEAD", to=out, form="peft")
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (source / name).read_bytes()


def test_a_prompt_that_one_side_replaced_by_weights_is_gone(lab: Lab, tmp_path: Path) -> None:
    lab.commit(prompt(lab), "a prompt")
    lab.repo.switch("side", create=True)
    lab.commit(lab.lora(Q), "weights instead")
    lab.repo.switch("main")
    lab.commit(write_model(lab.folder(), lab.base, **NOTES), "a file")
    lab.repo.merge(["side"])
    lab.repo.checkout("HEAD", to=tmp_path / "out")
    changed = read_model(tmp_path / "out")[f"{Q}.weight"]
    assert not np.array_equal(changed, lab.base[f"{Q}.weight"])

"""Checkpoints that transformers saved: the same tensors under the same names, loaded again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from deltavc.errors import BaseMismatch, UnsafeFile

from .conftest import (  # type: ignore[import-not-found]
    Desk,
    answer,
    bert,
    llama,
    same,
    save,
    tensors_of,
    torch,
    transformers,
)

pytestmark = pytest.mark.interop


def tuned(model: Any, size: float = 1e-2, seed: int = 5) -> Any:
    """Changes every floating-point weight a little, as a full fine-tune does."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return model


def check(desk: Desk, folder: Path, **options: Any) -> Path:
    """Commits a folder and checks that checkout and load give the same tensors back."""
    done = desk.commit(folder, **options)
    assert done.exact
    out = desk.out(verify=True)
    assert same(tensors_of(out), tensors_of(folder))
    assert same(desk.repo.load(), tensors_of(folder))
    return out


def loads_as(out: Path, model: Any, auto: Any = None, **options: Any) -> None:
    auto = auto or transformers.AutoModelForCausalLM
    loaded, info = auto.from_pretrained(out, output_loading_info=True, **options)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(answer(loaded), answer(model))


def test_a_single_file_and_its_config(desk: Desk) -> None:
    desk.base(llama())
    model = tuned(llama())
    loads_as(check(desk, save(model, desk.folder())), model)


def test_shards_stay_shards(desk: Desk) -> None:
    base = desk.folder("base")
    llama().save_pretrained(base, max_shard_size="8KB")
    desk.base(base)
    assert len(list(base.glob("*.safetensors"))) > 2
    model = tuned(llama())
    folder = desk.folder()
    model.save_pretrained(folder, max_shard_size="8KB")
    out = check(desk, folder)
    names = {p.name for p in folder.iterdir()}
    assert {p.name for p in out.iterdir()} == {*names, "deltavc.json"}
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == json.loads(
        (folder / "model.safetensors.index.json").read_text()
    )["weight_map"]  # fmt: skip
    loads_as(out, model)
    whole = save(tuned(llama(), seed=6), desk.folder())
    loads_as(check(desk, whole), tuned(llama(), seed=6))


def test_a_lone_file_without_its_folder(desk: Desk) -> None:
    desk.base(llama())
    model = tuned(llama())
    folder = save(model, desk.folder())
    alone = desk.folder()
    alone.mkdir()
    shutil.copy(folder / "model.safetensors", alone / "weights.safetensors")
    desk.commit(alone / "weights.safetensors")
    assert same(desk.repo.load(), tensors_of(folder))
    loads_as(desk.out(), model)


def test_tied_weights_without_the_head_in_the_file(desk: Desk) -> None:
    desk.base(llama(tied=True))
    model = tuned(llama(tied=True))
    folder = save(model, desk.folder())
    assert "lm_head.weight" not in tensors_of(folder)
    loads_as(check(desk, folder), model)


def test_tied_weights_that_the_files_hold_twice(desk: Desk) -> None:
    def twice(model: Any) -> Path:
        folder = save(model, desk.folder())
        tensors = tensors_of(folder)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    desk.base(twice(llama(tied=True)))
    model = tuned(llama(tied=True))
    loads_as(check(desk, twice(model)), model)
    source = desk.adapter(lambda: llama(tied=True), r=2, target_modules=["embed_tokens"])
    desk.commit(source)
    found = desk.repo.load()
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert not torch.equal(
        found["lm_head.weight"], llama(tied=True).state_dict()["model.embed_tokens.weight"]
    )


def test_a_tied_head_that_only_the_checkpoint_stores_goes_out_once(desk: Desk) -> None:
    desk.base(llama(tied=True))
    model = tuned(llama(tied=True))
    folder = save(model, desk.folder())
    tensors = tensors_of(folder)
    twice = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(twice, folder / "model.safetensors", metadata={"format": "pt"})
    desk.commit(folder)
    assert same(desk.repo.load(), tensors)
    loads_as(desk.out(), model)


def test_a_head_that_was_untied(desk: Desk) -> None:
    desk.base(llama(tied=True))
    model = tuned(llama(tied=False))
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(llama(tied=True).model.embed_tokens.weight)
    out = check(desk, save(model, desk.folder()))
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    loads_as(out, model)


def test_a_task_model_of_a_bare_base(desk: Desk) -> None:
    desk.base(bert())
    model = tuned(bert("BertForSequenceClassification", num_labels=3))
    folder = save(model, desk.folder())
    done = desk.commit(folder, dry_run=True)
    assert {row.kind: row.parameters for row in done.kinds}["new"] == 2
    out = check(desk, folder)
    loads_as(out, model, transformers.AutoModelForSequenceClassification)
    again = desk.commit(out)
    assert not again.changed


def test_a_frozen_encoder_costs_its_head_alone(desk: Desk) -> None:
    desk.base(bert())
    model = bert("BertForSequenceClassification", num_labels=3)
    model.bert.load_state_dict(bert().state_dict())
    folder = save(model, desk.folder())
    done = desk.commit(folder)
    assert done.parameters == 2
    assert same(tensors_of(desk.out()), tensors_of(folder))


def test_another_dtype_than_the_base(desk: Desk) -> None:
    desk.base(llama())
    model = tuned(llama()).to(torch.bfloat16)
    out = check(desk, save(model, desk.folder()))
    assert {t.dtype for t in tensors_of(out).values()} == {torch.bfloat16}
    loads_as(out, model, dtype=torch.bfloat16)


def test_a_resized_embedding(desk: Desk) -> None:
    desk.base(llama())
    model = tuned(llama())
    model.resize_token_embeddings(44)
    out = check(desk, save(model, desk.folder()))
    assert tensors_of(out)["lm_head.weight"].shape == (44, 16)
    loads_as(out, model)


def test_another_model_is_refused(desk: Desk) -> None:
    desk.base(bert())
    with pytest.raises(BaseMismatch, match="shares no parameter"):
        desk.commit(save(llama(), desk.folder()))
    assert desk.repo.branches()[0].commit is None


def test_a_pickle_needs_permission(desk: Desk) -> None:
    desk.base(bert())
    model = tuned(bert())
    folder = save(model, desk.folder())
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UnsafeFile):
        desk.commit(folder)
    desk.commit(folder, allow_pickle=True)
    wanted = model.state_dict()
    assert same(desk.repo.load(), {n: wanted[n] for n in desk.repo.load()})


def test_tokenizer_and_config_go_along(desk: Desk) -> None:
    base = save(bert(), desk.folder("base"))
    (base / "tokenizer.json").write_text('{"version": "1.0"}')
    (base / "old.txt").write_text("only in the base")
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling/config.json").write_text('{"pooling": "mean"}')
    desk.base(base)
    folder = save(tuned(bert()), desk.folder())
    (folder / "tokenizer.json").write_text('{"version": "1.1"}')
    (folder / "added_tokens.json").write_text("{}")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling": "cls"}')
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense/config.json").write_text("{}")
    out = check(desk, folder)

    def files(where: Path) -> dict[str, bytes]:
        return {
            p.relative_to(where).as_posix(): p.read_bytes()
            for p in where.rglob("*")
            if p.is_file() and p.suffix != ".safetensors" and p.name != "deltavc.json"
        }

    assert files(out) == files(folder)
    shown = desk.repo.show("HEAD").commit
    assert shown is not None
    assert set(shown.files) >= {"tokenizer.json", "added_tokens.json", "old.txt"}

"""Models and tokenizers from revisions, and a Trainer whose checkpoints are recorded."""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from deltavc.errors import BaseMismatch, MissingExtra, UsageError
from deltavc.integrations.transformers import DeltavcCallback, load_pretrained

from .conftest import (  # type: ignore[import-not-found]
    Desk,
    answer,
    bert,
    gpt2,
    llama,
    peft,
    same,
    save,
    torch,
    transformers,
)

pytestmark = pytest.mark.interop


def loaded_from_disk(desk: Desk, rev: str = "HEAD", auto: Any = None, **options: Any) -> Any:
    auto = auto or transformers.AutoModelForCausalLM
    return auto.from_pretrained(desk.out(rev), dtype="auto", **options)


@pytest.mark.parametrize(
    ("make", "modules"),
    [
        (llama, ["q_proj", "down_proj"]),
        (lambda: llama(tied=True), ["q_proj"]),
        (gpt2, ["c_attn"]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_what_its_folder_would_give(
    desk: Desk, make: Any, modules: list[str], dtype: str
) -> None:
    kind = getattr(torch, dtype)
    desk.base(make().to(kind))
    desk.commit(desk.adapter(lambda: make().to(kind), target_modules=modules, r=4))
    model, other = load_pretrained(desk.repo), loaded_from_disk(desk)
    assert type(model) is type(other)  # the class that the config names
    assert same(dict(model.state_dict()), dict(other.state_dict()))
    assert torch.equal(answer(model), answer(other))
    assert model.dtype is kind
    assert not model.training
    if model.config.tie_word_embeddings:
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    live = desk.repo.live(model, "HEAD")
    assert live.verify().ok


def test_revisions_a_class_and_options(desk: Desk) -> None:
    desk.base(bert())
    first = desk.commit(desk.adapter(bert, target_modules=["query"], r=2)).commit
    desk.commit(desk.adapter(bert, target_modules=["value"], r=2))
    old = load_pretrained(desk.repo, first)
    assert torch.equal(answer(old), answer(loaded_from_disk(desk, first, transformers.BertModel)))
    assert not torch.equal(answer(old), answer(load_pretrained(desk.repo, "main")))
    headed = load_pretrained(
        desk.repo, "main", transformers.AutoModelForSequenceClassification, num_labels=5
    )
    assert headed.config.num_labels == headed.classifier.out_features == 5
    plain = load_pretrained(desk.repo, "main", transformers.BertModel, dtype=torch.bfloat16)
    assert plain.dtype is torch.bfloat16
    model, info = load_pretrained(desk.repo, "main", output_loading_info=True)
    assert not info["missing_keys"]
    assert type(model).__name__ == "BertModel"


def test_weights_of_several_dtypes_keep_theirs(desk: Desk) -> None:
    model = llama().to(torch.bfloat16)
    model.model.norm.weight.data = model.model.norm.weight.data.float() + 1e-4
    desk.base(model)
    desk.commit(desk.adapter(lambda: llama().to(torch.bfloat16), target_modules=["q_proj"], r=2))
    found = load_pretrained(desk.repo)
    assert same(dict(found.state_dict()), desk.repo.load())
    assert found.model.norm.weight.dtype is torch.float32


def test_a_tokenizer_and_a_config_come_from_the_version(desk: Desk) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "pump": 1, "leaks": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = save(llama(), desk.folder())
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(
        folder
    )
    desk.base(folder)
    desk.commit(folder, "as it is")
    tuned = desk.folder()
    shutil.copytree(folder, tuned)
    config = json.loads((tuned / "config.json").read_text())
    (tuned / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))
    (tuned / "generation_config.json").write_text('{"max_new_tokens": 7}')
    desk.commit(tuned)
    tokenizer = load_pretrained(desk.repo, "HEAD", transformers.AutoTokenizer)
    assert tokenizer("pump leaks")["input_ids"] == [1, 2]
    tokenizer.save_pretrained(desk.folder())
    assert load_pretrained(desk.repo, "HEAD", transformers.AutoConfig).model_type == "llama"
    assert load_pretrained(desk.repo).generation_config.max_new_tokens == 7


def test_nothing_is_left_behind(desk: Desk, tmp_path: Path, monkeypatch: Any) -> None:
    import tempfile

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    desk.base(llama())
    desk.commit(desk.adapter(llama, target_modules=["q_proj"], r=2))
    load_pretrained(desk.repo)
    assert list(scratch.iterdir()) == []


def test_what_cannot_be_loaded_is_said(desk: Desk) -> None:
    desk.base(llama())
    desk.commit(desk.adapter(llama, target_modules=["q_proj"], r=2))
    with pytest.raises(UsageError):
        load_pretrained(desk.repo, state_dict={})
    with pytest.raises(UsageError):
        load_pretrained(desk.repo, "HEAD", torch.nn.Linear)
    odd = save(llama(), desk.folder())
    (odd / "config.json").write_text('{"model_type": "no-such-model", "hidden_size": 16}')
    desk.commit(odd)
    with pytest.raises(BaseMismatch) as found:
        load_pretrained(desk.repo)
    assert "config" in found.value.hint


def test_a_revision_without_a_config(desk: Desk) -> None:
    folder = save(llama(), desk.folder())
    (folder / "config.json").unlink()
    desk.base(folder)
    desk.commit(folder)
    with pytest.raises(BaseMismatch) as found:
        load_pretrained(desk.repo)
    assert "config.json" in found.value.message
    config = llama().config
    model = load_pretrained(desk.repo, "HEAD", transformers.AutoModelForCausalLM, config=config)
    assert torch.equal(answer(model), answer(llama()))


def test_without_transformers_it_says_what_to_install(monkeypatch: Any) -> None:
    import deltavc.integrations.transformers as module

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra) as found:
        importlib.reload(module)
    assert found.value.exit_code == 60
    assert "deltavc[adapt]" in found.value.hint
    monkeypatch.undo()
    importlib.reload(module)


# training ----------------------------------------------------------------------


class Tickets(torch.utils.data.Dataset):  # type: ignore[misc,name-defined]
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = torch.tensor([1 + index, 2, 3, 4])
        return {"input_ids": tokens, "labels": tokens}


def train(desk: Desk, model: Any, callback: Any, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(desk.folder("training")), max_steps=4, save_steps=2, eval_steps=2,
        eval_strategy="steps", logging_steps=1, per_device_train_batch_size=2, report_to=[],
        disable_tqdm=True, use_cpu=True, learning_rate=0.01, **options,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model.train(), args=arguments, train_dataset=Tickets(), eval_dataset=Tickets(),
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    return trainer


def test_each_checkpoint_of_a_full_training_becomes_a_commit(desk: Desk) -> None:
    desk.base(llama())
    start = desk.commit(save(llama(), desk.folder()), "the base itself").commit
    callback = DeltavcCallback(desk.repo, branch="training", labels={"data": "tickets"})
    trainer = train(desk, llama(), callback)
    assert callback.failures == []
    rows = desk.repo.log("training")
    assert [row.commit for row in rows] == [*reversed(callback.commits), start]
    shown = desk.repo.show(callback.commits[-1])
    assert shown.commit.message == "checkpoint at step 4, epoch 2"
    assert shown.commit.labels == {"data": "tickets", "step": "4", "epoch": "2"}
    measured = {m.kpi: m.value for m in shown.commit.measurements}
    logged = {k: v for e in trainer.state.log_history if e["step"] == 4 for k, v in e.items()}
    assert measured["eval_loss"] == logged["eval_loss"]
    assert measured["loss"] == logged["loss"]
    assert desk.repo.resolve("HEAD") == start  # the person's own branch stays where it was
    assert same(dict(load_pretrained(desk.repo, "training").state_dict()),
                dict(trainer.model.state_dict()))  # fmt: skip
    assert "trainer_state.json" not in desk.repo.files("training")


def test_each_checkpoint_of_an_adapter_becomes_a_commit(desk: Desk) -> None:
    desk.base(llama())
    model = peft.get_peft_model(llama(), peft.LoraConfig(target_modules=["q_proj"], r=2))
    callback = DeltavcCallback(desk.repo, metrics=("eval_loss",), run="mlflow:7")
    trainer = train(desk, model, callback)
    assert callback.failures == []
    assert len(callback.commits) == 2
    shown = desk.repo.show("main")
    assert [m.kpi for m in shown.commit.measurements] == ["eval_loss"]
    assert shown.commit.run == "mlflow:7"
    merged = trainer.model.merge_and_unload()
    assert torch.allclose(answer(load_pretrained(desk.repo)), answer(merged), atol=1e-6)


def broken_objects(desk: Desk) -> None:
    shutil.rmtree(desk.repo.path / ".deltavc")


def broken_base(desk: Desk) -> None:
    next(desk.root.glob("base-*")).rename(desk.root / "gone")


@pytest.mark.parametrize("breaks", [broken_objects, broken_base])
def test_a_broken_repository_does_not_break_the_training(
    desk: Desk, breaks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    desk.base(llama())
    breaks(desk)
    callback = DeltavcCallback(desk.repo)
    with caplog.at_level(logging.WARNING, logger="deltavc.integrations.transformers"):
        trainer = train(desk, llama(), callback)
    assert trainer.state.global_step == 4
    assert len(callback.failures) == 2
    assert callback.commits == []
    assert "the checkpoint at step 2 was not recorded" in caplog.text
    assert (Path(trainer.args.output_dir) / "checkpoint-4" / "model.safetensors").is_file()


def test_a_model_of_another_base_does_not_break_the_training(desk: Desk) -> None:
    desk.base(bert())
    model = peft.get_peft_model(llama(), peft.LoraConfig(target_modules=["q_proj"], r=2))
    callback = DeltavcCallback(desk.repo)
    train(desk, model, callback)
    assert [type(error) for error in callback.failures] == [BaseMismatch, BaseMismatch]

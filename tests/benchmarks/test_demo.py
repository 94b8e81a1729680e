from __future__ import annotations

import json
from importlib import import_module

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.bench_rows import Lab, Row, Template, report
from benchmarks.demo_story import Story, differing_files, differing_tensors
from benchmarks.outcomes import Outcomes
from benchmarks.run import GROUPS
from benchmarks.synthetic import LLAMA_1B, adapter, model


@pytest.fixture
def folders(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    values = {"a": np.array([0.0, 1.0], np.float32), "b": np.arange(3)}
    for folder in (one, other):
        folder.mkdir()
        save_file(values, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    return one, other


def test_equal_folders_do_not_differ(folders):
    assert differing_tensors(*folders) == []
    assert differing_files(*folders) == []


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"a": np.array([-0.0, 1.0], np.float32), "b": np.arange(3)}, ["a"]),  # a sign of zero
        ({"a": np.array([0.0, 1.0]), "b": np.arange(3)}, ["a"]),  # another dtype
        ({"a": np.array([[0.0, 1.0]], np.float32), "b": np.arange(3)}, ["a"]),  # another shape
        ({"b": np.arange(3), "c": np.arange(1)}, ["a", "c"]),  # missing, and new
    ],
)
def test_the_demo_sees_what_differs(folders, changed, names):
    one, other = folders
    save_file(changed, other / "model.safetensors")
    assert differing_tensors(one, other) == differing_tensors(other, one) == names
    assert differing_files(one, other) == ["model.safetensors"]


def test_a_file_on_one_side_only_is_a_difference(folders):
    one, other = folders
    (other / "vocab.txt").touch()
    assert differing_files(one, other) == differing_files(other, one) == ["vocab.txt"]


def test_a_receipt_is_no_part_of_the_model(folders):
    one, other = folders
    (one / "deltavc.json").write_text("{}")
    assert differing_files(one, other) == []
    (other / "inner").mkdir()
    (other / "inner" / "deltavc.json").write_text("{}")
    assert differing_files(one, other) == ["inner/deltavc.json"]


def test_a_slice_is_scored_on_its_own(tmp_path):
    right = {"leak at seal": 1, "leak at pump": 0, "cracked bucket": 1, "bolt": 0}
    labels = dict(zip(right, ("Leak", "Leak", "Structural", "Missing"), strict=True))
    answers = Outcomes(right, labels, trained_head=True)
    assert answers.score.accuracy == 0.5
    leaks = answers.only("Leak")
    assert (leaks.score.samples, leaks.right) == (2, {"leak at seal": 1, "leak at pump": 0})
    leaks.write(tmp_path / "values.json")
    assert json.loads((tmp_path / "values.json").read_text()) == leaks.right


def test_a_failed_check_is_kept_and_shown(tmp_path, capsys):
    story = Story(tmp_path)
    story.check("this holds", [])
    story.check("this does not", ["a", "b"])
    assert (story.checked, story.failed) == (2, ["this does not"])
    assert "FAILED  this does not: ['a', 'b']" in capsys.readouterr().out


def test_a_command_that_fails_ends_the_demo(tmp_path):
    (tmp_path / "orders").mkdir()
    with pytest.raises(SystemExit, match="ended with 10"):
        Story(tmp_path).run("log")


@pytest.mark.parametrize(
    ("row", "ok"),
    [
        (Row("a", 2.0, 2.0), True),
        (Row("a", 2.1, 2.0), False),
        (Row("a", 2.0, 2.0, at_least=True), True),
        (Row("a", 1.9, 2.0, at_least=True), False),
        (Row("a", float("nan"), 0.0), False),
        (Row("a", 5.0, None), True),
    ],
)
def test_a_row_says_whether_its_target_is_met(row, ok):
    assert row.ok is ok
    verdict = "" if row.limit is None else "yes" if ok else "no"
    assert row.cells()[3] == verdict
    assert row.what in report([row])


def test_every_group_is_there():
    for module, function in GROUPS.values():
        assert callable(getattr(import_module(module), function))


def test_a_template_forgets_what_was_recorded(tmp_path):
    shape = LLAMA_1B.scaled(32, layers=1)
    base, lora = model(shape, cache=tmp_path), adapter(shape, rank=2, cache=tmp_path)
    template = Template(Lab(quick=True, folder=tmp_path / "bench").repository(base))
    first = template.fresh().commit(lora, message="a version")
    again = template.fresh().commit(lora, message="a version")
    assert first.changed
    assert again.changed
    assert again.kinds == first.kinds
    assert sum(row.stored for row in again.kinds) > 0

"""KPIs, gates and bisect through the Python API: what counts, and what is refused."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

import deltavc
from deltavc.errors import (
    DeltavcError,
    InvalidName,
    MissingExtra,
    NameTaken,
    NothingToUndo,
    Protected,
    RepositoryError,
    UnknownRevision,
    UnsafeFile,
    UnsupportedFormat,
    UsageError,
)

from .conftest import Lab  # type: ignore[import-not-found]

WRONG_FILES = [
    ("= broken", "is not valid TOML"),
    ("kpi = 3", "'kpi' in .* is not a table"),
    ("[kpi.accuracy]\nkind = 'mean'", "direction of 'kpi.accuracy' .* is missing"),
    ("[kpi.accuracy]\nkind = 3\ndirection = 'higher'", "kind of .* is not a text"),
    ("[gate.x]\nrequire = 'accuracy >= 1'", "require of 'gate.x' .* is not a list"),
    ("[gate.x]\nrequire = ['accuracy > 1']", "column 10"),
    ("[gate.x]\nrequire = []", "gate 'x' has no rule"),
]

VALUES_THAT_ARE_NONE: list[tuple[bytes, type[DeltavcError]]] = [
    (b"", UsageError),
    (b"[]", UsageError),
    (b"[1, null]", UsageError),
    (b'{"a": "b"}', UsageError),
    (b"[1, 1]", UsageError),  # another mean
    (b"[NaN]", UnsafeFile),
    (b"[1", UnsafeFile),
    (b"1\ntwo\n", UsageError),
    (b"\xff\xfe", UsageError),
    (b"inf\n", UsageError),
]


WHAT_MAKES_NO_SENSE_IS_REFUSED: list[tuple[Any, ...]] = [
    ({}, {}, UsageError),
    ({"accuracy": 1.5}, {}, UsageError),
    ({"loss": float("inf")}, {}, UsageError),
    ({"a b": 1}, {}, InvalidName),
    ({"a[]": 1}, {}, InvalidName),
    ({"loss": 1}, {"samples": 0}, UsageError),
    ({"loss": 1}, {"samples": 1 << 60}, UsageError),
    ({"loss": 1}, {"stderr": -1.0}, UsageError),
    ({"loss": 1}, {"stderr": float("nan")}, UsageError),
    ({"loss": 1}, {"dataset": " "}, UsageError),
    ({"loss": 1}, {"tool": "x" * 3000}, UsageError),
    ({"loss": 1, "x": 2}, {"stderr": 0.1}, UsageError),
    ({"loss": 1}, {"supersedes": "0000"}, UsageError),  # no reason
    ({"loss": 1}, {"supersedes": "0000", "reason": "x"}, UnknownRevision),
    ({"loss": 1}, {"supersedes": "", "reason": "x"}, UnknownRevision),
]


WHAT_IS_NO_SOURCE: list[tuple[Any, ...]] = [
    ("scores.json", {}, UsageError),
    ("ftp:x", {}, UsageError),
    ("json:", {}, UsageError),
    ("json:nothing", {}, UnsupportedFormat),
    ("json:.", {}, DeltavcError),
    ("json:list.json", {}, UnsupportedFormat),
    ("json:bad.json", {}, UnsafeFile),
    ("json:good.json", {"nothing": "x"}, UsageError),
    ("json:good.json", {"a": "x", "b": "x"}, UsageError),
    ("json:good.json", {"a": "x y"}, InvalidName),
    ("json:good.json", {}, UsageError),  # none is defined
    ("trainer:.", {}, UnsupportedFormat),
    ("trainer:good.json", {}, UnsupportedFormat),
]


WHAT_CANNOT_BE_SEARCHED: list[tuple[Any, ...]] = [
    ("> 0.5", 0, "HEAD", UsageError),
    (">= 0.5 ms", 0, "HEAD", UsageError),
    (">= 0.5 at 99%", 0, "HEAD", UsageError),
    ("not worse than baseline", 0, "HEAD", UsageError),
    (">= 0.5", 4, "HEAD", UsageError),
    (">= 0.5", 3, "HEAD~3", UsageError),
    (">= 0.95", 0, "HEAD", UsageError),  # the good end is not
    (">= 0.1", 0, "HEAD", UsageError),  # the bad end is good
    (">= 0.5", 0, "nothing", UnknownRevision),
]


def events(lab: Lab) -> int:
    return len(lab.repo.operations())


@pytest.fixture
def line(lab: Lab) -> list[str]:
    """Five revisions in a line, the oldest first."""
    sources = [lab.base_folder, *(lab.lora("layers.0.q") for _ in range(4))]
    return [lab.commit(source, f"change {n}") for n, source in enumerate(sources)]


def define(lab: Lab, **changes: Any) -> Any:
    given = {"direction": "higher", "kind": "proportion", "min_samples": 100} | changes
    return lab.repo.define_kpi("accuracy", **given)


class TestDefinitions:
    def test_the_same_again_changes_nothing(self, lab: Lab) -> None:
        assert define(lab).changed
        before = events(lab)
        assert not define(lab).changed
        assert define(lab, min_samples=200, dry_run=True).changed
        assert events(lab) == before
        assert define(lab, min_samples=200).changed
        (row,) = lab.repo.kpis()
        assert (row.name, row.origin, row.min_samples) == ("accuracy", "recorded", 200)

    def test_undo_takes_a_definition_back(self, lab: Lab) -> None:
        define(lab)
        lab.repo.undo()
        assert lab.repo.kpis() == []
        lab.repo.redo()
        assert [row.name for row in lab.repo.kpis()] == ["accuracy"]

    def test_the_file_counts_and_is_changed_by_hand_only(self, lab: Lab) -> None:
        define(lab)
        lab.repo.define_gate("release", ["accuracy >= 0.8"])
        (lab.repo.path / "deltavc.toml").write_text(
            '[kpi.accuracy]\ndirection = "higher"\nkind = "proportion"\nmin_samples = 9\n'
            '[gate.release]\nrequire = ["accuracy   >= 0.9"]\n'
        )
        (kpi,), (gate,) = lab.repo.kpis(), lab.repo.gates()
        assert (kpi.origin, kpi.min_samples, kpi.overrides) == ("deltavc.toml", 9, True)
        assert (gate.origin, gate.rules, gate.overrides) == (
            "deltavc.toml",
            ["accuracy >= 0.9"],
            True,
        )
        before = events(lab)
        with pytest.raises(Protected, match=r"defined in deltavc\.toml"):
            define(lab)
        with pytest.raises(Protected, match=r"defined in deltavc\.toml"):
            lab.repo.define_gate("release", ["accuracy >= 0.8"])
        assert not define(lab, min_samples=9).changed
        assert not lab.repo.define_gate("release", ["accuracy >= 0.90"]).changed
        assert events(lab) == before

    def test_a_file_that_is_wrong_is_told(self, lab: Lab) -> None:
        for text, message in WRONG_FILES:
            (lab.repo.path / "deltavc.toml").write_text(text)
            for ask in (lab.repo.kpis, lab.repo.gates, lambda: define(lab)):
                with pytest.raises(UsageError, match=message):
                    ask()

    def test_names(self, lab: Lab) -> None:
        for name in ("", "a b", "a[b]", "../x", "x" * 300):
            with pytest.raises(InvalidName):
                lab.repo.define_kpi(name, direction="higher", kind="mean")
            with pytest.raises(InvalidName):
                lab.repo.define_gate(name, ["x >= 1"])


@pytest.mark.usefixtures("line")
class TestMeasurements:
    def test_what_was_measured_is_shown(self, lab: Lab, line: list[str]) -> None:
        define(lab)
        lab.repo.measure(
            "HEAD",
            {"accuracy": 0.879, "accuracy[rare]": 0.5},
            samples=5000,
            dataset="tickets",
            tool="harness 2",
            seed=7,
            source="ci:12",
        )
        whole, rare = lab.repo.measurements("HEAD")
        assert (whole.kpi, whole.slice, whole.value, whole.samples) == (
            "accuracy",
            None,
            0.879,
            5000,
        )
        assert (rare.kpi, rare.slice, rare.value) == ("accuracy", "rare", 0.5)
        assert (whole.dataset, whole.tool, whole.seed, whole.source) == (
            "tickets", "harness 2", 7, "ci:12",
        )  # fmt: skip
        assert whole.low is not None
        assert whole.low < 0.879 < whole.high
        assert lab.repo.show(whole.id).value["tool"] == "harness 2"
        assert lab.repo.resolve("best:accuracy[rare]") == line[-1]
        assert lab.repo.kpis()[0].slices == ["rare"]
        assert lab.repo.fsck().ok

    def test_a_correction_takes_the_place_of_the_wrong_one(self, lab: Lab) -> None:
        (old,) = lab.repo.measure("HEAD", {"accuracy": 0.5})
        (new,) = lab.repo.measure("HEAD", {"accuracy": 0.6})
        (fix,) = lab.repo.measure("HEAD", {"accuracy": 0.4}, supersedes=old.id[:12], reason="typo")
        assert [m.value for m in lab.repo.measurements("HEAD")] == [0.6]
        shown = lab.repo.measurements("HEAD", history=True)
        assert [(m.value, m.superseded_by, m.is_latest) for m in shown] == [
            (0.5, fix.id, False),
            (0.6, None, True),
            (0.4, None, False),
        ]
        lab.repo.measure("HEAD~1", {"accuracy": 0.6}, supersedes=new.id, reason="other revision")
        assert [m.value for m in lab.repo.measurements("HEAD")] == [0.4]
        assert [m.value for m in lab.repo.measurements("HEAD~1")] == [0.6]
        assert lab.repo.operations(limit=1)[0].reason == "other revision"
        before = lab.repo.measurements("HEAD", history=True)
        lab.repo._repo.rebuild_catalog()
        assert lab.repo.measurements("HEAD", history=True) == before

    def test_per_sample_values(self, lab: Lab, tmp_path: Path) -> None:
        define(lab)
        lab.repo.define_kpi("loss", direction="lower", kind="mean")
        lab.repo.define_kpi("latency_p95", direction="lower", kind="quantile", unit="ms")
        right = [1] * 90 + [0] * 10
        (tmp_path / "right.json").write_text(json.dumps(right))
        (tmp_path / "losses.txt").write_text("0.25\n0.5\n0.75\n")
        (tmp_path / "named.json").write_text(json.dumps({"a": 1, "b": 100}))
        (m,) = lab.repo.measure(
            "HEAD", {"accuracy": 0.9}, values=tmp_path / "right.json", dataset="d"
        )
        assert (m.samples, m.stderr, m.method) == (100, None, "wilson")
        (m,) = lab.repo.measure("HEAD", {"loss": 0.5}, values=tmp_path / "losses.txt")
        assert (m.samples, m.method) == (3, "standard error")
        assert m.stderr == pytest.approx(0.25 / 3**0.5)
        (m,) = lab.repo.measure("HEAD", {"latency_p95": 99}, values=tmp_path / "named.json")
        assert (m.samples, m.stderr) == (2, None)
        assert lab.repo._repo.store.get(m.values, "blob") == b'{"a":1.0,"b":100.0}'
        lab.repo.measure("HEAD~1", {"accuracy": 0.9}, values=tmp_path / "right.json", dataset="d")
        (row,) = lab.repo.compare_kpis("HEAD~1", "HEAD", kpis=["accuracy"])
        assert (row.paired, row.method, row.difference) == (True, "newcombe paired", 0.0)
        assert lab.repo.fsck().ok

    def test_values_that_are_none(self, lab: Lab, tmp_path: Path) -> None:
        define(lab)
        for content, error in VALUES_THAT_ARE_NONE:
            (tmp_path / "values").write_bytes(content)
            before = events(lab)
            with pytest.raises(error) as caught:
                lab.repo.measure("HEAD", {"accuracy": 0.5}, values=tmp_path / "values")
            assert caught.value.hint
            with pytest.raises(UnsupportedFormat, match="there is no file"):
                lab.repo.measure("HEAD", {"accuracy": 0.5}, values=tmp_path / "nothing")
            assert events(lab) == before

    def test_what_makes_no_sense_is_refused(self, lab: Lab) -> None:
        define(lab)
        for values, options, error in WHAT_MAKES_NO_SENSE_IS_REFUSED:
            before = events(lab)
            with pytest.raises(error) as caught:
                lab.repo.measure("HEAD", values, **options)
            assert caught.value.hint
            assert events(lab) == before
            with pytest.raises(UnknownRevision):
                lab.repo.measure("nothing", {"loss": 1})

    def test_a_corrected_one_cannot_be_corrected_again(self, lab: Lab) -> None:
        (old,) = lab.repo.measure("HEAD", {"loss": 1})
        (new,) = lab.repo.measure("HEAD", {"loss": 2}, supersedes=old.id, reason="x")
        with pytest.raises(NameTaken, match="was corrected by") as caught:
            lab.repo.measure("HEAD", {"loss": 3}, supersedes=old.id, reason="x")
        assert caught.value.context["superseded_by"] == new.id

    def test_a_dry_run_checks_and_records_nothing(self, lab: Lab) -> None:
        before = events(lab)
        assert lab.repo.measure("HEAD", {"loss": 1}, dry_run=True)[0].value == 1
        assert events(lab) == before
        assert lab.repo.measurements("HEAD") == []

    def test_a_commit_may_bring_slices(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, kpis={"acc": 0.5, "acc[rare]": 0.25})
        assert [(m.kpi, m.slice, m.value) for m in lab.repo.measurements("HEAD")] == [
            ("acc", None, 0.5),
            ("acc", "rare", 0.25),
        ]

    def test_whole_numbers_are_numbers(self, lab: Lab) -> None:
        lab.commit(lab.lora(), kpis={"epochs": 3})
        lab.repo.measure("HEAD", {"steps": 7}, stderr=1, samples=9)
        assert [(m.value, m.stderr) for m in lab.repo.measurements()] == [(3.0, None), (7.0, 1.0)]
        assert lab.repo.fsck().ok

    def test_the_view_has_all_of_it(self, lab: Lab) -> None:
        (old,) = lab.repo.measure("HEAD", {"loss[a]": 1}, stderr=0.5, samples=9, seed=3)
        lab.repo.measure("HEAD", {"loss[a]": 2}, supersedes=old.id, reason="typo")
        db = sqlite3.connect(lab.repo.path / ".deltavc" / "catalog.db")
        rows = db.execute(
            "SELECT value, slice, stderr, seed, is_latest, supersedes, reason,"
            " superseded_by IS NULL FROM v_measurements ORDER BY event"
        ).fetchall()
        db.close()
        assert rows == [
            (1, "a", 0.5, 3, 0, None, None, 0),
            (2, "a", None, None, 1, old.id, "typo", 1),
        ]


@pytest.mark.usefixtures("line")
class TestGates:
    def test_a_verdict_names_what_it_saw(self, lab: Lab, line: list[str]) -> None:
        define(lab)
        lab.repo.define_gate(
            "release",
            ["accuracy >= 0.85", "accuracy not worse than baseline", "age of accuracy <= 14 days"],
        )
        (old,) = lab.repo.measure("HEAD~1", {"accuracy": 0.853}, samples=5000, dataset="d")
        (new,) = lab.repo.measure("HEAD", {"accuracy": 0.879}, samples=5000, dataset="d")
        done = lab.repo.check_gate("release", against="HEAD~1")
        assert done.verdict == "pass"
        assert (done.revision, done.baseline) == (line[-1], line[-2])
        assert [row.measurement for row in done.rules] == [new.id] * 3
        assert done.rules[1].baseline_measurement == old.id
        assert done.event == lab.repo.operations(limit=1)[0].number
        again = lab.repo.check_gate("release", against="HEAD~1")
        assert (again.rules[:2], again.policy) == (done.rules[:2], done.policy)
        assert lab.repo.check_gate("release", "HEAD~1", against="HEAD").verdict == "fail"
        done = lab.repo.check_gate("release")
        assert [row.verdict for row in done.rules] == ["pass", "inconclusive", "pass"]
        policy = done.policy
        define(lab, min_samples=6000)
        done = lab.repo.check_gate("release", against="HEAD~1")
        assert (done.verdict, done.policy != policy) == ("inconclusive", True)
        lab.now += 15 * 86_400_000
        assert lab.repo.check_gate("release", against="HEAD~1").rules[2].verdict == "fail"

    def test_what_is_missing_is_named(self, lab: Lab) -> None:
        lab.repo.define_gate("release", ["loss <= 1", "other[a] <= 1"])
        lab.repo.measure("HEAD", {"loss": 0.5})
        done = lab.repo.check_gate("release")
        assert done.verdict == "inconclusive"
        assert "no measurement" in done.rules[1].sentence
        assert any("kpi define loss" in hint for hint in done.hints)
        assert any("kpi add HEAD 'other[a]=VALUE'" in hint for hint in done.hints)
        with pytest.raises(UnknownRevision, match="no gate is called 'nothing'"):
            lab.repo.check_gate("nothing")
        with pytest.raises(UnknownRevision):
            lab.repo.check_gate("release", against="nothing")

    def test_an_older_measurement_of_a_lost_blob_is_no_traceback(
        self, lab: Lab, tmp_path: Path
    ) -> None:
        (tmp_path / "v").write_text("1\n1\n0\n0\n")
        (m,) = lab.repo.measure("HEAD", {"loss": 0.5}, values=tmp_path / "v")
        path = next((lab.repo.path / ".deltavc/objects/loose").glob(f"*/{m.values}"))
        path.chmod(0o644)
        path.unlink()
        lab.repo.define_gate("release", ["loss not worse than baseline"])
        lab.reopen()
        with pytest.raises(DeltavcError, match="not in the store"):
            lab.repo.check_gate("release", against="HEAD~1")
        assert not lab.repo.fsck().ok


@pytest.mark.usefixtures("line")
class TestCompare:
    def test_best_goes_by_direction(self, lab: Lab, line: list[str]) -> None:
        for rev, value in zip(line, (0.5, 0.2, 0.9, 0.2, 0.7), strict=True):
            lab.repo.measure(rev, {"loss": value})
        assert lab.repo.resolve("best:loss") == line[2]
        lab.repo.define_kpi("loss", direction="lower", kind="mean")
        assert lab.repo.resolve("best:loss") == line[3]
        assert lab.repo.resolve("best:loss@HEAD~2") == line[1]
        with pytest.raises(UnknownRevision, match="has a measurement of 'other'"):
            lab.repo.resolve("best:other")

    def test_rows(self, lab: Lab) -> None:
        define(lab)
        lab.repo.measure("HEAD~1", {"accuracy": 0.8, "x": 1, "nan": 1}, samples=1000, dataset="a")
        lab.repo.measure("HEAD", {"accuracy": 0.9, "y": 1, "nan": float("nan")}, samples=1000)
        rows = {row.kpi: row for row in lab.repo.compare_kpis("HEAD~1", "HEAD")}
        assert {name: row.verdict for name, row in rows.items()} == {
            "accuracy": "better",
            "nan": "not a number",
            "x": "not measured",
            "y": "not measured",
        }
        assert lab.repo.compare_kpis("HEAD", "HEAD~1", kpis=["accuracy"])[0].verdict == "worse"
        lab.repo.measure("HEAD", {"accuracy": 0.9}, samples=1000, dataset="b")
        row = lab.repo.compare_kpis("HEAD~1", "HEAD", kpis=["accuracy"])[0]
        assert row.verdict == "other data"
        with pytest.raises(UnknownRevision, match="neither revision"):
            lab.repo.compare_kpis("HEAD~1", "HEAD", kpis=["nothing"])
        for confidence in (0, 1, 2, float("nan")):
            with pytest.raises(UsageError):
                lab.repo.compare_kpis("HEAD~1", "HEAD", confidence=confidence)

    def test_the_log_has_half_widths(self, lab: Lab) -> None:
        from deltavc.repo import history

        define(lab)
        lab.repo.measure("HEAD", {"accuracy": 0.879}, samples=5000)
        lab.repo.measure("HEAD~1", {"accuracy": 0.5})
        rows = history.log(lab.repo._repo, kpis=["accuracy"])
        assert rows[0].half_widths == {"accuracy": pytest.approx(0.00904, abs=1e-5)}
        assert rows[1].half_widths == {}


@pytest.mark.usefixtures("line")
class TestImport:
    def test_json_and_a_trainers_folder(self, lab: Lab, tmp_path: Path) -> None:
        define(lab)
        (tmp_path / "scores.json").write_text(
            '{"accuracy": 0.75, "nested": {"f1": 0.5}, "name": "x", "huge": 1e999}'.replace(
                ', "huge": 1e999', ""
            )
        )
        take = lab.repo.import_kpis
        (m,) = take("HEAD", f"json:{tmp_path / 'scores.json'}", samples=50, dataset="d")
        assert (m.kpi, m.value, m.samples, m.dataset) == ("accuracy", 0.75, 50, "d")
        assert m.source == f"json:{tmp_path / 'scores.json'}"
        (m,) = take("HEAD", f"json:{tmp_path / 'scores.json'}", names={"nested.f1": "f1"})
        assert (m.kpi, m.value) == ("f1", 0.5)
        state = {"log_history": [{"eval_accuracy": 0.5}, {"loss": 1.5}, {"eval_accuracy": 0.625}]}
        (tmp_path / "trainer_state.json").write_text(json.dumps(state))
        names = {"eval_accuracy": "accuracy", "loss": "train_loss"}
        rows = take("HEAD", f"trainer:{tmp_path}", names=names)
        assert [(m.kpi, m.value) for m in rows] == [("accuracy", 0.625), ("train_loss", 1.5)]

    def test_what_is_no_source(self, lab: Lab, tmp_path: Path) -> None:
        folder = tmp_path / "sources"
        folder.mkdir()
        (folder / "list.json").write_text("[1]")
        (folder / "bad.json").write_text('{"a": 1, "a": 2}')
        (folder / "good.json").write_text('{"a": 1, "b": 2}')
        for source, names, error in WHAT_IS_NO_SOURCE:
            before = events(lab)
            with pytest.raises(error) as caught:
                lab.repo.import_kpis("HEAD", source, names=names, folder=folder)
            assert caught.value.hint
            assert events(lab) == before

    @pytest.mark.parametrize("client", ["mlflow", "wandb"])
    def test_a_client_that_is_not_installed(
        self, lab: Lab, client: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, client, None)  # what Python does for a missing one
        with pytest.raises(MissingExtra, match=f"'{client}' is not installed") as caught:
            lab.repo.import_kpis("HEAD", f"{client}:run")
        assert caught.value.hint == f"pip install {client}"


class TestBisect:
    def test_by_recorded_numbers(self, lab: Lab, line: list[str]) -> None:
        for rev, value in zip(line, (0.9, 0.88, None, 0.7, 0.6), strict=True):
            if value is not None:
                lab.repo.measure(rev, {"acc": value})
        done = lab.repo.bisect_kpi("acc", expect=">= 0.85", good=line[0])
        assert (done.first_bad, set(done.suspects)) == (None, {line[2], line[3]})
        assert (done.measured, done.revisions, done.unmeasured) == (3, 4, [line[2]])
        lab.repo.measure(line[2], {"acc": 0.87})
        done = lab.repo.bisect_kpi("acc", expect=">= 0.85", good=line[0], bad="HEAD")
        assert (done.first_bad, done.subject, done.value) == (line[3], "change 3", 0.7)
        assert done.parent_value == 0.87
        lab.repo.measure(line[1], {"acc": 0.5})
        assert lab.repo.bisect_kpi("acc", expect=">= 0.85", good=line[2]).first_bad == line[3]

    @pytest.mark.parametrize("first", range(1, 5))
    def test_by_a_judge(self, lab: Lab, line: list[str], first: int) -> None:
        from deltavc.repo import bisect

        seen = []

        def judge(folder: Path, oid: str) -> int:
            assert (folder / "model.safetensors").is_file()
            seen.append(oid)
            return int(line.index(oid) >= first)

        done = bisect.run(lab.repo._repo, judge, good=line[0])
        assert done.first_bad == line[first]
        assert len(seen) <= 2
        skipped = bisect.run(lab.repo._repo, lambda _folder, _oid: 125, good=line[0])
        assert (skipped.first_bad, len(skipped.suspects)) == (None, 4)
        with pytest.raises(UsageError, match="stops the search"):
            bisect.run(lab.repo._repo, lambda _folder, _oid: 139, good=line[0])

    def test_by_a_person(self, lab: Lab, line: list[str]) -> None:
        from deltavc.repo import bisect

        repo = lab.repo._repo
        with pytest.raises(NothingToUndo):
            bisect.mark(repo, "good")
        step = bisect.start(repo, good=line[0])
        while step.next is not None:
            step = bisect.mark(repo, "bad" if line.index(step.next) >= 3 else "good")
        assert step.first_bad == line[3]
        with pytest.raises(UsageError, match="over"):
            bisect.mark(repo, "good")
        with pytest.raises(UsageError, match="not a verdict"):
            bisect.mark(repo, "ugly")
        (lab.repo.path / ".deltavc" / "bisect.json").write_text('{"good": 3}')
        with pytest.raises(RepositoryError, match="cannot be read") as caught:
            bisect.mark(repo, "good")
        assert "bisect reset" in caught.value.hint
        assert bisect.reset(repo)
        assert not bisect.reset(repo)

    def test_through_a_merge(self, lab: Lab) -> None:
        """Bad is inherited through any parent: the search finds it on the side branch."""
        root = lab.commit(lab.base_folder, "root")
        lab.repo.switch("side", create=True)
        wrong = lab.commit(lab.lora("layers.0.v"), "wrong")
        lab.commit(lab.lora("layers.0.v"), "later")
        lab.repo.switch("main")
        lab.commit(lab.lora("layers.0.q"), "right")
        lab.repo.merge(["side"], strategy="sum")
        bad = {wrong, lab.repo.resolve("side"), lab.repo.resolve("main")}
        from deltavc.repo import bisect

        done = bisect.run(lab.repo._repo, lambda _, oid: int(oid in bad), good=root)
        assert done.first_bad == wrong

    def test_what_cannot_be_searched(self, lab: Lab, line: list[str]) -> None:
        lab.repo.measure(line[0], {"acc": 0.9})
        lab.repo.measure(line[4], {"acc": 0.2})
        for expect, good, bad, error in WHAT_CANNOT_BE_SEARCHED:
            with pytest.raises(error) as caught:
                lab.repo.bisect_kpi("acc", expect=expect, good=line[good], bad=bad)
            assert caught.value.hint
            with pytest.raises(UnknownRevision, match="has a value of 'other'"):
                lab.repo.bisect_kpi("other", expect=">= 1", good=line[0])


def test_events_from_another_process_count_in_order(lab: Lab, line: list[str]) -> None:
    other = deltavc.open(lab.repo.path, actor="Kai <kai@example.org>", clock=lambda: 5)
    lab.repo.measure("HEAD", {"loss": 1})
    other.measure("HEAD", {"loss": 2})  # by a clock that is far behind
    (m,) = lab.repo.measurements("HEAD")
    assert (m.value, m.actor, m.time) == (2, "Kai <kai@example.org>", 5)

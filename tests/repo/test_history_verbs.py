"""History told and changed: names of revisions, log, show, blame, diff, revert, undo."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deltavc.delta.vector import add_terms
from deltavc.errors import (
    AmbiguousRevision,
    DeltavcError,
    InvalidName,
    MergeConflict,
    NameTaken,
    NotFastForward,
    NothingToUndo,
    Protected,
    UnknownRevision,
    UsageError,
)
from deltavc.ids import CommitId, ObjectId
from deltavc.repo import branches, history, operations
from deltavc.repo.objects import ObjectSink
from deltavc.repo.record import About, record_version

from .conftest import Lab, bits, read_model  # type: ignore[import-not-found]


def scaled(lab: Lab, name: str, factor: float) -> Path:
    return lab.checkpoint(lambda t: t.update({name: t[name] * np.float32(factor)}))


def merge(lab: Lab, other: str) -> str:
    """Records the sum of HEAD and another revision as a merge of both."""
    repo = lab.repo._repo
    ours, theirs = (CommitId(ObjectId(lab.repo.resolve(rev))) for rev in ("HEAD", other))
    with repo.change("merge") as change, repo.store.pack() as pack:
        a, b = repo.vector(ours), repo.vector(theirs)
        names = sorted({*a.params, *b.params})
        terms = {n: add_terms((1, a.params.get(n, {})), (1, b.params.get(n, {}))) for n in names}
        vector = type(a)(a.base, terms, a.meta)
        sink = ObjectSink(repo.store, pack)
        about = About(message=f"merge {other}")
        oid, _ = record_version(repo, change, sink, vector, about, parents=(ours, theirs))
        pack.finish()
    assert oid is not None
    return oid


class TestNames:
    @pytest.fixture
    def line(self, lab: Lab) -> tuple[Lab, list[str]]:
        commits = [lab.commit(lab.base_folder, "root", kpis={"acc": 0.5})]
        for i, acc in enumerate((0.9, 0.7, float("nan"))):
            commits.append(lab.commit(lab.lora(), f"step {i}", kpis={"acc": acc}))
        return lab, commits

    def test_every_way_to_say_a_revision(self, line: tuple[Lab, list[str]]) -> None:
        lab, c = line
        lab.repo.tag("v1", "HEAD~2")
        lab.repo.tag("v2", "HEAD~1", message="signed off")
        lab.repo.branch("side", "HEAD~3")
        for name, wanted in {
            "HEAD": c[3], "@": c[3], "main": c[3], "branch:main": c[3], "HEAD~1": c[2],
            "HEAD~": c[2], "HEAD^": c[2], "HEAD~2": c[1], "HEAD^^": c[1], "HEAD~1^1~1": c[0],
            "HEAD^0": c[3], "HEAD~0": c[3], "v1": c[1], "tag:v1": c[1], "v2": c[2], "v2~1": c[1],
            "side": c[0], c[1]: c[1], c[1][:12]: c[1], f"{c[2][:12]}~1": c[1],
            "best:acc": c[1], "best:acc@side": c[0], "best:acc@v2~0": c[1],
        }.items():  # fmt: skip
            assert lab.repo.resolve(name) == wanted, name

    def test_names_that_mean_nothing(self, line: tuple[Lab, list[str]]) -> None:
        lab, _ = line
        for name in ("nope", "HEAD~9", "HEAD^2", "tag:main", "best:loss", "0" * 12, "env:prod",
                     "f" * 64, "branch:", "x:y"):  # fmt: skip
            with pytest.raises(UnknownRevision):
                lab.repo.resolve(name)
        for name in ("", "~1", "HEAD~x", "HEAD^{tree}", "^main"):
            with pytest.raises(UsageError):
                lab.repo.resolve(name)
        with pytest.raises(UnknownRevision, match="no revision") as caught:
            lab.repo.resolve("mian")
        assert "main" in caught.value.hint

    def test_a_branch_wins_over_a_tag(self, line: tuple[Lab, list[str]]) -> None:
        lab, c = line
        lab.repo.tag("both", "HEAD~1")
        lab.repo.branch("both", "HEAD~2")
        assert lab.repo.resolve("both") == c[1]
        assert any("branch and a tag" in w for w in lab.repo.warnings)
        assert lab.repo.resolve("tag:both") == c[2]

    def test_before_the_first_commit(self, lab: Lab) -> None:
        for ask in (lab.repo.log, lab.repo.show, lab.repo.load, lambda: lab.repo.revert(["HEAD"])):
            with pytest.raises(UnknownRevision, match="no commit yet"):
                ask()
        assert lab.repo.status().head.commit is None


class TestLog:
    def test_ranges_and_limits(self, lab: Lab) -> None:
        c = [lab.commit(lab.base_folder, "root"), lab.commit(lab.lora())]
        lab.repo.switch("side", create=True)
        c.append(lab.commit(lab.lora()))
        lab.repo.switch("main")
        c.append(lab.commit(lab.lora()))

        def ids(range_: str | None, **options: Any) -> list[str]:
            return [row.commit for row in history.log(lab.repo._repo, range_=range_, **options)]

        assert ids(None) == [c[3], c[1], c[0]]
        assert ids(None, limit=2) == [c[3], c[1]]
        assert ids("side..main") == [c[3]]
        assert ids("main..side") == [c[2]]
        assert ids("side..") == [c[3]]
        assert ids("..side") == [c[2]]
        assert ids("main..main") == []
        assert set(ids(None, all_=True)) == set(c)
        row = lab.repo.log(limit=1)[0]
        assert (row.is_head, row.branches, row.parents) == (True, ["main"], [c[1]])

    def test_filters(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        lab.commit(lab.lora("layers.0.q"), "q", labels={"team": "a", "k": "v"})
        middle = lab.now
        lab.repo._repo.session.__dict__["actor"] = "Kai <kai@example.org>"
        lab.commit(scaled(lab, "emb.weight", 2), "emb", labels={"team": "b"})

        def found(**options: Any) -> list[str]:
            return [row.message for row in history.log(lab.repo._repo, **options)]

        assert found(params=["*.q.*"]) == ["emb", "q"]  # taken away again, and brought
        assert found(params=["emb.*"]) == ["emb"]
        assert found(params=["position_ids"]) == []
        assert found(labels={"team": "a"}) == ["q"]
        assert found(labels={"team": "a", "k": "other"}) == []
        assert found(author="KAI") == ["emb"]
        assert found(since=middle + 1) == ["emb"]
        assert found(until=middle) == ["q", "root"]

    def test_measurements_shown(self, lab: Lab) -> None:
        lab.commit(lab.lora(), kpis={"a": 1.0, "b": 2.0})
        rows = history.log(lab.repo._repo, kpis=["b", "c"])
        assert rows[0].measurements == {"b": 2.0}


class TestShow:
    def test_each_kind_of_object(self, lab: Lab) -> None:
        head = lab.commit(lab.lora(), "first\n\nlonger", kpis={"acc": 0.5})
        lab.repo.tag("v1", message="released")
        shown = lab.repo.show()
        assert shown.commit is not None
        assert (shown.kind, shown.id, shown.commit.message) == ("commit", head, "first\n\nlonger")
        assert shown.commit.kinds == {"low-rank": 2}
        assert shown.commit.rank_max == 2
        assert shown.commit.tags == ["v1"]
        record = lab.repo._repo.commit(CommitId(ObjectId(head)))
        manifest = lab.repo.show(record.manifest)
        assert manifest.kind == "manifest"
        delta = next(iter(manifest.value["params"]["layers.0.q.weight"]))
        assert lab.repo.show(delta).value["kind"] == "lowrank"
        assert lab.repo.show(delta[:16]).id == delta
        assert lab.repo.show("tiny").kind == "base"
        assert lab.repo.show(lab.repo.bases()[0].fingerprint).kind == "base"
        tag = lab.repo._repo.state().refs["tag:v1"]
        assert lab.repo.show(tag).kind in ("tag", "commit")
        operation = lab.repo.operations()[0]
        assert lab.repo.show(f"op:{operation.id[:8]}").value["command"] == "tag"
        blob = next(iter(manifest.value["attachments"].values()))
        assert lab.repo.show(blob).kind == "blob"
        for name in (record.manifest, delta, "tiny", blob, "HEAD"):
            raw = history.raw(lab.repo._repo, name)
            assert hashlib.sha256(raw).hexdigest() == history.find_object(lab.repo._repo, name)[1]

    def test_terms_of_parameters(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        row = history.show(lab.repo._repo, "HEAD", params=["*.q.*"]).commit
        assert row is not None
        assert row.params is not None
        assert list(row.params) == ["layers.0.q.weight"]
        assert list(row.params["layers.0.q.weight"].values()) == ["1"]

    def test_nothing_of_that_name(self, lab: Lab) -> None:
        for name in ("nothing", "deadbeef", "op:deadbeef", "f" * 64):
            with pytest.raises(UnknownRevision):
                lab.repo.show(name)


class TestBlameAndDiff:
    def test_each_delta_is_traced_to_the_commit_that_brought_it(self, lab: Lab) -> None:
        first = lab.commit(lab.lora("layers.0.q", size=0.3))
        second = lab.commit(lab.lora("layers.0.q", rank=1), stack=True)
        lab.repo.switch("side", create=True)
        third = lab.commit(lab.lora("layers.0.v"), stack=True)
        rows = lab.repo.blame()
        by_parameter = {(r.parameter, r.commit) for r in rows}
        assert by_parameter == {
            ("layers.0.q.weight", first), ("layers.0.q.weight", second),
            ("layers.0.v.weight", third),
        }  # fmt: skip
        assert sum(r.share for r in rows if r.parameter == "layers.0.q.weight") == pytest.approx(1)
        assert {r.commit for r in lab.repo.blame("*.q.*", rev="main~1")} == {first}
        with pytest.raises(UnknownRevision, match="fits"):
            lab.repo.blame("nothing.*")

    def test_a_revert_and_a_pick_keep_the_origin_or_take_it(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        change = lab.commit(lab.lora("layers.0.q"))
        lab.repo.revert(["HEAD"])
        assert lab.repo.blame() == []
        (picked,) = lab.repo.cherry_pick([change])
        assert {r.commit for r in lab.repo.blame()} == {picked.commit}

    def test_norms_against_numpy(self, lab: Lab) -> None:
        lab.commit(lab.lora("layers.0.q"))
        before = read_back(lab)
        lab.commit(lab.lora("layers.0.q", rank=1), stack=True)
        after = read_back(lab)
        (row,) = lab.repo.diff("HEAD~1", "HEAD").rows
        base = lab.base["layers.0.q.weight"].astype("f8")
        a = before["layers.0.q.weight"].astype("f8") - base
        b = after["layers.0.q.weight"].astype("f8") - base
        assert row.norm_a == pytest.approx(np.linalg.norm(a), rel=1e-5)
        assert row.norm_b == pytest.approx(np.linalg.norm(b), rel=1e-5)
        assert row.norm_diff == pytest.approx(np.linalg.norm(b - a), rel=1e-5)
        assert row.cosine == pytest.approx(
            (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-5
        )
        assert (row.rank_a, row.rank_b, row.change) == (2, 3, "changed")

    def test_added_removed_and_replaced(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")

        def change(t: dict[str, Any]) -> None:
            t["head.weight"] = np.ones((2, 8), "f4")
            t["position_ids"] += 1
            del t["layers.0.v.bias"]

        lab.commit(lab.checkpoint(change, extra="text"), "much")
        found = lab.repo.diff("HEAD~1", "HEAD")
        assert {r.parameter: r.change for r in found.rows} == {
            "head.weight": "added", "position_ids": "added",
        }  # fmt: skip
        back = lab.repo.diff("HEAD", "HEAD~1")
        assert {r.parameter: r.change for r in back.rows} == {
            "head.weight": "removed", "position_ids": "removed",
        }  # fmt: skip
        names = {(f["name"], f["change"]) for f in found.files}
        assert names == {("extra", "added"), ("layers.0.v.bias", "removed")}
        assert not found.same
        assert lab.repo.diff("HEAD", "HEAD").same
        assert lab.repo.diff("HEAD~1", params=["head.*"]).rows[0].parameter == "head.weight"


def read_back(lab: Lab) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in lab.repo.load().items()}


class TestBranches:
    def test_life_of_a_branch(self, lab: Lab) -> None:
        one, two = lab.commit(lab.lora()), lab.commit(lab.lora())
        assert lab.repo.branch("a/b", "HEAD~1").commit == one
        assert not lab.repo.branch("a/b", one).changed
        with pytest.raises(NameTaken):
            lab.repo.branch("a/b", two)
        repo = lab.repo._repo
        with pytest.raises(NotFastForward):
            branches.set_to(repo, "main", one, force=False)
        assert branches.set_to(repo, "a/b", two, force=False).before == one
        branches.rename(repo, "a/b", "c")
        with pytest.raises(Protected):
            branches.delete(repo, "main")
        assert branches.delete(repo, "c").before == two
        assert [row.name for row in lab.repo.branches()] == ["main"]
        with pytest.raises(UnknownRevision):
            branches.delete(repo, "c")
        lab.repo.undo()
        assert lab.repo.resolve("c") == two

    def test_names_that_may_not_be(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        for name in ("", "HEAD", "a..b", "-x", "a b", "a~1", "x:y", "../up", "a\n", "a//b", ".x"):
            for make in (lab.repo.branch, lab.repo.tag, lambda n: lab.repo.switch(n, create=True)):
                with pytest.raises(InvalidName):
                    make(name)

    def test_switch_moves_head_alone(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        lab.repo.checkout("main")
        lab.repo.switch("side", create=True)
        side = lab.commit(lab.lora())
        lab.repo.switch("main")
        assert lab.repo.resolve("HEAD") != side
        with pytest.raises(UnknownRevision, match="no branch"):
            lab.repo.switch("nowhere")
        with pytest.raises(NameTaken):
            lab.repo.switch("side", create=True)
        detached = branches.switch(lab.repo._repo, detach="side")
        assert detached.commit == side
        assert lab.repo.status().head.branch is None
        more = lab.commit(lab.lora(), "on no branch")
        assert lab.repo.resolve("HEAD") == more
        assert lab.repo.resolve("side") == side

    def test_an_unborn_branch(self, lab: Lab) -> None:
        lab.repo.switch("other", create=True)
        first = lab.commit(lab.lora())
        assert lab.repo.resolve("other") == first
        assert [row.name for row in lab.repo.branches()] == ["other"]

    def test_tags_do_not_move(self, lab: Lab) -> None:
        one = lab.commit(lab.lora())
        lab.commit(lab.lora())
        assert lab.repo.tag("v1", "HEAD~1", message="why").message == "why"
        assert not lab.repo.tag("v1", one).changed
        with pytest.raises(NameTaken, match="do not move"):
            lab.repo.tag("v1")
        assert [(t.name, t.commit, t.message) for t in lab.repo.tags()] == [("v1", one, "why")]
        branches.delete_tag(lab.repo._repo, "v1", "wrong one")
        assert lab.repo.tags() == []
        assert operations.log(lab.repo._repo, limit=1)[0].reason == "wrong one"


class TestRevert:
    def test_several_at_once(self, lab: Lab) -> None:
        lab.commit(lab.lora("layers.0.q"))
        before = lab.bits()
        picks = [lab.commit(lab.lora("layers.0.v"), stack=True),
                 lab.commit(lab.lora("layers.0.q", rank=1), stack=True)]  # fmt: skip
        done = lab.repo.revert(picks)
        assert lab.bits() == before
        assert done.changed
        assert len(lab.repo.log()) == 4
        assert all(p in lab.repo.log()[0].message for p in picks)
        lab.repo.undo()
        assert lab.repo.resolve("HEAD") == picks[1]

    def test_a_root_leaves_the_base(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        lab.repo.revert(["HEAD"])
        assert lab.bits() == bits(lab.base)
        assert lab.repo.show().commit.parameters == 0  # type: ignore[union-attr]

    def test_twice_is_nothing_more(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        one = lab.commit(lab.lora())
        lab.repo.revert([one])
        lab.repo.revert(["HEAD"])
        assert lab.repo.diff(one, "HEAD").same
        assert not lab.repo.revert(["HEAD~3", "HEAD~3"]).changed

    def test_a_merge_needs_a_mainline(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        lab.repo.branch("side")
        ours = lab.commit(lab.lora("layers.0.q"))
        lab.repo.switch("side")
        theirs = lab.commit(lab.lora("layers.0.v"))
        lab.repo.switch("main")
        merged = merge(lab, "side")
        assert lab.repo.resolve("HEAD^2") == theirs
        assert lab.repo.resolve("HEAD^2~1") == lab.repo.resolve("HEAD~2")
        for verb in (lab.repo.revert, lab.repo.cherry_pick):
            with pytest.raises(UsageError, match="merge"):
                verb([merged])
        with pytest.raises(UsageError, match="2 parents"):
            lab.repo.revert([merged], mainline=3)
        lab.repo.revert([merged], mainline=1)
        assert lab.bits() == lab.bits(ours)
        assert {r.commit for r in lab.repo.blame(rev=merged)} == {ours, theirs}

    def test_what_cannot_be_added_up_is_a_conflict(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        one = lab.commit(lab.checkpoint(lambda t: t["position_ids"].__iadd__(1), extra="one"))
        lab.commit(lab.checkpoint(lambda t: t["position_ids"].__iadd__(2), extra="two"))
        before = len(lab.repo.operations())
        with pytest.raises(MergeConflict):
            lab.repo.revert([one])
        assert len(lab.repo.operations()) == before

    def test_files_go_with_the_revert(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        lab.commit(lab.checkpoint(dict, extra="one"))
        lab.commit(lab.checkpoint(dict, extra="one", other="two", config='{"hidden_size": 9}'))
        lab.repo.revert(["HEAD~1"])
        lab.repo.checkout("HEAD", to=lab.root / "out")
        assert {p.name for p in (lab.root / "out").iterdir()} == {
            "model.safetensors", "config.json", "other", "deltavc.json",
        }  # fmt: skip


class TestCherryPick:
    def test_across_branches(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        lab.repo.switch("side", create=True)
        one = lab.commit(lab.lora("layers.0.q"), "one", labels={"k": "v"})
        two = lab.commit(lab.lora("layers.0.v"), "two", stack=True)
        lab.repo.switch("main")
        head = lab.commit(lab.lora("layers.0.q", rank=1))
        done = lab.repo.cherry_pick([one, two])
        assert [d.message for d in done] == ["one", "two"]
        assert lab.repo.log()[1].labels == {"k": "v"}
        deltas = {(r.parameter, r.delta) for r in lab.repo.blame(rev="side")}
        assert deltas <= {(r.parameter, r.delta) for r in lab.repo.blame()}
        lab.repo.undo()  # both at once
        assert lab.repo.resolve("HEAD") == head

    def test_all_or_none(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        lab.repo.switch("side", create=True)
        good = lab.commit(lab.lora("layers.0.q"))
        bad = lab.commit(lab.checkpoint(lambda t: t["position_ids"].__iadd__(1)))
        lab.repo.switch("main")
        head = lab.commit(lab.checkpoint(lambda t: t["position_ids"].__iadd__(2)))
        with pytest.raises(MergeConflict):
            lab.repo.cherry_pick([good, bad])
        assert lab.repo.resolve("HEAD") == head
        assert lab.repo.fsck().ok


class TestOperations:
    def test_undo_and_redo_walk_the_whole_history(self, lab: Lab) -> None:
        states = [dict(lab.repo._repo.state().refs)]
        steps: list[Callable[[], Any]] = [
            lambda: lab.commit(lab.lora()),
            lambda: lab.repo.branch("side"),
            lambda: lab.repo.switch("side"),
            lambda: lab.commit(lab.lora()),
            lambda: lab.repo.tag("v1", message="x"),
            lambda: lab.repo.revert(["HEAD"]),
        ]
        for step in steps:
            step()
            states.append(dict(lab.repo._repo.state().refs))
        for state in reversed(states[:-1]):
            lab.repo.undo()
            assert lab.repo._repo.state().refs == state
        for state in states[1:]:
            lab.repo.redo()
            assert lab.repo._repo.state().refs == state
        with pytest.raises(NothingToUndo):
            lab.repo.redo()
        lab.reopen()
        assert lab.repo._repo.state().refs == states[-1]
        assert lab.repo.fsck().ok

    def test_a_new_operation_forgets_what_could_be_redone(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        lab.repo.undo()
        lab.commit(lab.lora())
        with pytest.raises(NothingToUndo, match="do again"):
            lab.repo.redo()
        lab.repo.undo()
        lab.repo.undo()  # the base
        assert lab.repo.bases() == []
        with pytest.raises(NothingToUndo, match="take back"):
            lab.repo.undo()

    def test_the_list_says_what_is_undone(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        lab.repo.undo()
        lab.repo.redo()
        lab.repo.undo()
        rows = {row.command: row for row in reversed(lab.repo.operations())}
        assert rows["commit"].undone
        lab.repo.redo()
        rows = {row.command: row for row in reversed(lab.repo.operations())}
        assert not rows["commit"].undone
        shown = operations.show(lab.repo._repo, rows["commit"].id[:12])
        assert shown.undone == rows["commit"].undone

    def test_restore_goes_anywhere_and_is_undone_too(self, lab: Lab) -> None:
        one = lab.commit(lab.lora())
        there = lab.repo.operations()[0].id
        lab.repo.switch("side", create=True)
        two = lab.commit(lab.lora())
        operations.restore(lab.repo._repo, there[:10])
        assert lab.repo.resolve("HEAD") == one
        assert [b.name for b in lab.repo.branches()] == ["main"]
        lab.repo.undo()
        assert lab.repo.resolve("side") == two
        again = operations.restore(lab.repo._repo, "@")
        assert not again.changed
        with pytest.raises(UnknownRevision):
            operations.restore(lab.repo._repo, "op:ffffffff")

    def test_an_earlier_state_can_be_looked_at(self, lab: Lab) -> None:
        one = lab.commit(lab.lora())
        there = lab.repo.operations()[0].id
        lab.commit(lab.lora())
        lab.repo.tag("later")
        lab.repo._repo.look_at(there)
        assert lab.repo.resolve("HEAD") == one
        assert [row.commit for row in lab.repo.log()] == [one]
        assert lab.repo.tags() == []
        assert lab.bits() == lab.bits(one)
        before = len(list(lab.repo._repo.log.read()))
        for change in (
            lambda: lab.repo.tag("x"), lab.repo.undo, lambda: lab.commit(lab.lora()),
            lambda: lab.repo.checkout("main"), lambda: lab.repo.revert(["HEAD"]),
        ):  # fmt: skip
            with pytest.raises(UsageError, match="read-only"):
                change()
        assert len(list(lab.repo._repo.log.read())) == before
        lab.repo.checkout("HEAD", to=lab.root / "then")
        assert bits(read_model(lab.root / "then")) == lab.bits(one)

    def test_undo_of_a_commit_takes_the_clean_workspace_along(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        lab.repo.checkout("main")
        then = bits(read_model(lab.root / "repo/model"))
        lab.commit(lab.lora())
        lab.repo.checkout("main")
        now = bits(read_model(lab.root / "repo/model"))
        done = lab.repo.undo()
        assert done.workspace_written
        assert bits(read_model(lab.root / "repo/model")) == then
        assert lab.repo.status().clean
        assert lab.repo.redo().workspace_written
        assert bits(read_model(lab.root / "repo/model")) == now

    def test_undo_leaves_a_workspace_with_unrecorded_changes_alone(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        lab.repo.checkout("main")
        (lab.root / "repo/model/notes.txt").write_text("mine")
        lab.repo.branch("side", "main")
        branches.switch(lab.repo._repo, "side")
        done = lab.repo.undo()
        assert not done.workspace_written
        assert (lab.root / "repo/model/notes.txt").read_text() == "mine"


def test_errors_are_values_that_a_program_can_use(lab: Lab) -> None:
    with pytest.raises(DeltavcError) as caught:
        lab.repo.resolve("nothing")
    assert (caught.value.slug, caught.value.exit_code) == ("revision-unknown", 20)
    assert caught.value.context["revision"] == "nothing"


def test_an_id_that_fits_several_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four shared digits take hundreds of commits; one digit is shared by 17 of them."""
    from deltavc.repo import revisions

    monkeypatch.setattr(revisions, "_PREFIX", re.compile(r"[0-9a-f]+\Z"))
    ids = [lab.commit(scaled(lab, "layers.0.v.bias", i + 2), f"{i}") for i in range(17)]
    digit = max("0123456789abcdef", key=lambda d: sum(oid.startswith(d) for oid in ids))
    with pytest.raises(AmbiguousRevision) as caught:
        lab.repo.resolve(digit)
    assert set(caught.value.context["candidates"]) == {o for o in ids if o.startswith(digit)}
    assert caught.value.exit_code == 21

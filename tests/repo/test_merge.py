"""The verb merge on small real models: the table, strategies, recipes, conflicts, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deltavc.errors import (
    BaseMismatch,
    DeltavcError,
    MergeConflict,
    NotFastForward,
    UsageError,
)

from .conftest import Lab, bits, write_adapter, write_model  # type: ignore[import-not-found]

Q, V = "layers.0.q", "layers.0.v"


def two_lines(lab: Lab, ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[str, str]:
    """Makes branches main and side from HEAD, each with a change; stands on main."""
    lab.repo.switch("side", create=True)
    theirs()
    side = lab.repo.resolve("HEAD")
    lab.repo.switch("main")
    ours()
    return lab.repo.resolve("HEAD"), side


@pytest.fixture
def forked(lab: Lab) -> Lab:
    """A root; on main q changed, on side q and v."""
    lab.commit(lab.lora(Q), "root")
    two_lines(
        lab,
        lambda: lab.commit(lab.lora(Q), "ours", stack=True),
        lambda: lab.commit(lab.lora(Q, V), "theirs", stack=True),
    )
    return lab


def test_a_conflict_changes_nothing_and_tells_all(forked: Lab) -> None:
    before, operations = forked.repo.resolve("HEAD"), len(forked.repo.operations())
    with pytest.raises(MergeConflict) as caught:
        forked.repo.merge(["side"])
    (row,) = caught.value.context["conflicts"]
    assert row["name"] == f"{Q}.weight"
    assert len(row["norms"]) == 2
    assert -1 <= row["cosine"] <= 1
    assert 0 <= row["opposed"] <= 1
    assert "--resolve" in caught.value.hint
    assert forked.repo.resolve("HEAD") == before
    assert len(forked.repo.operations()) == operations


def test_sum_takes_one_side_whole_and_adds_up_the_rest(forked: Lab, tmp_path: Path) -> None:
    done = forked.repo.merge(["side"], strategy="sum")
    assert {row.name: row.outcome for row in done.rows} == {
        f"{Q}.weight": "sum",
        f"{V}.weight": "theirs",
    }
    straight = Lab(tmp_path / "straight")  # the same changes one after another, no branches
    straight.commit(straight.lora(Q), "root")
    theirs, ours = straight.lora(Q, V), straight.lora(Q)
    straight.commit(theirs, stack=True)
    straight.commit(ours, stack=True)
    assert forked.bits() == straight.bits()
    shown = forked.repo.show("HEAD").commit
    assert shown is not None
    assert shown.recipe is not None
    assert shown.recipe["strategy"] == {"strategy": "sum"}
    assert [p["subject"] for p in shown.parents] == ["ours", "theirs"]


def test_it_does_not_matter_who_merges_whom(forked: Lab) -> None:
    forked.repo.switch("other", create=True, start="side")
    forked.repo.merge(["main"], strategy="sum")
    theirs = forked.bits()
    forked.repo.switch("main")
    forked.repo.merge(["side"], strategy="sum")
    assert forked.bits() == theirs


def test_revert_of_a_merge_gives_the_parents_bits_and_can_be_taken_back(forked: Lab) -> None:
    before = forked.bits()
    forked.repo.merge(["side"], strategy="ties", options={"density": 0.5})
    both = forked.bits()
    with pytest.raises(UsageError, match="merge"):
        forked.repo.revert(["HEAD"])
    forked.repo.revert(["HEAD"], mainline=1)
    assert forked.bits() == before
    again = forked.repo.merge(["side"], strategy="sum")
    assert (again.kind, again.changed) == ("up-to-date", False)
    assert again.taken_back_by == forked.repo.resolve("HEAD")
    forked.repo.revert(["HEAD"])
    assert forked.bits() == both
    forked.repo.revert(["HEAD~2"], mainline=2)  # the other way round: what theirs was
    assert forked.bits() == forked.bits("side")


def test_fast_forward_and_up_to_date(lab: Lab) -> None:
    lab.commit(lab.lora(Q), "root")
    lab.repo.switch("side", create=True)
    tip = lab.commit(lab.lora(V), "on", stack=True)
    lab.repo.switch("main")
    done = lab.repo.merge(["side"], dry_run=True)
    assert (done.kind, lab.repo.resolve("HEAD") == tip) == ("fast-forward", False)
    assert lab.repo.merge(["side"], fast_forward="only").kind == "fast-forward"
    assert lab.repo.resolve("HEAD") == tip
    assert lab.repo.merge(["side"]).kind == "up-to-date"
    lab.repo.undo()
    done = lab.repo.merge(["side"], fast_forward="never")
    assert done.kind == "merge"
    assert done.sides[1] == tip
    assert lab.bits() == lab.bits("side")


def test_ff_only_is_refused_where_histories_part(forked: Lab) -> None:
    with pytest.raises(NotFastForward):
        forked.repo.merge(["side"], fast_forward="only")


def test_rules_come_first_and_in_order(forked: Lab) -> None:
    ours = forked.bits()[f"{Q}.weight"]
    theirs = forked.bits("side")[f"{Q}.weight"]
    base = forked.bits("HEAD~1")[f"{Q}.weight"]
    for rules, wanted in (
        (["*.q.*=ours", "*=theirs"], ours),
        (["*.v.*=ours", "*=theirs"], theirs),
        (["*=base"], base),
    ):
        forked.repo.merge(["side"], resolve=rules)
        assert forked.bits()[f"{Q}.weight"] == wanted
        assert forked.bits()[f"{V}.weight"] == forked.bits("side")[f"{V}.weight"]
        forked.repo.undo()
    forked.repo.merge(["side"], strategy="ours")
    assert forked.bits()[f"{Q}.weight"] == ours


def test_linear_is_the_weighted_sum_over_the_reals(forked: Lab) -> None:
    forked.repo.merge(["side"], strategy="task-arithmetic", options={"weights": "1/4,-2"})
    found = forked.repo.load()[f"{Q}.weight"].double().numpy()
    base, ours, theirs = (
        forked.repo.load(rev)[f"{Q}.weight"].double().numpy()
        for rev in ("HEAD~2", "main~1", "side")
    )
    assert np.allclose(found, base + 0.25 * (ours - base) - 2 * (theirs - base), atol=3e-7)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"strategy": "tise"}, UsageError),
        ({"strategy": "ties", "options": {"density": "1.5"}}, UsageError),
        ({"strategy": "ties", "options": {"t": "0.5"}}, UsageError),
        ({"strategy": "linear", "options": {"weights": "1,2,3"}}, UsageError),
        ({"options": {"density": "0.5"}}, UsageError),
        ({"resolve": ["nothing"]}, UsageError),
        ({"resolve": ["*=theirs:2"]}, UsageError),
        ({"resolve": ["*=nobody"]}, UsageError),
        ({"strategy": "sum", "max_rank": 0}, UsageError),
        ({"strategy": "sum", "rel_error": 1.0}, UsageError),
    ],
)
def test_what_makes_no_sense_is_refused(
    forked: Lab, arguments: dict[str, Any], error: type[DeltavcError]
) -> None:
    before = forked.repo.resolve("HEAD")
    with pytest.raises(error):
        forked.repo.merge(["side"], **arguments)
    assert forked.repo.resolve("HEAD") == before


def test_another_base_is_refused(lab: Lab) -> None:
    lab.commit(lab.lora(Q))
    folder = write_model(lab.root / "other", {k: v * 2 for k, v in lab.base.items()})
    lab.repo.add_base("other", folder)
    lab.repo.switch("side", create=True)
    lab.commit(lab.lora(Q), base="other")
    lab.repo.switch("main")
    with pytest.raises(BaseMismatch):
        lab.repo.merge(["side"], strategy="sum")


def test_unrelated_histories_meet_at_the_base(lab: Lab) -> None:
    lab.commit(lab.lora(Q))
    first = lab.repo.resolve("HEAD")
    lab.repo.switch("empty", create=True)
    lab.repo.undo()
    lab.repo.undo()
    lab.commit(lab.lora(V), "another first commit")
    done = lab.repo.merge([first])
    assert done.merge_bases == []
    assert lab.bits()[f"{Q}.weight"] == lab.bits(first)[f"{Q}.weight"]


def test_criss_cross_counts_nothing_twice(lab: Lab) -> None:
    """Both sides merge each other, then go on: two merge bases."""
    lab.commit(lab.base_folder, "root")
    one, other, third, fourth = (lab.lora(Q) for _ in range(4))
    ours, side = two_lines(lab, lambda: lab.commit(one), lambda: lab.commit(other))
    lab.repo.merge([side], strategy="sum")
    lab.commit(third, stack=True)
    lab.repo.switch("side")
    lab.repo.merge([ours], strategy="sum")
    lab.commit(fourth, stack=True)
    done = lab.repo.merge(["main"], strategy="sum")
    assert sorted(done.merge_bases) == sorted([ours, side])
    merge = lab.bits()
    lab.repo.switch("line", create=True, start="main~2")
    lab.commit(lab.base_folder, "again")
    for source in (one, other, third, fourth):
        lab.commit(source, stack=True)
    assert merge == lab.bits()


def test_octopus(lab: Lab) -> None:
    lab.commit(lab.base_folder, "root")
    sources = {name: lab.lora(Q) for name in "abc"}
    for name, source in sources.items():
        lab.repo.switch(name, create=True, start="main")
        lab.commit(source, stack=True)
    lab.repo.switch("main")
    lab.commit(lab.lora(V), stack=True)
    done = lab.repo.merge(["a", "b", "c"], strategy="sum")
    assert len(done.sides) == 4
    at_once = lab.bits()
    lab.repo.undo()
    for name in "cab":
        lab.repo.merge([name], strategy="sum")
    assert lab.bits() == at_once
    lab.repo.merge(["a", "b"], strategy="sum")  # nothing new
    assert lab.bits() == at_once


def test_an_octopus_of_revisions_that_share_history_is_refused(lab: Lab) -> None:
    lab.commit(lab.base_folder, "root")
    lab.repo.switch("a", create=True)
    lab.commit(lab.lora(Q), stack=True)
    lab.repo.switch("b", create=True)
    lab.commit(lab.lora(Q), stack=True)
    lab.repo.switch("c", create=True, start="a")
    lab.commit(lab.lora(Q), stack=True)
    lab.repo.switch("main")
    lab.commit(lab.lora(V), stack=True)
    with pytest.raises(UsageError, match="twice"):
        lab.repo.merge(["b", "c"], strategy="sum")


def test_new_heads_conflict_only_where_they_overlap(lab: Lab) -> None:
    lab.commit(lab.base_folder, "root")
    head = {"score.weight": np.full((2, 8), 0.5, "f4")}
    other = {"score.weight": np.full((3, 8), 0.25, "f4")}
    two_lines(
        lab,
        lambda: lab.commit(lab.lora(Q, saved=head)),
        lambda: lab.commit(lab.lora(V, saved=other)),
    )
    with pytest.raises(MergeConflict) as caught:
        lab.repo.merge(["side"], strategy="sum")
    assert [row["name"] for row in caught.value.context["conflicts"]] == ["score.weight"]
    lab.repo.merge(["side"], strategy="sum", resolve=["score.*=theirs"])
    assert lab.repo.load()["score.weight"].shape == (3, 8)
    assert lab.bits()[f"{Q}.weight"] == lab.bits("HEAD^1")[f"{Q}.weight"]


def rows_adapter(lab: Lab, rows: dict[int, float]) -> Path:
    """An adapter with trained token rows."""
    folder = write_adapter(
        lab.folder(),
        {V: (np.zeros((8, 1), "f4"), np.zeros((1, 8), "f4"))},
        trainable_token_indices={"emb": sorted(rows)},
    )
    from safetensors.numpy import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    values = np.stack([np.full(8, rows[row], "f4") for row in sorted(rows)])
    tensors["base_model.model.emb.token_adapter.trainable_tokens_delta"] = values
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def test_token_rows_merge_row_by_row(lab: Lab) -> None:
    lab.commit(rows_adapter(lab, {1: 0.5, 2: 0.5}), "root")
    two_lines(
        lab,
        lambda: lab.commit(rows_adapter(lab, {1: 0.5, 2: 3.0})),
        lambda: lab.commit(rows_adapter(lab, {1: 4.0, 2: 0.5, 7: 9.0})),
    )
    done = lab.repo.merge(["side"])
    assert {row.name: row.outcome for row in done.rows}["emb.weight"] == "rows"
    found = lab.repo.load()["emb.weight"].numpy()
    wanted = lab.base["emb.weight"].copy()
    wanted[1], wanted[2], wanted[7] = 4.0, 3.0, 9.0
    assert np.array_equal(found, wanted)
    lab.repo.undo()
    lab.commit(rows_adapter(lab, {1: 0.5, 2: 3.0, 7: 8.0}))
    with pytest.raises(MergeConflict) as caught:
        lab.repo.merge(["side"], strategy="sum")
    assert caught.value.context["conflicts"][0]["parts"] == ["7"]


def test_configs_merge_key_by_key(lab: Lab) -> None:
    def model(config: dict[str, Any]) -> Path:
        return write_model(lab.folder(), lab.base, config=json.dumps(config))

    old = {"hidden_size": 8, "labels": 2, "name": "x"}
    lab.commit(model(old), "root")
    two_lines(
        lab,
        lambda: lab.commit(model(old | {"labels": 3})),
        lambda: lab.commit(model({"hidden_size": 8, "labels": 2, "extra": [1]})),
    )
    done = lab.repo.merge(["side"])
    assert {row.name: row.outcome for row in done.rows} == {"file:config.json": "keys"}
    lab.repo.checkout("HEAD", to=lab.root / "out")
    merged = json.loads((lab.root / "out/config.json").read_text())
    assert merged == {"hidden_size": 8, "labels": 3, "extra": [1]}
    lab.repo.undo()
    lab.commit(model(old | {"labels": 3, "extra": [2]}))
    with pytest.raises(MergeConflict) as caught:
        lab.repo.merge(["side"])
    assert caught.value.context["conflicts"][0]["parts"] == ["extra"]
    lab.repo.merge(["side"], resolve=["file:*=theirs"])


def test_a_tensor_removed_here_and_changed_there(lab: Lab) -> None:
    lab.commit(lab.base_folder, "root")
    two_lines(
        lab,
        lambda: lab.commit(lab.checkpoint(lambda t: t.pop("emb.weight") is None or None)),
        lambda: lab.commit(lab.checkpoint(lambda t: t.update({"emb.weight": t["emb.weight"] + 1}))),
    )
    with pytest.raises(MergeConflict, match="1 parameter"):
        lab.repo.merge(["side"], strategy="sum")
    lab.repo.merge(["side"], resolve=["emb.*=ours"])
    assert "emb.weight" not in lab.bits()
    lab.repo.undo()
    lab.repo.merge(["side"], resolve=["emb.*=theirs"])
    assert lab.bits()["emb.weight"] == lab.bits("side")["emb.weight"]


def test_further_trained_checkpoints_share_what_they_came_from(lab: Lab) -> None:
    """Values, not names: X + (A - X) + (B - X), where merging two ends gives A + B."""
    names = (f"{Q}.weight", "emb.weight")

    def changed(factor: float, name: str) -> Callable[[dict[str, Any]], None]:
        def change(tensors: dict[str, Any]) -> None:
            tensors[f"{Q}.weight"] += np.float32(0.5)
            tensors[f"{Q}.weight"] *= np.float32(factor)
            tensors[name] += np.float32(0)

        return change

    lab.commit(lab.checkpoint(changed(1, names[0])), "root")
    two_lines(
        lab,
        lambda: lab.commit(lab.checkpoint(changed(1.25, names[0]))),
        lambda: lab.commit(lab.checkpoint(changed(0.75, names[0]))),
    )
    lab.repo.merge(["side"], strategy="sum")
    x, a, b, m = (
        lab.repo.load(rev)[names[0]].double().numpy()
        for rev in ("HEAD~2", "HEAD~1", "side", "HEAD")
    )
    assert np.allclose(m, x + (a - x) + (b - x), atol=1e-6)


def test_fsck_deep_does_merges_again(forked: Lab) -> None:
    recipes = [("sum", {}), ("ties", {"density": "0.5"}), ("dare-ties", {"seed": 7})]
    for count, (strategy, options) in enumerate(recipes, 1):
        forked.repo.merge(["side"], strategy=strategy, options=options)
        found = forked.repo.fsck(deep=True)
        assert (found.ok, found.merges) == (True, count)  # undone ones are kept for redo
        forked.repo.undo()


def test_tied_parameters_stay_tied(lab: Lab) -> None:
    """Equal deltas on equal tensors are combined once, even where chance decides."""
    lab.base["tied.weight"] = lab.base["emb.weight"].copy()
    folder = write_model(lab.root / "tied", lab.base)
    lab.repo.add_base("tied", folder)

    def both(change: float) -> Path:
        def scale(tensors: dict[str, Any]) -> None:
            for name in ("emb.weight", "tied.weight"):
                tensors[name] = tensors[name] * np.float32(change)

        return lab.checkpoint(scale)

    lab.commit(folder, "root", base="tied")
    two_lines(
        lab,
        lambda: lab.commit(both(1.5), base="tied"),
        lambda: lab.commit(both(0.5), base="tied"),
    )
    lab.repo.merge(["side"], strategy="dare-linear", options={"seed": 3, "density": 0.5})
    found = bits(lab.repo.load())
    assert found["emb.weight"] == found["tied.weight"]


def test_measured_errors_stay_told(lab: Lab) -> None:
    lab.commit(lab.base_folder, "root")
    two_lines(
        lab,
        lambda: lab.commit(lab.lora(V)),
        lambda: lab.repo.commit(lab.lora(Q, rank=4), message="approximate", max_rank=1),
    )
    error = lab.repo.show("side").commit.errors[f"{Q}.weight"]  # type: ignore[union-attr]
    done = lab.repo.merge(["side"])
    assert done.errors == {f"{Q}.weight": error}


def test_a_threshold_for_the_model_is_recorded_and_done_again(lab: Lab) -> None:
    lab.commit(lab.lora(Q), "root")

    def changed() -> Path:
        def change(tensors: dict[str, Any]) -> None:
            tensors[f"{Q}.weight"] += 5 * lab.rng.normal(size=(8, 8)).astype("f4")
            tensors[f"{V}.weight"] += 0.01 * lab.rng.normal(size=(8, 8)).astype("f2")

        return lab.checkpoint(change)

    two_lines(lab, lambda: lab.commit(changed()), lambda: lab.commit(changed()))
    options = {"density": "1/4", "scope": "model"}
    done = lab.repo.merge(["side"], strategy="ties", options=options)
    facts = {row.name: row.facts["nonzero"] for row in done.rows}
    assert facts[f"{V}.weight"] == 0  # its changes are the model's smallest
    assert facts[f"{Q}.weight"] > 0.25
    shown = lab.repo.show("HEAD").commit
    assert shown is not None
    assert shown.recipe is not None
    assert shown.recipe["strategy"]["scope"] == "model"
    found = lab.repo.fsck(deep=True)
    assert (found.ok, found.merges) == (True, 1)

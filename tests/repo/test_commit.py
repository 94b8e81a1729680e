"""What ``commit`` takes and keeps: bits of every sort, and its options."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import deltavc
from deltavc.errors import (
    BaseMismatch,
    BaseUnavailable,
    DeltavcError,
    NonFiniteTensor,
    ShapeMismatch,
    UnknownRevision,
    UnsupportedFormat,
    UsageError,
)

from .conftest import (  # type: ignore[import-not-found]
    Arrays,
    Lab,
    bits,
    read_model,
    write_adapter,
    write_model,
)

SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.5]


def odd_model(dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    """Returns tensors with every kind of value and shape that a file may hold."""
    torch.manual_seed(seed)
    tiny = torch.finfo(dtype).tiny
    special = torch.tensor([*SPECIAL, tiny / 2, -tiny / 4, torch.finfo(dtype).max])
    return {
        "plain": torch.randn(9, 7).to(dtype),
        "special": (special * (1 + seed)).to(dtype),
        "scalar": torch.tensor(float(seed)).to(dtype),
        "empty": torch.zeros(0, 4, dtype=dtype),
        "one": torch.full((1, 1, 1), -0.0 if seed else 0.0).to(dtype),
        "ids": torch.arange(5 + 0) * (seed + 1),
        "mask": torch.tensor([True, bool(seed), False]),
        "bytes": torch.tensor([0, 255, seed], dtype=torch.uint8),
        "zeros": torch.zeros(6, 2, dtype=dtype) + seed,
    }


def save_odd(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
def test_every_value_and_shape_comes_back_in_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    repo = deltavc.init(tmp_path / "repo")
    repo.add_base("odd", save_odd(tmp_path / "base", odd_model(dtype, 0)))
    source = save_odd(tmp_path / "tuned", odd_model(dtype, 1))
    for folder in (source, tmp_path / "base", source):
        assert repo.commit(folder, message="odd").exact
        wanted = bits(load_file(folder / "model.safetensors"))
        assert bits(repo.load()) == wanted
        repo.checkout("HEAD", to=tmp_path / "out", verify=True)
        assert bits(load_file(tmp_path / "out/model.safetensors")) == wanted


@pytest.mark.parametrize(
    ("wanted", "effort"),
    [
        (torch.bfloat16, "fast"),
        (torch.bfloat16, "max"),
        (torch.float16, "default"),
        (torch.float64, "default"),
    ],
    ids=str,
)
def test_another_dtype_comes_back_in_bits(tmp_path: Path, wanted: torch.dtype, effort: str) -> None:
    repo = deltavc.init(tmp_path / "repo")
    repo.add_base("odd", save_odd(tmp_path / "base", odd_model(torch.float32, 0)))
    source = save_odd(tmp_path / "tuned", odd_model(wanted, 1))
    repo.commit(source, message="another dtype", effort=effort)
    assert bits(repo.load()) == bits(load_file(source / "model.safetensors"))
    assert repo.load()["plain"].dtype is wanted


def test_names_and_shapes_that_come_and_go(lab: Lab) -> None:
    def change(t: Arrays) -> None:
        del t["layers.0.v.bias"]
        t["head.weight"] = np.full((3, 8), -0.0, "f4")
        t["head.steps"] = np.array(7, "i8")
        t["emb.weight"] = np.vstack([t["emb.weight"], np.ones((2, 8), "f4")])

    source = lab.checkpoint(change)
    lab.commit(source)
    assert lab.bits() == bits(read_model(source))
    shown = lab.repo.show().commit
    assert shown is not None
    assert shown.removed == ["layers.0.v.bias"]
    back = lab.commit(lab.base_folder, "the base again")
    assert lab.bits(back) == bits(lab.base)
    lab.repo.revert(["HEAD"])
    assert lab.bits() == bits(read_model(source))


def test_a_file_whose_tensors_lie_unaligned(lab: Lab) -> None:
    """A lone byte in front shifts what follows off the eight-byte grid."""

    def change(t: Arrays) -> None:
        t["layers.0.q.weight"] *= np.float32(1.5)

    source = lab.checkpoint(change)
    tensors = read_model(source)
    header = {}
    at = 4
    blobs = [b"\0\0\0\0"]
    names = {"F32": "f4", "F16": "f2", "I64": "i8"}
    header["pad"] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for name, value in tensors.items():
        kind = next(k for k, v in names.items() if np.dtype(v) == value.dtype)
        raw = value.tobytes()
        header[name] = {
            "dtype": kind, "shape": list(value.shape), "data_offsets": [at, at + len(raw)]
        }  # fmt: skip
        at += len(raw)
        blobs.append(raw)
    import json

    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = lab.root / "unaligned.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    done = lab.repo.commit(path, message="unaligned")
    assert done.parameters == 2  # the one that changed, and the padding
    assert lab.bits() == bits({**tensors, "pad": np.zeros(1, "f4")})


def test_only_these_parameters(lab: Lab) -> None:
    lab.commit(lab.checkpoint(lambda t: t.update({"emb.weight": t["emb.weight"] * 2})))
    source = lab.checkpoint(lambda t: t.update({n: v * 3 for n, v in t.items() if v.ndim == 2}))
    lab.commit(source, "attention only", params=["layers.*"], exclude=["*.v.*"])
    wanted = {
        **lab.base,
        "emb.weight": lab.base["emb.weight"] * 2,
        "layers.0.q.weight": lab.base["layers.0.q.weight"] * 3,
    }
    assert lab.bits() == bits(wanted)
    lab.commit(lab.lora(), "one of two", params=["*.q.*"])
    changed = {row.parameter for row in lab.repo.diff("HEAD~1", "HEAD").rows}
    assert changed == {"layers.0.q.weight"}
    with pytest.raises(UsageError, match="--stack"):
        lab.commit(lab.lora(), stack=True, params=["*.q.*"])


def test_stack_where_it_means_nothing(lab: Lab) -> None:
    with pytest.raises(UsageError, match="no commit to stack on"):
        lab.commit(lab.lora(), stack=True)
    lab.commit(lab.lora())
    with pytest.raises(UsageError, match="takes an adapter"):
        lab.commit(lab.base_folder, stack=True)
    assert len(lab.repo.log()) == 1


def test_the_same_twice_changes_nothing(lab: Lab) -> None:
    source = lab.lora()
    first = lab.repo.commit(source, message="one")
    again = lab.repo.commit(source, message="another message")
    assert (first.changed, again.changed) == (True, False)
    assert again.commit == first.commit
    assert again.bytes_stored == 0
    assert len(lab.repo.operations()) == 3  # init, base add, commit
    full = lab.root / "full"
    lab.repo.checkout("HEAD", to=full)
    kept = lab.repo.commit(full, message="the checkout itself")
    assert lab.repo.diff("HEAD~1" if kept.changed else "HEAD", "HEAD").rows == []


def test_a_dry_run_writes_nothing(lab: Lab) -> None:
    def files() -> list[tuple[Path, int]]:
        # SQLite keeps its shared memory beside an open database
        found = (p for p in (lab.root / "repo").rglob("*") if not p.name.startswith("catalog.db-"))
        return sorted((p, p.stat().st_size) for p in found if p.is_file())

    source = lab.lora()
    before = files()
    plan = lab.repo.commit(source, message="would be", dry_run=True)
    assert (plan.commit, plan.changed, plan.dry_run) == (None, True, True)
    assert plan.bytes_stored > 0
    assert files() == before


def test_labels_data_kpis_and_run_are_kept(lab: Lab) -> None:
    data = lab.root / "train.csv"
    data.write_text("text,label\na,1\n")
    folder = lab.root / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/a.txt").write_text("a")
    lab.commit(
        lab.lora(),
        labels={"team": "search", "dataset": "2026-10"},
        data=[data, folder],
        kpis={"accuracy": 0.875, "loss": math.nan, "delta": -0.0},
        run="mlflow:8c1f22",
    )
    shown = lab.repo.show().commit
    assert shown is not None
    assert shown.labels == {"team": "search", "dataset": "2026-10"}
    assert shown.run == "mlflow:8c1f22"
    refs = {ref["name"]: ref for ref in shown.data}
    assert refs["train.csv"]["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    inner = hashlib.sha256(b"a").hexdigest()
    listing = hashlib.sha256(f"{inner}  sub/a.txt\n".encode()).hexdigest()
    assert (refs["folder"]["sha256"], refs["folder"]["size"]) == (listing, 1)
    measured = {row.kpi: (row.value, row.is_nan) for row in shown.measurements}
    assert measured == {"accuracy": (0.875, False), "delta": (-0.0, False), "loss": (None, True)}
    assert lab.repo.log()[0].measurements == {"accuracy": 0.875, "delta": 0.0, "loss": None}
    assert lab.repo.status().measurements["accuracy"] == 0.875


def test_infinite_kpis_and_missing_data_are_refused(lab: Lab) -> None:
    with pytest.raises(DeltavcError):
        lab.commit(lab.lora(), kpis={"loss": math.inf})
    with pytest.raises(UnsupportedFormat, match="cannot be read"):
        lab.commit(lab.lora(), data=[lab.root / "nowhere.csv"])
    assert lab.repo.branches()[0].commit is None
    assert lab.repo.fsck().ok


def test_options_that_make_no_sense(lab: Lab) -> None:
    source = lab.checkpoint(lambda t: t.update({"emb.weight": t["emb.weight"] * 2}))
    cases: list[tuple[dict[str, Any], type[DeltavcError]]] = [
        ({"message": " "}, UsageError),
        ({"max_rank": 0}, UsageError),
        ({"rel_error": 1.0}, UsageError),
        ({"rel_error": math.nan}, UsageError),
        ({"effort": "heroic"}, UsageError),
        ({"kind": "lora"}, UsageError),
        ({"base": "huge"}, UnknownRevision),
        ({"labels": {"": "x"}}, UsageError),
    ]
    for options, error in cases:
        with pytest.raises(error):
            lab.repo.commit(source, **{"message": "m", **options})
    assert lab.repo.branches()[0].commit is None


def test_sources_that_are_not_there(lab: Lab) -> None:
    with pytest.raises(UnsupportedFormat, match="no file or folder"):
        lab.commit(lab.root / "nowhere")
    with pytest.raises(UsageError, match="no workspace"):
        lab.repo.commit(message="from the workspace")
    empty = lab.root / "empty"
    empty.mkdir()
    with pytest.raises(UnsupportedFormat):
        lab.commit(empty)
    with pytest.raises(UnsupportedFormat, match="adapter"):
        lab.commit(lab.lora(), kind="checkpoint")
    with pytest.raises(UnsupportedFormat):
        lab.commit(lab.base_folder, kind="peft")


def test_adapters_that_do_not_fit(lab: Lab) -> None:
    wide = {"layers.0.q": (np.ones((9, 2), "f4"), np.ones((2, 8), "f4"))}
    with pytest.raises(ShapeMismatch):
        lab.commit(write_adapter(lab.folder(), wide))
    broken = {"layers.0.q": (np.full((8, 2), np.nan, "f4"), np.ones((2, 8), "f4"))}
    with pytest.raises(NonFiniteTensor):
        lab.commit(write_adapter(lab.folder(), broken))
    both = {
        "layers.0.q": (np.ones((8, 2), "f4"), np.ones((2, 8), "f4")),
        "layers.7.q": (np.ones((8, 2), "f4"), np.ones((2, 8), "f4")),
    }
    with pytest.raises(BaseMismatch, match=r"layers\.7\.q"):
        lab.commit(write_adapter(lab.folder(), both))
    assert lab.repo.branches()[0].commit is None


class TestSeveralBases:
    @pytest.fixture
    def two(self, lab: Lab) -> Lab:
        other = {name: value + 1 for name, value in lab.base.items()}
        lab.other = write_model(lab.root / "other", other)
        lab.repo.add_base("other", lab.other)
        return lab

    def test_a_name_is_needed_until_head_tells(self, two: Lab) -> None:
        with pytest.raises(UsageError, match="several bases: other, tiny"):
            two.commit(two.lora())
        done = two.repo.commit(two.lora(), message="named", base="other")
        assert done.base_name == "other"
        assert two.repo.commit(two.lora(), message="as HEAD").base_name == "other"
        assert two.repo.commit(two.lora(), message="changed", base="tiny").base_name == "tiny"

    def test_nothing_is_stacked_or_picked_across_bases(self, two: Lab) -> None:
        two.commit(two.lora(), base="tiny")
        with pytest.raises(BaseMismatch, match="another base"):
            two.commit(two.lora(), base="other", stack=True)
        other = two.commit(two.lora(), base="other")
        two.repo.branch("old", "HEAD~1")
        two.repo.switch("old")
        with pytest.raises(BaseMismatch) as caught:
            two.repo.cherry_pick([other])
        assert caught.value.exit_code == 25
        with pytest.raises(BaseMismatch):
            two.repo.diff("old", other)

    def test_one_fingerprint_under_two_names_is_one_base(self, lab: Lab) -> None:
        lab.repo.add_base("alias", lab.base_folder)
        assert lab.repo.commit(lab.lora(), message="no question").changed

    def test_without_any(self, tmp_path: Path, lab: Lab) -> None:
        repo = deltavc.init(tmp_path / "bare")
        with pytest.raises(BaseUnavailable, match="no base is registered"):
            repo.commit(lab.lora(), message="m")


class TestApproximate:
    def relative(self, lab: Lab, source: Path, name: str) -> float:
        """Measures the stored change against the given one, from the outside."""
        base = lab.base[name].astype("f8")
        given = read_model(source)[name].astype("f8") - base
        # the stored factors, as an adapter gives them back
        out = lab.root / f"factors-{lab.now}"
        lab.repo.checkout("HEAD", to=out, form="peft")
        tensors = load_file(out / "adapter_model.safetensors")
        module = f"base_model.model.{name.removesuffix('.weight')}"
        b = tensors[f"{module}.lora_B.weight"].double().numpy()
        a = tensors[f"{module}.lora_A.weight"].double().numpy()
        import json

        config = json.loads((out / "adapter_config.json").read_text())
        scale = config["lora_alpha"] / config["r"]
        return float(np.linalg.norm(scale * b @ a - given) / np.linalg.norm(given))

    def test_a_checkpoint_within_a_rank(self, lab: Lab) -> None:
        noise = lab.rng.normal(size=(8, 8)).astype("f4")
        name = "layers.0.q.weight"
        source = lab.checkpoint(lambda t: t.update({name: t[name] + noise}))
        done = lab.repo.commit(source, message="rough", max_rank=3)
        assert not done.exact
        assert list(done.errors) == [name]
        values = np.linalg.svd(read_model(source)[name].astype("f8") - lab.base[name], False, False)
        optimum = float(np.linalg.norm(values[3:]) / np.linalg.norm(values))
        assert done.errors[name] == pytest.approx(optimum, rel=1e-4)
        assert done.errors[name] == pytest.approx(self.relative(lab, source, name), rel=1e-4)
        shown = lab.repo.show().commit
        assert shown is not None
        assert (shown.exact, shown.errors) == (False, done.errors)
        assert not lab.repo.log()[0].exact
        assert lab.repo.log("HEAD")[0].exact is False

    def test_an_error_bound_is_kept(self, lab: Lab) -> None:
        left, right = lab.rng.normal(size=(8, 8)), lab.rng.normal(size=(8, 8))
        change = (left * 0.5 ** np.arange(8)) @ right
        name = "layers.0.q.weight"
        source = lab.checkpoint(lambda t: t.update({name: (t[name] + change).astype("f4")}))
        done = lab.repo.commit(source, message="rough", rel_error=0.1)
        assert 0 < done.errors[name] <= 0.1
        assert max(row.rank_max or 0 for row in done.kinds) < 8

    def test_an_adapter_that_fits_stays_exact(self, lab: Lab) -> None:
        source = lab.lora(rank=2)
        done = lab.repo.commit(source, message="fits", max_rank=4)
        assert done.exact
        assert done.errors == {}
        cut = lab.repo.commit(lab.lora(rank=4), message="cut", max_rank=2)
        assert set(cut.errors) == {"layers.0.q.weight", "layers.0.v.weight"}
        assert all(0 < e < 1 for e in cut.errors.values())

    def test_what_cannot_be_approximated_stays_exact(self, lab: Lab) -> None:
        def change(t: Arrays) -> None:
            t["layers.0.v.bias"][0] = np.inf
            t["position_ids"] += 1

        source = lab.checkpoint(change)
        done = lab.repo.commit(source, message="not matrices", max_rank=1)
        assert done.exact
        assert lab.bits() == bits(read_model(source))

    def test_errors_follow_the_parameter_through_history(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        lab.commit(lab.lora(rank=4), max_rank=1)
        lab.commit(lab.lora("layers.0.q", rank=1), "exact on top", stack=True)
        rows = lab.repo.log()
        assert [row.exact for row in rows] == [False, False, True]
        lab.repo.revert(["HEAD~1"])
        assert lab.repo.log()[0].exact


def test_a_checkpoint_keeps_the_adapter_where_bits_are_equal(lab: Lab) -> None:
    lab.commit(lab.lora())
    full = lab.root / "full"
    lab.repo.checkout("HEAD", to=full)
    tensors = load_file(full / "model.safetensors")
    tensors["emb.weight"] += 1
    save_file(tensors, full / "model.safetensors")
    done = lab.repo.commit(full, message="the embedding too")
    kinds = {row.kind: row.parameters for row in done.kinds}
    assert kinds["as at HEAD"] == 2
    assert bits(lab.repo.load()) == bits(tensors)
    rows = {row.parameter: row.kind for row in lab.repo.blame()}
    assert rows["layers.0.q.weight"] == rows["layers.0.v.weight"] == "lowrank"

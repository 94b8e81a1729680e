"""A repository made by deltavc, read by a reader that was written from the format's pages alone."""

from __future__ import annotations

import ast
import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import deltavc
from deltavc.codec.digest import sha256_hex
from deltavc.delta import kinds
from deltavc.delta.encode import encode_tensor
from deltavc.delta.exact import Coded, code, finish, residual
from deltavc.delta.ordinals import ordinals, round_bits
from deltavc.delta.predict import Drift, LowRank, Same
from deltavc.delta.residual_bands import encode_bands
from deltavc.delta.residual_native import Bands
from deltavc.delta.sparse import sparse_change
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.delta.vector import Vector, form_to_text
from deltavc.ids import BaseId, DeltaId
from deltavc.repo.objects import ObjectSink
from deltavc.repo.record import About, record_version

from . import independent_reader as reader  # type: ignore[attr-defined]

Tensors = dict[str, torch.Tensor]
ROOT = Path(__file__).parents[2]
BALL = int(np.float64(0.3).view(np.uint64))  # between the sizes of the blocks it is for


def base_tensors() -> Tensors:
    make = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return 0.05 * torch.randn(*shape, generator=make)

    return {
        "emb.weight": normal(40, 16),
        "layers.0.q.weight": normal(64, 48),
        "layers.0.v.weight": normal(64, 48).bfloat16(),
        "layers.0.o.weight": normal(24, 18).half(),
        "layers.0.o.bias": normal(24),
        "layers.0.table": normal(12, 12).double(),
        "decayed.weight": normal(300, 256),
        "position_ids": torch.arange(16),
        "scale": torch.tensor(0.5),
        "edge": torch.tensor([[0.0, -0.0, 1.0, float("nan")], [float("inf"), -1.0, 1e-45, 3e38]]),
        "experts": normal(3, 6, 4).bfloat16(),
    }


def save_folder(folder: Path, tensors: Tensors, *, shards: bool = False, **files: str) -> Path:
    folder.mkdir(parents=True)
    if shards:
        names = list(tensors)
        parts = {
            "model-00001-of-00002.safetensors": names[:4],
            "model-00002-of-00002.safetensors": names[4:],
        }
        for file, part in parts.items():
            save_file({n: tensors[n].clone() for n in part}, folder / file, {"format": "pt"})
        index = {"metadata": {}, "weight_map": {n: f for f, part in parts.items() for n in part}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file({n: t.clone() for n, t in tensors.items()}, folder / "model.safetensors")
    for name, text in {"config": '{"hidden_size": 16}', **files}.items():
        (folder / f"{name}.json").write_text(text)
    return folder


def save_adapter(folder: Path, tensors: Tensors, **config: Any) -> Path:
    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "bias": "none"} | config
    named = {f"base_model.model.{name}": t.contiguous() for name, t in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def factors(module: str, rows: int, columns: int, seed: int, dtype: torch.dtype) -> Tensors:
    make = torch.Generator().manual_seed(seed)
    return {
        f"{module}.lora_B.weight": (0.1 * torch.randn(rows, 2, generator=make)).to(dtype),
        f"{module}.lora_A.weight": torch.randn(2, columns, generator=make).to(dtype),
    }


def lora(folder: Path, seed: int, dtype: torch.dtype = torch.float32) -> Path:
    tensors = factors("layers.0.q", 64, 48, seed, dtype)
    tensors |= factors("layers.0.v", 64, 48, seed + 100, dtype)
    return save_adapter(folder, tensors, target_modules=["q", "v"])


def with_embedding(folder: Path) -> Path:
    make = torch.Generator().manual_seed(9)
    tensors = {
        "emb.lora_embedding_A": torch.randn(2, 40, generator=make),
        "emb.lora_embedding_B": torch.randn(16, 2, generator=make),
        "classifier.weight": torch.randn(3, 16, generator=make),
    }
    return save_adapter(folder, tensors, target_modules=["emb"], modules_to_save=["classifier"])


def with_rows(folder: Path) -> Path:
    tensors = factors("layers.0.q", 64, 48, 21, torch.float16)
    tensors["emb.token_adapter.trainable_tokens_delta"] = torch.full((2, 16), 0.25)
    return save_adapter(folder, tensors, target_modules=["q"], trainable_token_indices=[7, 3])


def full(tensors: Tensors) -> Tensors:
    """Changes every tensor in another way."""
    make = torch.Generator().manual_seed(3)
    left, right = torch.randn(64, 2, generator=make), torch.randn(2, 48, generator=make)
    new = dict(tensors)
    new["layers.0.q.weight"] = tensors["layers.0.q.weight"] + 0.01 * left @ right
    changed = tensors["layers.0.v.weight"].clone()
    changed[5, 7] += 1
    changed[60, 40:] *= 1.5
    new["layers.0.v.weight"] = changed
    noise = 1e-3 * torch.randn(24, 18, generator=make)
    new["layers.0.o.weight"] = (tensors["layers.0.o.weight"].float() + noise).half()
    new["layers.0.o.bias"] = torch.cat([tensors["layers.0.o.bias"][:-1], torch.tensor([-0.0])])
    new["layers.0.table"] = tensors["layers.0.table"] * 1.001
    decayed = tensors["decayed.weight"].clone()
    for _ in range(20):
        decayed *= 0.99999
    new["decayed.weight"] = decayed
    new["position_ids"] = tensors["position_ids"] + 1
    new["scale"] = torch.tensor(0.75)
    new["edge"] = torch.nan_to_num(tensors["edge"], posinf=2.0) + 1
    new["classifier.weight"] = torch.randn(3, 16, generator=make).bfloat16()
    return new


def other_shapes(tensors: Tensors) -> Tensors:
    """Names in front, a removed tensor, a grown embedding, another dtype."""
    new = {f"model.{name}": t for name, t in tensors.items() if name != "layers.0.table"}
    new["model.emb.weight"] = torch.cat([tensors["emb.weight"], torch.ones(2, 16)])
    new["model.layers.0.o.bias"] = tensors["layers.0.o.bias"].bfloat16()
    new["classifier.bias"] = torch.zeros(0)
    return new


class Bench:
    """Writes what no verb writes: chosen deltas with chosen coefficients."""

    def __init__(self, repo: deltavc.Repository, base: Tensors) -> None:
        self.inner = repo._repo
        self.base = {name: as_tensor(t) for name, t in base.items()}

    def commit(self, name: str, *terms: tuple[kinds.Delta, str], form: Tensor | None = None) -> str:
        inner = self.inner
        record = inner.base_names(inner.state())["small"]
        with inner.change("commit") as change, inner.store.pack() as pack:
            sink = ObjectSink(inner.store, pack)
            params: dict[DeltaId, Fraction] = {}
            for delta, coefficient in terms:
                params[sink.delta(delta)[0]] = Fraction(coefficient)
            meta = {} if form is None else {f"shape:{name}": form_to_text(*form_of(form))}
            vector = Vector(BaseId(record.base), {name: params}, meta)
            commit, _ = record_version(inner, change, sink, vector, About("by hand"))
            pack.finish()
        assert commit is not None
        return commit

    def exact(
        self, name: str, predictor: Any, *, share: float, grouped: bool = False,
        bands: Bands | None = None,
    ) -> kinds.Delta:  # fmt: skip
        """Makes an exact delta whose residual is not zero at a share of the elements."""
        base = self.base[name]
        rng = np.random.default_rng(int(share * 100) + grouped)
        moved = predictor.predict(base.bits, 0)
        moved += np.where(rng.random(base.count) < share, rng.integers(1, 9, base.count), 0).astype(
            moved.dtype
        )
        if bands is not None:
            moved[::40] += moved.dtype.type(1000)  # does not fit one byte
        new = Tensor(base.dtype, base.shape, ordinals(moved))
        left = residual(base, new, predictor)
        coded = code(base, predictor, left, grouped=grouped)
        if bands is not None:
            streams, params = encode_bands(left.folded, base.bits, base.dtype, bands)
            params |= predictor.params()
            coded = Coded("bands", params, (*predictor.streams(), *streams))
        return finish(coded, new, sha256_hex(base.raw()))

    def floats(self, name: str, scale: float, seed: int) -> Tensor:
        """Returns values of a parameter's dtype and shape."""
        base = self.base[name]
        values = scale * np.random.default_rng(seed).standard_normal(base.count)
        return Tensor(base.dtype, base.shape, round_bits(values, base.dtype))

    def lowrank(self, name: str, seed: int, scale: str = "3/2", **more: Any) -> kinds.Delta:
        rows, columns = self.base[name].matrix_shape
        if more.get("transposed"):
            rows, columns = columns, rows
        rng = np.random.default_rng(seed)
        b = Tensor.from_array(rng.standard_normal((rows, 2)).astype("f4"))
        a = Tensor.from_array((0.1 * rng.standard_normal((2, columns))).astype("f2"))
        return kinds.lowrank(b, a, Fraction(scale), shape=self.base[name].shape, **more)

    def scaled(self, name: str) -> list[tuple[kinds.Delta, str]]:
        """Makes a delta of each kind that holds tensors as found, with coefficients."""
        shape = self.base[name].shape
        rows, columns = self.base[name].matrix_shape
        rng, one = np.random.default_rng(9), Fraction(1)

        def t(*dims: int, size: float = 0.1, dtype: str = "f4") -> Tensor:
            return Tensor.from_array((size * rng.standard_normal(dims)).astype(dtype))

        def product(form: str, scale: str = "1", **tensors: Tensor) -> kinds.Delta:
            return kinds.product(form, tensors, Fraction(scale), shape=shape)

        def turn(form: str, params: dict[str, int] | None = None, **tensors: Tensor) -> kinds.Delta:
            return kinds.rightmul(form, tensors, params, shape=shape)

        b, a = t(rows, 2, size=1), t(2, columns, dtype="f2")
        turned = {"b": t(columns, 2, size=1), "a": t(2, rows)}
        gain = 1 + 0.1 * rng.standard_normal(rows)
        found = [
            kinds.rowscale(t(rows, 1), Fraction(-1, 3), shape=shape),
            kinds.colscale(t(1, columns), Fraction(0), shape=shape),
            kinds.dora(b, a, t(rows), gain, Fraction(1, 2), shape=shape),
            kinds.dora(b, a, t(rows, size=3), None, Fraction(1, 2), shape=shape),
            kinds.product("adalora", turned | {"e": t(2)}, one, shape=shape, transposed=True),
            product("hadamard", "3/7", w1a=b, w1b=a, w2a=t(rows, 3), w2b=t(3, columns)),
            product("kron", w1=t(4, 2), w2a=t(3, rows // 4), w2b=t(2, columns // 2), t2=t(3, 2, 1)),
            product("kron", w1a=t(4, 2), w1b=t(2, 3), w2=t(rows // 4, columns // 3)),
            turn("oft", r=t(3, 6)),
            turn("oft", {"terms": 5, "share": 1}, r=t(1, 6)),
            turn("oft", {"terms": 4, "direct": 1}, r=t(3, 6)),
            turn("oft", {"terms": 5, "ball": BALL}, r=t(3, 6)),
            turn("boft", r=t(2, 6, 2, 2, size=1), s=t(rows)),
            turn("boft", r=t(1, 3, 4, 4, size=1), s=t(rows)),
            turn("hra", u=t(columns, 3, size=1)),
            turn("hra", {"orthogonal": 1}, u=t(columns, 3, size=1)),
        ]
        return [
            (delta, text) for delta, text in zip(found, ["1", "-1/3"] * len(found), strict=False)
        ]

    def experts(self, *, transposed: bool) -> kinds.Delta:
        """Makes a delta of the stack of experts."""
        rng = np.random.default_rng(4)
        out, inner = (4, 6) if transposed else (6, 4)
        shapes = {"a": (6, inner), "b": (out, 6)}
        tensors = {
            n: Tensor.from_array(rng.standard_normal(s).astype("f4")) for n, s in shapes.items()
        }
        scale, shape = Fraction(2, 3), self.base["experts"].shape
        return kinds.product("experts", tensors, scale, shape=shape, transposed=transposed)

    def shared(self, name: str) -> kinds.Delta:
        """Makes a delta with tensors in blobs, which are stored."""
        rows, columns = self.base[name].matrix_shape
        rng = np.random.default_rng(10)
        tensors = {
            key: Tensor.from_array((0.3 * rng.standard_normal(dims)).astype("f4"))
            for key, dims in (("a", (4, columns + 3)), ("b", (rows + 1, 4)))
        }
        with self.inner.store.pack() as pack:
            sink = ObjectSink(self.inner.store, pack)
            ids = {key: sink.blob(bytes(tensor.raw())) for key, tensor in tensors.items()}
            pack.finish()
        tensors["lambda_b"] = Tensor.from_array(rng.standard_normal(rows).astype("f4"))
        tensors["lambda_d"] = Tensor.from_array(rng.standard_normal(4).astype("f4"))
        shape = self.base[name].shape
        return kinds.product("vera", tensors, Fraction(1, 8), shape=shape, shared=ids)


def form_of(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    return tensor.dtype.name, tensor.shape


def as_tensor(value: torch.Tensor) -> Tensor:
    names = {v.torch: v for v in DTYPES.values()}
    dtype = names[str(value.dtype).removeprefix("torch.")]
    return Tensor.from_buffer(dtype, tuple(value.shape), raw(value))


def raw(value: torch.Tensor) -> bytes:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def history(repo: deltavc.Repository, root: Path, base: Tensors) -> list[str]:
    """Commits what people commit; returns the commits."""
    found = []

    def commit(source: Path, **options: Any) -> None:
        done = repo.commit(source, message=f"from {source.name}", **options)
        assert done.commit is not None
        assert done.changed
        found.append(done.commit)

    def change(revert: list[str]) -> None:
        done = repo.revert(revert)
        assert done.commit is not None
        found.append(done.commit)

    commit(root / "base", labels={"of": "nothing"}, kpis={"accuracy": 0.5, "loss": float("nan")})
    commit(lora(root / "one", 1))
    commit(lora(root / "two", 2, torch.bfloat16), stack=True, run="mlflow:1")
    commit(with_embedding(root / "three"), stack=True, data=[root / "one"])
    change([found[1]])
    change([found[1]])  # taken away once more: the coefficient is -1
    commit(save_folder(root / "four", full(base), extra="{}"), effort="default")
    commit(save_folder(root / "five", other_shapes(base), shards=True, config="{}"), effort="max")
    commit(lora(root / "six", 6), max_rank=1)
    commit(with_rows(root / "seven"))
    repo.switch("side", create=True)
    change(["HEAD"])
    repo.tag("v1", "HEAD~1", message="annotated")
    repo.tag("plain")
    repo.branch("gone")
    repo.undo()
    return found


def by_hand(repo: deltavc.Repository, base: Tensors) -> list[str]:
    """Commits each coding, and sums that no history above has; returns the commits."""
    bench = Bench(repo, base)
    found = []
    rng = np.random.default_rng(5)
    for name in ("layers.0.q.weight", "layers.0.v.weight", "layers.0.o.weight", "layers.0.table"):
        own = bench.base[name]
        rows, columns = own.matrix_shape
        predictors: list[Any] = [Same(own.dtype)]
        predictors.append(Drift(own.dtype, np.arange(-8, 8).astype(own.dtype.bits)))
        if own.dtype.name != "F64":
            left, right = rng.standard_normal((rows, 3)), 0.02 * rng.standard_normal((3, columns))
            predictors += [LowRank.quantised(left, right, own.dtype, bits) for bits in (8, 12, 24)]
        for predictor in predictors:
            for grouped in (False, True):
                for share in (0.05, 1.0):
                    delta = bench.exact(name, predictor, grouped=grouped, share=share)
                    found.append(bench.commit(name, (delta, "1")))
            middle = 1 << (own.dtype.exponent - 1)
            for bands in (Bands((middle - 4, middle - 3), 1), Bands((), own.dtype.size)):
                delta = bench.exact(name, predictor, share=1.0, bands=bands)
                found.append(bench.commit(name, (delta, "1")))

    q, v, o = (f"layers.0.{part}.weight" for part in "qvo")
    first = bench.exact(q, Same(bench.base[q].dtype), grouped=False, share=0.9)
    second = bench.exact(q, Same(bench.base[q].dtype), grouped=True, share=0.1)
    low = bench.lowrank(q, 1)
    found.append(bench.commit(q, (first, "1/3"), (second, "-2/5"), (low, "1")))
    found.append(bench.commit(q, (bench.lowrank(q, 2, "-1/7", transposed=True), "5/3")))
    dense = kinds.dense(bench.floats(q, 1e-3, 3))
    found.append(bench.commit(q, (first, "1"), (dense, "1")))

    near = bench.base[o].bits.copy()
    near[::37] += 3
    step = encode_tensor(bench.base[o], Tensor(DTYPES["F16"], (24, 18), near))
    assert step is not None
    assert step.delta.kind == "sparse"
    changes = Tensor(DTYPES["F16"], (3,), round_bits(np.array([0.1, -2.0, 1e-7]), DTYPES["F16"]))
    lone = sparse_change((24, 18), np.array([0, 5, 430]), changes)
    found.append(bench.commit(o, (step.delta, "1")))
    found.append(bench.commit(o, (lone, "1")))
    found.append(bench.commit(o, (step.delta, "2"), (lone, "1/7")))
    found.append(bench.commit("layers.0.table", (bench.lowrank("layers.0.table", 8), "1/3")))

    whole = kinds.replace(bench.floats(v, 1.0, 4))
    apart = bench.exact(v, Same(bench.base[v].dtype), grouped=False, share=0.5)
    found.append(bench.commit(v, (whole, "1"), (apart, "1"), (bench.lowrank(v, 5), "1/2")))
    half = Tensor.from_array(rng.standard_normal((7, 2)).astype("f2"))
    found.append(bench.commit(v, (kinds.replace(half), "1"), form=half))
    rows_of = [kinds.replace_rows(np.array(index, dtype="u8"), row_values(len(index)), (40, 16))
               for index in ([1, 5], [5, 9, 39])]  # fmt: skip
    on_top = bench.lowrank("emb.weight", 6)
    found.append(bench.commit("emb.weight", *((delta, "1") for delta in (*rows_of, on_top))))

    scaled = bench.scaled(q)
    found += [bench.commit(q, term) for term in scaled]
    found.append(bench.commit(v, *bench.scaled(v)))
    found.append(bench.commit(q, (bench.shared(q), "1"), (low, "2")))
    stacks = [bench.experts(transposed=turned) for turned in (False, True)]
    found += [
        bench.commit("experts", *((s, "-1/2") for s in some)) for some in (stacks[:1], stacks)
    ]

    new = Tensor.from_array(rng.standard_normal((3, 5)).astype("f4"))
    found.append(bench.commit("new.weight", (kinds.dense(new), "1"), form=new))
    found.append(bench.commit("new.weight", (kinds.dense(new), "1/3"), form=new))

    edge = bench.base["edge"]
    values = np.array([[0, -0.0, -1, 1], [1, 0.5, 7e-46, 3e38]], dtype="f8").reshape(-1)
    beside = Tensor(edge.dtype, edge.shape, round_bits(values, edge.dtype))
    found.append(bench.commit("edge", (kinds.dense(beside), "1")))
    found.append(bench.commit("edge", (kinds.dense(beside), "1/1000003")))
    return found


def row_values(count: int) -> Tensor:
    return Tensor.from_array(np.full((count, 16), 0.125, dtype="f4"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[deltavc.Repository, list[str]]:
    root = tmp_path_factory.mktemp("format")
    base = base_tensors()
    save_folder(root / "base", base, shards=True, vocab='["a"]')
    repo = deltavc.init(root / "repo", actor="Ada <ada@example.org>")
    repo.add_base("tiny", root / "base", source="hf:org/tiny")
    commits = history(repo, root, base)
    small = {name: value for name, value in base.items() if name != "decayed.weight"}
    for name in ("layers.0.q.weight", "layers.0.v.weight"):
        small[name] = base[name][:20, :12]
    repo.add_base("small", save_folder(root / "small", small, shards=True), copy=True)
    return repo, [*commits, *by_hand(repo, small)]


def test_the_reader_stands_alone() -> None:
    files = [Path(__file__).parent / f"independent_{part}.py" for part in ("reader", "scaled")]
    tree = ast.parse("\n".join(path.read_text() for path in files))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [n.name for n in node.names]
        )
    }
    own = {"independent_reader", "independent_scaled"}
    others = imported - set(sys.stdlib_module_names) - own
    assert others == {"numpy", "xxhash", "zstandard"}


def test_the_reader_sees_the_same_history(made: tuple[deltavc.Repository, list[str]]) -> None:
    repo, commits = made
    found = reader.Repository(repo.path)
    operations = repo.operations()
    assert [event["number"] for event in found.events] == [row.number for row in operations][::-1]
    assert [event["prev"] for event in found.events][1:] == [row.id for row in operations][:0:-1]
    assert found.refs == dict(repo._repo.state().refs)
    assert found.refs.keys() >= {"HEAD", "branch:main", "branch:side", "base:tiny", "base:small"}
    assert "branch:gone" not in found.refs
    assert found.commit_of("HEAD") == repo.resolve("HEAD")
    assert found.commit_of("tag:v1") == repo.resolve("v1")
    assert {oid for oid in found.objects if found.objects.get(oid)[0] == "commit"} == set(commits)
    for row in repo.log():
        record = found.objects.record("commit", row.commit)
        assert (record["message"], record.get("parents", [])) == (row.message, row.parents)
        assert record.get("labels", {}) == row.labels
    values = [found.objects.record(k, oid) for oid in found.objects
              for k in [found.objects.get(oid)[0]] if k == "measurement"]  # fmt: skip
    assert {value["kpi"]: value["value"] for value in values} == {"accuracy": 0.5, "loss": None}


def test_the_reader_rebuilds_every_version(
    made: tuple[deltavc.Repository, list[str]], tmp_path: Path
) -> None:
    repo, commits = made
    found = reader.Repository(repo.path)
    for number, commit in enumerate(commits):
        target = tmp_path / str(number)
        repo.checkout(commit, to=target)
        version = found.version(commit)
        expected = {path.name for path in target.iterdir() if path.suffix != ".safetensors"}
        for name, content in version.files().items():
            assert (target / name).read_bytes() == content
            expected.discard(name)
        assert expected == {"model.safetensors.index.json", "deltavc.json"}
        for name, tensors in version.tensors().items():
            data = (target / name).read_bytes()
            header = data[: 8 + int.from_bytes(data[:8], "little")]
            assert data[len(header) :] == b"".join(tensor.data() for tensor in tensors.values())
            loaded = load_file(target / name)
            assert {n: (tuple(t.shape), raw(t)) for n, t in loaded.items()} == {
                n: (t.shape, t.data()) for n, t in tensors.items()
            }
            own = version.base.weights[name]
            forms = [(n, t.dtype, t.shape) for n, t in tensors.items()]
            if forms == [(n, t.dtype, t.shape) for n, t in own.tensors.items()]:
                assert header == own.header
            else:
                assert json.loads(header[8:])["__metadata__"] == own.metadata


def test_everything_that_the_pages_describe_was_read(
    made: tuple[deltavc.Repository, list[str]],
) -> None:
    objects = reader.Repository(made[0].path).objects
    seen, described = set(), {"base", "basesource", "blob", "commit", "delta", "manifest"}
    described |= {"measurement", "tag"}
    assert {objects.get(oid)[0] for oid in objects} == described
    for oid in objects:
        kind, body = objects.get(oid)
        if kind == "delta":
            header, _ = reader.parse_delta(body)
            params = header.get("params", {})
            seen.add(
                (header["kind"], header.get("coding"), params.get("predictor"),
                 params.get("grouped"), header.get("values"), bool(header.get("rows")),
                 header.get("transposed"))
            )  # fmt: skip
    wanted = {("exact", coding, predictor, grouped, None, False, None)
              for coding in ("planes", "gaps") for predictor in (None, "drift", "lowrank")
              for grouped in (None, True)}  # fmt: skip
    for predictor in (None, "drift", "lowrank"):
        wanted.add(("exact", "bands", predictor, None, None, False, None))
    for kind in ("dense", "lowrank", "replace", "sparse"):
        wanted.add((kind, None, None, None, None, False, None))
    wanted.add(("sparse", None, None, None, "float", False, None))
    wanted.add(("replace", None, None, None, None, True, None))
    wanted.add(("lowrank", None, None, None, None, False, True))
    for kind in ("rowscale", "colscale", "dora", "product", "rightmul"):
        wanted.add((kind, None, None, None, None, False, None))
    wanted.add(("product", None, None, None, None, False, True))
    assert seen == wanted


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0"), (-0.0, "-0.0"), (120.0, "120.0"), (1e-5, "0.00001"), (1.5e-7, "1.5e-7"),
     (1e15, "1000000000000000.0"), (1e16, "1e16"), (0.1, "0.1"), (5e-324, "5e-324")],
)  # fmt: skip
def test_numbers_are_written_as_the_page_says(value: float, text: str) -> None:
    from deltavc.records.canonical import encode

    assert reader.number(value) == text
    assert encode(value) == text.encode()

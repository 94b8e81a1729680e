"""``deltavc.json``: what a folder says of itself is true, and a stranger's word is not taken."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from safetensors.numpy import load_file, save_file

import deltavc
from deltavc.codec.digest import object_id
from deltavc.errors import (
    AmbiguousRevision,
    InvalidName,
    UnknownRevision,
    UnsafeFile,
    UnsupportedFormat,
    WorkspaceDirty,
)
from deltavc.ids import CommitId, ObjectId, serving_id
from deltavc.records import canonical
from deltavc.records.receipt import Receipt, decode, encode
from deltavc.repo.receipt import read, verify

from .conftest import Lab, read_model, write_model  # type: ignore[import-not-found]

NAME = "deltavc.json"


def told(folder: Path) -> Any:
    return json.loads((folder / NAME).read_text())


def problems(folder: Path, **how: Any) -> list[tuple[str, str]]:
    return [(one.path, one.kind) for one in verify(folder, **how)]


@pytest.fixture
def served(lab: Lab) -> Path:
    """A folder with digests."""
    lab.commit(lab.lora(), "one")
    lab.repo.checkout("HEAD", to=lab.root / "out", digests=True)
    return lab.root / "out"


class TestContent:
    def test_what_it_says(self, lab: Lab) -> None:
        oid = lab.commit(lab.lora(), "one")
        done = lab.repo.checkout("HEAD", to=lab.root / "out")
        assert NAME in done.files
        found = told(lab.root / "out")
        written = found.pop("written")
        shown = lab.repo.show("HEAD").commit
        assert shown is not None
        assert found == {
            "schema": "deltavc.receipt/1",
            "serving_id": f"dv-{oid[:20]}",
            "commit": oid,
            "manifest": json.loads(lab.repo._repo.load_body("commit", oid))["manifest"],
            "base": {"fingerprint": shown.base, "name": "tiny"},
            "form": "full",
            "exact": True,
            "tool": f"deltavc {deltavc.__version__}",
        }
        assert written == "2023-11-14T22:13:" + written[17:]
        assert written.endswith("Z")

    @pytest.mark.parametrize("form", ["full", "peft", "vllm"])
    def test_digests_are_those_of_the_files(self, lab: Lab, form: str) -> None:
        lab.commit(lab.lora(), "one")
        out = lab.root / "out"
        name = None if form == "full" else "org/x"
        lab.repo.checkout("HEAD", to=out, form=form, card=True, base_name=name, digests=True)
        files = told(out)["files"]
        assert files.keys() | {NAME} == {p.name for p in out.iterdir()}
        assert "README.md" in files
        for name, digest in files.items():
            data = (out / name).read_bytes()
            assert digest == {
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "xxh3": xxhash.xxh3_128_hexdigest(data),
            }
        assert told(out)["form"] == form
        assert problems(out) == problems(out, deep=True) == []

    def test_exact_is_said_only_where_nothing_was_approximated(self, lab: Lab) -> None:
        lab.commit(lab.lora(rank=4), "four")
        exact = {}
        for name, how in {
            "peft": {"form": "peft"},
            "cut": {"form": "peft", "rel_error": 0.9, "max_rank": 1},
            "vllm": {"form": "vllm", "base_name": "x"},
            "cut-vllm": {"form": "vllm", "base_name": "x", "rel_error": 0.9, "max_rank": 1},
        }.items():
            lab.repo.checkout("HEAD", to=lab.root / name, **how)
            exact[name] = told(lab.root / name)["exact"]
        lab.commit(
            lab.checkpoint(lambda t: t["layers.0.q.weight"].__iadd__(lab.rng.normal(size=(8, 8)))),
            "approximate",
            max_rank=2,
        )
        lab.repo.checkout("HEAD", to=lab.root / "approximate")
        exact["approximate"] = told(lab.root / "approximate")["exact"]
        assert exact == {
            "peft": True, "cut": False, "vllm": True, "cut-vllm": False, "approximate": False,
        }  # fmt: skip

    def test_what_a_server_is_told_of_a_lora(self, lab: Lab) -> None:
        lab.commit(lab.lora(rank=2), "two")
        lab.repo.checkout("HEAD", to=lab.root / "out", form="vllm", base_name="org/x", pad_rank=16)
        assert told(lab.root / "out")["adapter"] == {
            "base_model_name_or_path": "org/x",
            "rank": 16,
            "max_lora_rank": 16,
            "rounded": [],
            "energy_lost": {"total": 0.0, "parameters": {}},
        }


class TestServingId:
    def test_it_is_a_revision(self, lab: Lab) -> None:
        one, two = lab.commit(lab.lora(), "one"), lab.commit(lab.lora(), "two")
        name = serving_id(two)
        assert name == told_id(lab, "HEAD") == lab.repo.serving_id()
        assert len(name) == 23
        for text in (name, name[:7], f"dv-{two}"):
            assert lab.repo.resolve(text) == two
            assert lab.repo.show(text).id == two
        assert lab.repo.resolve(f"{name}~1") == one
        assert [row.commit for row in lab.repo.log(f"{serving_id(one)}..{name}")] == [two]

    def test_what_it_does_not_fit(self, lab: Lab) -> None:
        oid = lab.commit(lab.lora(), "one")
        wrong = "dv-" + ("0" * 20 if oid[0] != "0" else "f" * 20)
        with pytest.raises(UnknownRevision, match="served as"):
            lab.repo.show(wrong)
        for text in ("dv-", "dv-abc", name_upper(oid), f"dv-{oid}0"):
            with pytest.raises(UnknownRevision):
                lab.repo.resolve(text)

    def test_two_that_begin_alike_are_refused(self, lab: Lab) -> None:
        """Ids of 80 bits can be made to meet, which must not name either."""
        one, source = lab.commit(lab.base_folder), lab.lora()

        def at(time: int, branch: str) -> str:
            repo = deltavc.open(lab.root / "repo", actor="Ada", clock=lambda: time)
            return str(repo.commit(source, message="another", branch=branch).commit)

        record = lab.repo._repo.commit(CommitId(ObjectId(at(0, "first"))))
        for time in range(1, 2_000_000):  # the same commit, but for its time
            oid = object_id("commit", [canonical.encode(replace(record, time=time))])
            if oid[:4] == one[:4]:
                break
        assert at(time, "second") == oid
        with pytest.raises(AmbiguousRevision) as caught:
            lab.repo.resolve(f"dv-{oid[:4]}")
        assert set(caught.value.context["candidates"]) == {one, oid}

    def test_no_branch_or_tag_can_take_its_name(self, lab: Lab) -> None:
        name = serving_id(lab.commit(lab.lora(), "one"))
        for make in (lab.repo.branch, lab.repo.tag):
            with pytest.raises(InvalidName):
                make(name)
        lab.repo.branch("dv-abcd")  # an abbreviation gives way, as that of an id does
        lab.commit(lab.lora(), "two")
        assert lab.repo.resolve("dv-abcd") == lab.repo.resolve("HEAD~1")


def told_id(lab: Lab, rev: str) -> str:
    lab.repo.checkout(rev, to=lab.root / "named")
    return str(told(lab.root / "named")["serving_id"])


def name_upper(oid: str) -> str:
    return "dv-" + oid[:20].upper() + "A"


class TestWorkspace:
    def test_it_follows_every_switch(self, lab: Lab) -> None:
        revs = [lab.commit(lab.base_folder, "root"), lab.commit(lab.lora(), "a lora")]
        revs.append(lab.commit(lab.checkpoint(dict, extra="file"), "the root and a file"))
        revs.append(lab.commit(lab.base_folder, "the root again"))  # the same manifest as the first
        model = lab.root / "repo" / "model"
        in_place = []
        for at in (0, 1, 3, 0, 2, 0, 3, 1, 1, 2):
            done = lab.repo.checkout(revs[at])
            in_place.append(done.in_place)
            assert told(model)["commit"] == revs[at]
            assert lab.repo.status().clean
            assert [p.name for p in model.iterdir() if p.name.startswith(".")] == []
        assert in_place == [False, *[True] * 9]
        before = (model / NAME).stat().st_mtime_ns
        assert lab.repo.checkout(revs[2]).files == []
        assert (model / NAME).stat().st_mtime_ns == before
        lab.repo.undo()
        assert told(model)["commit"] == revs[1]

    def test_a_commit_does_not_see_it(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        lab.repo.checkout("HEAD")
        lab.repo.checkout("HEAD", to=lab.root / "out")
        for source in (None, lab.root / "out"):
            done = lab.repo.commit(source, message="nothing")
            assert (done.changed, done.ignored) == (False, [])
        (lab.root / "repo/model" / NAME).unlink()
        assert lab.repo.status().clean
        assert lab.repo.status().files == []
        assert not lab.repo.commit(message="nothing").changed

    def test_a_commit_of_the_workspace_makes_it_true_again(self, lab: Lab) -> None:
        model = lab.root / "repo" / "model"
        lab.commit(lab.base_folder, "root")
        lab.repo.checkout("HEAD")
        edit(model)
        done = lab.repo.commit(message="trained")
        assert told(model)["commit"] == done.commit
        edit(model)
        other = lab.repo.commit(message="aside", branch="aside")
        assert told(model)["commit"] == other.commit != lab.repo.resolve("HEAD")
        for how in ({"max_rank": 1}, {"params": ["emb.*"]}):
            lab.repo.checkout("HEAD", force=True)
            edit(model)
            assert lab.repo.commit(message="in part", **how).changed
            assert not (model / NAME).exists()  # the folder holds no revision

    def test_no_receipt_is_made_where_none_was(self, lab: Lab) -> None:
        write_model(lab.root / "repo" / "model", lab.base)
        lab.repo.commit(message="by hand")
        assert not (lab.root / "repo" / "model" / NAME).exists()

    def test_a_folder_with_nothing_else_is_free(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        out = lab.root / "out"
        lab.repo.checkout("HEAD", to=out)
        for path in (out / "model.safetensors", out / "config.json"):
            path.unlink()
        other = lab.root / "other"
        out.rename(other)
        lab.repo.checkout("HEAD", to=other)
        assert read_model(other).keys() == lab.base.keys()

    @pytest.mark.parametrize("text", ['{"mine": 1}', "not JSON", '{"schema": 3}'])
    def test_a_strangers_file_of_its_name_is_not_ours(self, lab: Lab, text: str) -> None:
        root = lab.commit(lab.base_folder, "root")
        lab.commit(lab.lora(), "lora")
        model = lab.root / "repo" / "model"
        lab.repo.checkout("HEAD")
        (model / NAME).write_text(text)
        with pytest.raises(WorkspaceDirty):
            lab.repo.checkout(root)
        assert (model / NAME).read_text() == text
        lab.repo.checkout(root, force=True)
        assert told(model)["commit"] == root


def edit(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["emb.weight"] += np.float32(1)
    tensors["layers.0.q.weight"] += np.eye(8, dtype="f4")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


class TestBase:
    def test_a_checkout_can_be_a_base(self, lab: Lab) -> None:
        lab.commit(lab.lora(), "one")
        first = lab.repo.resolve("HEAD")
        lab.repo.checkout("HEAD", to=lab.root / "out")
        lab.repo.add_base("next", lab.root / "out")
        assert lab.repo._repo.warnings == []
        two = lab.commit(lab.root / "out", "two", base="next")
        lab.repo.checkout("HEAD", to=lab.root / "again")
        assert told(lab.root / "again")["commit"] == two != first
        assert told(lab.root / "again")["base"]["name"] == "next"
        shown = lab.repo.show("HEAD").commit
        assert shown is not None
        assert shown.files == []

    def test_a_strangers_file_is_left_out_and_said(self, lab: Lab) -> None:
        folder = write_model(lab.root / "theirs", lab.base, **{NAME: '{"mine": true}'})
        (folder / "config.json").write_text('{"hidden_size": 9}')
        lab.repo.add_base("theirs", folder, copy=True)
        (warning,) = lab.repo._repo.warnings
        assert "'deltavc.json' of base 'theirs' is left out" in warning
        done = lab.repo.commit(folder, message="theirs", base="theirs")
        assert done.ignored == [NAME]
        lab.repo.checkout("HEAD", to=lab.root / "out")
        assert told(lab.root / "out")["schema"] == "deltavc.receipt/1"
        assert (folder / NAME).read_text() == '{"mine": true}'


class TestVerify:
    def test_every_change_is_found(self, served: Path) -> None:
        weights, config = served / "model.safetensors", served / "config.json"
        kept = weights.read_bytes()

        def flip(at: int) -> None:
            data = bytearray(kept)
            data[at] ^= 1
            weights.write_bytes(data)

        for at in (0, 9, len(kept) // 2, len(kept) - 1):
            flip(at)
            assert problems(served) == [("model.safetensors", "xxh3")]
            assert problems(served, deep=True) == [("model.safetensors", "sha256")]
        weights.write_bytes(kept[:-1])
        assert problems(served) == [("model.safetensors", "size")]
        weights.write_bytes(kept)
        config.unlink()
        (served / "pytorch_model.bin").write_bytes(b"not from here")
        assert problems(served) == [("config.json", "missing"), ("pytorch_model.bin", "extra")]
        (served / "pytorch_model.bin").unlink()
        config.symlink_to(weights)
        assert problems(served) == [("config.json", "irregular")]
        config.unlink()
        os.mkfifo(config)
        assert problems(served) == [("config.json", "irregular")]
        for one in verify(served):
            assert one.message == "'config.json' is not a regular file"

    def test_what_servers_leave_does_not_count(self, served: Path) -> None:
        (served / ".cache").mkdir()
        (served / ".cache" / "x").write_text("x")
        (served / ".lock").touch()
        assert problems(served) == []

    def test_without_digests_it_says_so(self, lab: Lab) -> None:
        lab.commit(lab.lora(), "one")
        lab.repo.checkout("HEAD", to=lab.root / "out")
        assert problems(lab.root / "out") == [(NAME, "no-digests")]
        with pytest.raises(UnsupportedFormat):
            verify(lab.base_folder)

    @pytest.mark.parametrize("threads", [1, 3])
    def test_files_in_folders_below(self, served: Path, threads: int) -> None:
        receipt = told(served)
        rng = np.random.default_rng(0)
        for i in range(7):
            name = f"{'below/' * (i % 3)}{i}.bin"
            data = rng.bytes(i * (1 << 19) + i)
            (served / name).parent.mkdir(parents=True, exist_ok=True)
            (served / name).write_bytes(data)
            receipt["files"][name] = {
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "xxh3": xxhash.xxh3_128_hexdigest(data),
            }
        (served / NAME).write_text(json.dumps(receipt))
        assert problems(served, threads=threads) == problems(served, deep=True) == []
        with (served / "below/below/5.bin").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\0")
        assert problems(served, threads=threads) == [("below/below/5.bin", "xxh3")]

    def test_neither_torch_nor_numpy_is_imported(self, served: Path) -> None:
        code = (
            "import sys, pathlib; from deltavc.repo.receipt import verify;"
            "assert verify(pathlib.Path(sys.argv[1])) == [];"
            "print(sorted({'torch', 'numpy', 'sqlalchemy', 'logging'} & set(sys.modules)))"
        )
        run = subprocess.run([sys.executable, "-c", code, served], capture_output=True, text=True)
        assert (run.stdout, run.stderr) == ("[]\n", "")


class TestHostile:
    def test_what_is_refused(self, served: Path) -> None:
        good = told(served)
        digest = next(iter(good["files"].values()))

        def changed(**fields: Any) -> str:
            return json.dumps(good | fields)

        bad = {
            "no JSON": "x",
            "no object": "[]",
            "twice": json.dumps(good)[:-1] + ', "commit": "' + "0" * 64 + '"}',
            "lacking": json.dumps({k: v for k, v in good.items() if k != "commit"}),
            "another's id": changed(serving_id="dv-" + "0" * 20),
            "no id": changed(commit="../../etc"),
            "short manifest": changed(manifest="abcd"),
            "form": changed(form="pickle"),
            "exact": changed(exact="yes"),
            "time": changed(written="yesterday\x1b[2J"),
            "no digest": changed(files={"a": digest | {"sha256": "x"}}),
            "negative": changed(files={"a": digest | {"size": -1}}),
            "deep": "[" * 100 + "]" * 100,
            "bytes": "\udcff",
            "huge": " " * ((16 << 20) + 1),
        }
        bad |= {
            path: changed(files={path: digest})
            for path in ("../a", "/etc/passwd", "a/../b", "a//b", "a\\b", "a\nb", "", ".", NAME)
        }
        for name, text in bad.items():
            (served / NAME).write_bytes(text.encode("utf-8", "surrogateescape"))
            for look in (read, verify):
                with pytest.raises((UnsafeFile, UnsupportedFormat)) as caught:
                    look(served)
                assert "\x1b" not in caught.value.message, name
        for make in (Path.mkdir, os.mkfifo):
            (served / NAME).unlink()
            make(served / NAME)
            with pytest.raises(UnsafeFile):
                read(served)
            (served / NAME).rmdir() if make is Path.mkdir else (served / NAME).unlink()
            (served / NAME).touch()

    def test_a_newer_one_is_told_apart(self, served: Path) -> None:
        (served / NAME).write_text(json.dumps(told(served) | {"schema": "deltavc.receipt/2"}))
        with pytest.raises(UnsupportedFormat, match="newer schema"):
            read(served)
        assert (
            "deltavc.json"
            not in deltavc.open(served.parent / "repo").commit(served, message="again").ignored
        )

    def test_unknown_fields_are_passed_over(self, served: Path) -> None:
        before = read(served)
        (served / NAME).write_text(json.dumps(told(served) | {"colour": "blue"}))
        assert read(served) == before
        assert decode(encode(before)) == before

    @given(st.binary(max_size=60), st.integers(0, 2000), st.integers(0, 40))
    def test_bytes_are_read_or_refused(self, data: bytes, at: int, cut: int) -> None:
        text = encode(SAMPLE)
        mutant = text[: at % len(text)] + data + text[at % len(text) + cut :]
        try:
            found = decode(mutant)
        except (UnsafeFile, UnsupportedFormat):
            return
        assert isinstance(found, Receipt)
        assert found.serving_id == serving_id(found.commit)

    def test_a_link_in_the_workspace_is_not_written_through(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        lab.commit(lab.lora(), "lora")
        lab.repo.checkout("HEAD")
        model, precious = lab.root / "repo" / "model", lab.root / "precious"
        precious.write_text(told_text := (model / NAME).read_text())
        (model / NAME).unlink()
        (model / NAME).symlink_to(precious)
        with pytest.raises(WorkspaceDirty):
            lab.repo.checkout("HEAD~1")
        edit(model)
        lab.repo.commit(message="edited")
        assert precious.read_text() == told_text
        assert told(model)["commit"] == lab.repo.resolve("HEAD")

    def test_a_receipt_that_cannot_be_written_is_a_warning(self, lab: Lab) -> None:
        lab.commit(lab.base_folder, "root")
        lab.repo.checkout("HEAD")
        model = lab.root / "repo" / "model"
        edit(model)
        beside = model / f".{NAME}.deltavc-{os.getpid()}"
        beside.mkdir()
        (beside / "in the way").touch()
        assert lab.repo.commit(message="edited").changed
        (warning,) = lab.repo._repo.warnings
        assert "the receipt of" in warning
        assert told(model)["commit"] == lab.repo.resolve("HEAD~1")


SAMPLE = decode(
    json.dumps(
        {
            "schema": "deltavc.receipt/1", "serving_id": "dv-" + "a" * 20, "commit": "a" * 64,
            "manifest": "b" * 64, "base": {"fingerprint": "c" * 64, "name": "tiny"},
            "form": "full", "exact": True, "tool": "deltavc", "written": "2026-11-24T12:00:00Z",
            "files": {"x/y": {"size": 1, "sha256": "d" * 64, "xxh3": "e" * 32}},
        }
    ).encode()
)  # fmt: skip

"""``audit export`` of evidence, from the command line to the tools of others."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from model_signing import verifying


class Shop:
    """A repository with a deployed version, made and asked by command lines."""

    def __init__(self, folder: Path, commands: Any, models: Any) -> None:
        self.folder = folder / "repo"
        self.commands = commands
        commands.ok(folder, "init", self.folder)
        for words in (
            ("base", "add", "tiny", models.base()),
            ("commit", models.adapter(), "-m", "first"),
            ("kpi", "define", "acc", "--direction", "higher", "--kind", "proportion"),
            ("kpi", "add", "HEAD", "acc=0.9", "--samples", "1000"),
            ("kpi", "gate", "define", "release", "--require", "acc >= 0.8"),
            ("env", "define", "staging", "--gate", "release"),
            ("deploy", "HEAD", "--env", "staging", "--yes", "--reason", "weekly"),
            ("commit", models.adapter(), "-m", "second"),
        ):
            commands.ok(self.folder, *words)
        self.live = self("show", "env:staging", "-q").out.strip()

    def __call__(self, *words: object, code: int = 0, **more: Any) -> Any:
        ran = self.commands.run(self.folder, *words, **more)
        assert ran.code == code, (words, ran)
        return ran

    def export(self, kind: str, name: str, *words: object, code: int = 0, **more: Any) -> Any:
        return self("audit", "export", "--as", kind, "-o", name, *words, code=code, **more)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, commands: Any, models_in: Any) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    return Shop(folder, commands, models_in(folder / "models"))


@pytest.mark.parametrize(
    ("kind", "told"),
    [("in-toto", "in-toto test result of the gates"), ("card", "model card")],
)
def test_a_document_about_a_revision(shop: Shop, kind: str, told: str) -> None:
    ran = shop.export(kind, f"{kind}.out", "--about", "env:staging")
    data = (shop.folder / f"{kind}.out").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    first, second = ran.out.splitlines()
    assert first.startswith(f"Wrote {kind}.out: {told}, ")
    assert second == f"  sha256 {digest}"
    assert shop.live.encode() in data
    done = shop.export(kind, f"{kind}.again", "--about", shop.live, "--json").data
    assert (done["kind"], done["sha256"], done["files"]) == (kind, digest, 1)
    assert shop.export(kind, f"{kind}.out", code=2).err.count("is there already") == 1
    assert (shop.folder / f"{kind}.out").read_bytes() == data


def test_options_reach_the_document(shop: Shop) -> None:
    words = ("--name", "router", "--spec", "1.7", "--about", "HEAD~1")
    ran = shop.export("cyclonedx", "seven.json", *words)
    assert ran.out.startswith("Wrote seven.json: CycloneDX bill of materials, ")
    document = json.loads((shop.folder / "seven.json").read_text())
    assert document["specVersion"] == "1.7"
    assert document["metadata"]["component"]["name"] == "router"
    shop("kpi", "gate", "define", "better", "--require", "acc not worse than baseline by 0.01")
    shop.export("in-toto", "asked.json", "--gate", "better", "--against", "HEAD~1")
    predicate = json.loads((shop.folder / "asked.json").read_text())["predicate"]
    assert predicate["warnedTests"] == ["better: acc not worse than baseline by 0.01"]


def test_a_model_signature(shop: Shop) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (shop.folder / "key.pem").write_bytes(pem)
    (shop.folder / "key.pub").write_bytes(public)
    shop("checkout", "env:staging", "--to", "out")
    words = ("--about", "env:staging", "--folder", "out", "--key-file", "key.pem")
    shop.export("oms", "model.sig", *words)
    config = verifying.Config().use_elliptic_key_verifier(public_key=shop.folder / "key.pub")
    config.verify(shop.folder / "out", shop.folder / "model.sig")
    ran = shop.export("oms", "other.sig", "--folder", "out", "--key-file", "key.pem", code=31)
    assert "'out' holds revision" in ran.err.replace(str(shop.folder) + "/", "")
    ran = shop.export("oms", "other.sig", "--folder", "out", code=2)
    assert "hint: deltavc checkout REV --to DIR, then: --folder DIR --key-file KEY.pem" in ran.err
    assert not (shop.folder / "other.sig").exists()


@pytest.mark.parametrize(
    ("kind", "words", "says"),
    [
        ("card", ("--since", "2026-01-01"), "an export as 'card' is about one revision"),
        ("card", ("--deep",), "an export as 'card' is about one revision"),
        ("card", ("--about", "HEAD", "--about", "HEAD~1"), "is about one revision"),
        ("card", ("--folder", "out"), "an export as 'card' takes no --folder"),
        ("in-toto", ("--spec", "1.6"), "an export as 'in-toto' takes no --spec"),
        ("jsonl", ("--gate", "release"), "an export as 'jsonl' takes no --gate"),
        ("pack", ("--key-file", "key.pem"), "an export as 'pack' takes no --key-file"),
        ("cyclonedx", ("--spec", "2.0"), "'2.0' is not a version of CycloneDX"),
        ("in-toto", ("--against", "HEAD"), "a baseline belongs to gates"),
        ("in-toto", (), "no gate has been asked"),  # HEAD was never deployed
        ("cyclonedx", ("--about", "nothing"), "'nothing'"),
    ],
)
def test_what_makes_no_sense_writes_nothing(
    shop: Shop, kind: str, words: tuple[str, ...], says: str
) -> None:
    before = sorted(shop.folder.iterdir())
    ran = shop.commands.run(shop.folder, "audit", "export", "--as", kind, "-o", "never", *words)
    assert ran.code == (20 if "nothing" in words else 2), ran
    assert says in ran.err
    assert "hint: " in ran.err
    assert sorted(shop.folder.iterdir()) == before


def test_a_signed_document(shop: Shop, tmp_path: Path) -> None:
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    shop.export("card", "signed.md", "--sign", "--config", f"signing.key={key}")
    allowed = tmp_path / "allowed"
    allowed.write_text(f"ada@example.org {key.with_suffix('.pub').read_text()}")
    argv = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", "ada@example.org",
            "-n", "deltavc", "-s", str(shop.folder / "signed.md.sig")]  # fmt: skip
    data = (shop.folder / "signed.md").read_bytes()
    assert subprocess.run(argv, input=data, capture_output=True).returncode == 0
    assert subprocess.run(argv, input=data + b"x", capture_output=True).returncode != 0


def test_a_pack_holds_evidence_of_what_was_deployed(shop: Shop, tmp_path: Path) -> None:
    shop.export("pack", "pack.zip", "--about", "HEAD", "--about", "staging")
    with zipfile.ZipFile(shop.folder / "pack.zip") as archive:
        archive.extractall(tmp_path)
    head = shop("show", "HEAD", "-q").out.strip()
    found = {path.relative_to(tmp_path / "evidence").as_posix()
             for path in (tmp_path / "evidence").rglob("*") if path.is_file()}  # fmt: skip
    documents = {
        f"{rev}/{name}" for rev in (head, shop.live) for name in ("card.md", "bom.cdx.json")
    }
    assert found == documents | {f"{shop.live}/test-result.intoto.json"}
    manifest = (tmp_path / "MANIFEST").read_text()
    assert all(f"  evidence/{name}\n" in manifest for name in found)
    argv = [sys.executable, "-I", "verify.py"]
    assert subprocess.run(argv, cwd=tmp_path, capture_output=True).returncode == 0
    card = tmp_path / "evidence" / shop.live / "card.md"
    card.write_bytes(card.read_bytes().replace(b"0.9", b"0.99"))
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "card.md" in done.stdout + done.stderr

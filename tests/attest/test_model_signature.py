"""The model signature: verified and refused by the standard's own tool, never by deltavc."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from model_signing import verifying

from deltavc.attest.oms import sign_checkout
from deltavc.errors import DeltavcError, MissingExtra, SigningFailed, UsageError, WorkspaceDirty

from .conftest import Desk  # type: ignore[import-not-found]

PKCS8, OPENSSH = PrivateFormat.PKCS8, PrivateFormat.OpenSSH


def write_key(path: Path, key: Any, form: PrivateFormat = PKCS8, password: bytes = b"") -> Path:
    """Writes a private key, and the public one beside."""
    hidden: Any = BestAvailableEncryption(password) if password else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, form, hidden))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path / "key.pem", ec.generate_private_key(ec.SECP256R1()))


def verify(folder: Path, bundle: Path, public: Path) -> None:
    """Verifies with the library, as a stranger would."""
    config = verifying.Config().use_elliptic_key_verifier(public_key=public)
    config.verify(folder, bundle)


def test_the_standards_tool_verifies_a_checkout(desk: Desk, key: Path) -> None:
    rev = desk.commit()
    folder, bundle = desk.out(rev), desk.root / "model.sig"
    bundle.write_bytes(sign_checkout(desk.repo, rev, folder=folder, key=key))
    argv = [
        sys.executable, "-m", "model_signing", "verify", "key", str(folder),
        "--signature", str(bundle), "--public_key", str(key.with_suffix(".pub")),
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n")
    weights = folder / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "model.safetensors" in done.stdout + done.stderr


def _more(folder: Path) -> None:
    (folder / "more.bin").write_bytes(b"1")


def _less(folder: Path) -> None:
    (folder / "config.json").unlink()


def _another_name(folder: Path) -> None:
    (folder / "config.json").rename(folder / "configuration.json")


def _another_receipt(folder: Path) -> None:
    receipt = folder / "deltavc.json"
    told = json.loads(receipt.read_text())
    receipt.write_text(json.dumps({**told, "commit": "0" * 64}))


@pytest.mark.parametrize(
    ("form", "change"),
    [
        ("full", _more),
        ("full", _less),
        ("full", _another_name),
        ("full", _another_receipt),
        ("peft", _more),
        ("peft", _another_name),
        ("vllm", _another_receipt),
    ],
)
def test_whatever_is_changed_afterwards_is_found(
    desk: Desk, key: Path, form: str, change: Callable[[Path], None]
) -> None:
    rev = desk.commit()
    folder = desk.out(rev, form=form)
    bundle = desk.root / "model.sig"
    bundle.write_bytes(sign_checkout(desk.repo, rev, folder=folder, key=key))
    verify(folder, bundle, key.with_suffix(".pub"))
    if form != "full" and change in (_less, _another_name):
        (folder / "adapter_config.json").rename(folder / "adapter.json")
    else:
        change(folder)
    with pytest.raises(ValueError, match=r"[Mm]ismatch|[Ee]xtra|[Mm]issing"):
        verify(folder, bundle, key.with_suffix(".pub"))


def test_it_says_which_revision(desk: Desk, key: Path) -> None:
    rev = desk.commit()
    folder = desk.out(rev)
    bundle = json.loads(sign_checkout(desk.repo, rev, folder=folder, key=key))
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    names = {one["name"] for one in statement["predicate"]["resources"]}
    assert names == {path.name for path in folder.iterdir()}
    assert "deltavc.json" in names
    assert json.loads((folder / "deltavc.json").read_text())["commit"] == rev


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_larger_curves_and_a_password(desk: Desk, curve: Any) -> None:
    rev = desk.commit()
    folder, bundle = desk.out(rev, form="peft"), desk.root / "model.sig"
    key = write_key(desk.root / "key.pem", ec.generate_private_key(curve), password=b"secret")
    signed = sign_checkout(desk.repo, rev, folder=folder, key=key, password=b"secret")
    bundle.write_bytes(signed)
    verify(folder, bundle, key.with_suffix(".pub"))
    other = write_key(desk.root / "other.pem", ec.generate_private_key(curve))
    with pytest.raises(ValueError, match="Key mismatch"):
        verify(folder, bundle, other.with_suffix(".pub"))
    with pytest.raises(SigningFailed):
        sign_checkout(desk.repo, rev, folder=folder, key=key)


def test_a_folder_that_is_something_else_is_not_signed(desk: Desk, key: Path) -> None:
    first, second = desk.commit(), desk.commit()
    folder = desk.out(first)
    with pytest.raises(WorkspaceDirty, match="holds revision") as caught:
        sign_checkout(desk.repo, second, folder=folder, key=key)
    assert caught.value.hint == f"write it first: deltavc checkout {second[:10]} --to DIR"
    (folder / "deltavc.json").unlink()  # an old checkout has none; then the bits decide
    sign_checkout(desk.repo, first, folder=folder, key=key)
    with pytest.raises(WorkspaceDirty, match="is not as a checkout writes it"):
        sign_checkout(desk.repo, second, folder=folder, key=key)
    with pytest.raises(UsageError, match="is not a folder"):
        sign_checkout(desk.repo, first, folder=folder / "config.json", key=key)


@pytest.mark.parametrize("form", ["full", "peft", "vllm"])
def test_a_flipped_bit_is_not_signed_though_times_say_nothing(
    desk: Desk, key: Path, form: str
) -> None:
    rev = desk.commit()
    folder = desk.out(rev, form=form)
    weights = next(folder.glob("*.safetensors"))
    before = weights.stat()
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(WorkspaceDirty):
        sign_checkout(desk.repo, rev, folder=folder, key=key)


def test_a_link_is_not_signed(desk: Desk, key: Path) -> None:
    rev = desk.commit()
    folder = desk.out(rev)
    (folder / "config.json").rename(desk.root / "elsewhere.json")
    (folder / "config.json").symlink_to(desk.root / "elsewhere.json")
    with pytest.raises((WorkspaceDirty, SigningFailed)):
        sign_checkout(desk.repo, rev, folder=folder, key=key)


def test_a_key_that_cannot_sign_is_told_apart(desk: Desk) -> None:
    rev = desk.commit()
    folder = desk.out(rev)
    curve = ec.generate_private_key(ec.SECP256R1())
    garbage = desk.root / "garbage.pem"
    garbage.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    empty = desk.root / "empty.pem"
    empty.write_text("")
    place = desk.root / "bad.pem"
    keys = [
        lambda: write_key(place, ed25519.Ed25519PrivateKey.generate()),
        lambda: write_key(place, rsa.generate_private_key(65537, 2048)),
        lambda: write_key(place, ec.generate_private_key(ec.SECP256K1())),
        lambda: write_key(place, curve, OPENSSH),
        lambda: write_key(place, curve, password=b"secret"),
        lambda: write_key(place, curve).with_suffix(".pub"),
        lambda: garbage,
        lambda: empty,
        lambda: folder,
        lambda: desk.root / "missing.pem",
    ]
    for make in keys:
        with pytest.raises(DeltavcError) as caught:
            sign_checkout(desk.repo, rev, folder=folder, key=make())
        assert caught.value.hint
        assert "BEGIN" not in caught.value.message


def test_nothing_is_left_behind(desk: Desk, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = desk.root / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    rev = desk.commit()
    for form in ("full", "peft"):
        folder = desk.out(rev, form=form)
        before = sorted(path.name for path in desk.repo.layout.folder.rglob("*"))
        sign_checkout(desk.repo, rev, folder=folder, key=key)
        assert sorted(path.name for path in desk.repo.layout.folder.rglob("*")) == before
        shutil.rmtree(folder)
    assert list(scratch.iterdir()) == []


def test_the_library_is_asked_for(desk: Desk, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rev = desk.commit()
    folder = desk.out(rev)
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    with pytest.raises(MissingExtra) as caught:
        sign_checkout(desk.repo, rev, folder=folder, key=key)
    assert (caught.value.exit_code, caught.value.hint) == (60, 'pip install "deltavc[attest]"')

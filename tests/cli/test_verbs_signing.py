"""commit --sign, tag --sign and --verify, and signatures in log and show, end to end."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of Ada's, of Eve's, and one that is locked by a passphrase."""
    folder = tmp_path_factory.mktemp("keys")
    for name, passphrase in (("ada", ""), ("eve", ""), ("locked", "correct horse")):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(folder / name)]
        subprocess.run(command, check=True)
    return folder


@pytest.fixture
def signing(repository: Run, keys: Path) -> Run:
    """Two revisions, a key to sign with, and the file of those who may."""
    Path("allowed_signers").write_text(f"ada@example.org {(keys / 'ada.pub').read_text()}")
    assert repository("config", "set", "signing.key", keys / "ada").code == 0
    return repository


def fingerprint(key: Path) -> str:
    command = ["ssh-keygen", "-l", "-f", str(key)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[1]


def events() -> bytes:
    return b"".join(path.read_bytes() for path in sorted(Path(".deltavc/events").iterdir()))


class TestCommit:
    def test_it_says_who_signed(self, signing: Run, keys: Path) -> None:
        ran = signing("commit", "full", "-m", "third", "--sign")
        words = f"ada@example.org {fingerprint(keys / 'ada')}"
        assert ran.code == 0, ran.err
        assert ran.out.splitlines()[-1] == f"  signed, {words}"
        shown = signing("show", "HEAD").out
        assert f"signature good, {words}\n" in shown
        assert signing("show", "HEAD~1").out.count("signature none\n") == 1

    def test_the_document_has_the_signature(self, signing: Run, keys: Path) -> None:
        data = signing("commit", "full", "-m", "third", "--sign", "--json").document["data"]
        signature = data["signature"]
        assert signature["object"] == data["commit"]
        assert (signature["status"], signature["signer"]) == ("good", "ada@example.org")
        assert signature["key"] == fingerprint(keys / "ada")
        assert signature["time"].startswith("2027-01-15T08:00:00")
        shown = signing("show", "HEAD", "--json").document["data"]
        assert shown["commit"]["signatures"] == [signature]
        assert signing("commit", "adapter-3", "-m", "x", "--json").document["data"][
            "signature"
        ] is None  # fmt: skip

    def test_what_is_unchanged_is_not_signed(self, signing: Run) -> None:
        ran = signing("commit", "adapter-2", "-m", "again", "--sign")
        assert ran.code == 0
        assert "nothing was recorded, so nothing was signed" in ran.err

    def test_always(self, signing: Run) -> None:
        assert signing("config", "set", "signing.always", "true").code == 0
        assert "signed, ada@example.org" in signing("commit", "full", "-m", "third").out
        assert "signed, ada@example.org" in signing("tag", "v1").out
        once = ("--config", "signing.always=false")
        assert "signed" not in signing("commit", "adapter-3", "-m", "fourth", *once).out

    @pytest.mark.parametrize(
        ("key", "code", "slug", "words", "hint"),
        [
            ("locked", 44, "signing-failed", "locked by a passphrase", "ssh-add"),
            ("gone", 44, "signing-failed", "there is no signing key", "config set"),
            ("eve", 0, "", "", ""),
        ],
    )
    def test_a_key_that_cannot_sign(
        self, signing: Run, keys: Path, key: str, code: int, slug: str, words: str, hint: str
    ) -> None:
        before = events()
        chosen = ("--config", f"signing.key={keys / key}")
        ran = signing("commit", "full", "-m", "third", "--sign", "--json", *chosen)
        assert ran.code == code
        if code:
            error = ran.document["error"]
            assert (error["slug"], words in error["message"]) == (slug, True)
            assert hint in error["hint"]
            assert events() == before
        else:
            assert "not known to be that of 'ada@example.org'" in ran.document["warnings"][0]

    def test_no_key(self, repository: Run) -> None:
        ran = repository("commit", "full", "-m", "third", "--sign")
        assert ran.code == 2
        assert "error: no key to sign with is configured\nhint: say which: deltavc" in ran.err

    @pytest.mark.usefixtures("signing")
    def test_it_never_asks_for_a_passphrase(self, keys: Path, on_terminal: Run) -> None:
        chosen = ("--config", f"signing.key={keys / 'locked'}")
        ran = on_terminal("commit", "full", "-m", "third", "--sign", *chosen, typed="no\n")
        assert ran.code == 44
        assert "passphrase for" not in ran.out
        assert "Enter" not in ran.out

    def test_a_home_folder_in_the_setting(self, signing: Run, keys: Path) -> None:
        Path.home().joinpath("key").symlink_to(keys / "ada")
        chosen = ("--config", "signing.key=~/key")
        assert signing("commit", "full", "-m", "third", "--sign", *chosen).code == 0
        chosen = ("--config", "signing.key=~nobody-of-this-name/key")
        ran = signing("commit", "full", "-m", "third", "--sign", *chosen)
        assert (ran.code, "unknown user" in ran.err) == (2, True)


class TestTag:
    def test_sign_and_verify(self, signing: Run, keys: Path) -> None:
        words = f"ada@example.org {fingerprint(keys / 'ada')}"
        ran = signing("tag", "v1", "--sign", "-m", "first release")
        assert ran.out.splitlines()[1] == f"  signed, {words}"
        ran = signing("tag", "v1", "--verify")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.endswith(f": signature good, {words}\n")
        data = signing("tag", "v1", "--verify", "--json").document["data"]
        assert [one["status"] for one in data["signatures"]] == ["good"]
        assert f"signature tag good, {words}\n" in signing("show", "v1").out

    def test_exit_codes_of_verify(
        self, signing: Run, keys: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        signing("tag", "v1", "--sign")
        signing("tag", "plain")
        ran = signing("tag", "plain", "--verify")
        assert (ran.code, "is not signed.\n" in ran.out) == (1, True)
        assert signing("tag", "none", "--verify").code == 20
        allowed = Path("allowed_signers")
        allowed.write_text(f"ada@example.org {(keys / 'eve.pub').read_text()}")
        ran = signing("tag", "v1", "--verify", "--json")
        error = ran.document["error"]
        assert (ran.code, error["slug"]) == (43, "signature-invalid")
        assert error["context"]["status"] == "unknown-key"
        allowed.write_text(f"eve@example.org {(keys / 'ada.pub').read_text()}")
        ran = signing("tag", "v1", "--verify")
        assert (ran.code, "the key is that of 'eve@example.org'" in ran.err) == (43, True)
        allowed.write_text(f"ada@example.org {(keys / 'ada.pub').read_text()}")
        Path("revoked_keys").write_text((keys / "ada.pub").read_text())
        assert signing("tag", "v1", "--verify").code == 43
        monkeypatch.setenv("PATH", str(keys))
        ran = signing("tag", "v1", "--verify")
        assert (ran.code, "openssh-client" in ran.err) == (60, True)

    @pytest.mark.parametrize(
        "words",
        [
            ("--verify",),
            ("--sign",),
            ("v1", "HEAD", "--verify"),
            ("v1", "--verify", "--sign"),
            ("v1", "--verify", "-m", "x"),
            ("v1", "--verify", "--delete", "--reason", "x"),
            ("v1", "--sign", "--delete", "--reason", "x"),
        ],
    )
    def test_what_does_not_go_together(self, signing: Run, words: tuple[str, ...]) -> None:
        before = events()
        ran = signing("tag", *words)
        assert (ran.code, "hint:" in ran.err) == (2, True)
        assert events() == before

    def test_verify_works_at_an_earlier_operation(self, signing: Run) -> None:
        signing("tag", "v1", "--sign")
        made = signing("op", "log", "-l", "1", "--json").document["data"][0]["id"]
        signing("tag", "v1", "--delete", "--reason", "why not", "--yes")
        assert signing("tag", "v1", "--verify").code == 20
        assert signing("tag", "v1", "--verify", "--at-op", made).code == 0
        assert signing("tag", "v2", "--sign", "--at-op", made).code == 2


class TestLog:
    def test_show_signature(self, signing: Run) -> None:
        signing("commit", "full", "-m", "third", "--sign")
        lines = signing("log", "--show-signature").out.splitlines()
        assert [line.endswith("good ada@example.org") for line in lines] == [True, False, False]
        assert lines[1].endswith("not signed")
        assert "signed" not in signing("log").out
        rows = signing("log", "--show-signature", "--json").document["data"]
        assert [len(row["signatures"]) for row in rows] == [1, 0, 0]
        assert signing("log", "--json").document["data"][0]["signatures"] is None
        table = signing("log", "--show-signature", "--format", "csv").out.splitlines()
        assert table[0].split(",")[-1] == "signatures"
        assert table[1].endswith(",good ada@example.org")
        assert "signatures" not in signing("log", "--format", "csv").out

    def test_a_hostile_signer_stays_text(self, signing: Run) -> None:
        """A record that forges a line of its own, and what a terminal would obey."""
        import deltavc
        from deltavc.ids import ObjectId
        from deltavc.records.ship import Signature

        repo = deltavc.open(actor="Eve <eve@example.org>")._repo
        head = repo.need_head(repo.state())
        forged = Signature(ObjectId(head), "commit", "x\nsignature good, ada\x1b[2J", "", "", 1)
        with repo.change("tag") as change:
            oid = repo.put_record("signature", forged)
            change.note("signatures", oid)
            change.touch(oid)
        shown = signing("show", "HEAD").out
        assert "\x1b" not in shown
        assert "\nsignature good" not in shown
        assert "signature bad, " in shown
        assert "bad" in signing("log", "--show-signature").out.splitlines()[0]


class TestApprovals:
    @pytest.fixture
    def request_name(self, signing: Run, keys: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """A deployment that waits for somebody else; Kai, who is to approve, is at the keyboard."""
        with Path("allowed_signers").open("a") as file:
            file.write(f"kai@example.org {(keys / 'eve.pub').read_text()}")
        assert signing("env", "define", "production", "--approvals", 1).code == 0
        ran = signing("deploy", "HEAD", "--env", "production", "--reason", "x", "--yes", "--json")
        assert ran.code == 36
        monkeypatch.setenv("DELTAVC_ACTOR", "Kai <kai@example.org>")
        found = re.search(r"r-\d{6}", ran.document["error"]["message"])
        assert found is not None
        return found[0]

    def test_an_approval_is_signed_by_the_approver(
        self, signing: Run, keys: Path, request_name: str
    ) -> None:
        approve = ("env", "approve", request_name, "--sign")
        before = events()
        ran = signing(*approve)  # with Ada's key
        assert (ran.code, "that of 'ada@example.org'" in ran.err) == (44, True)
        assert events() == before
        ran = signing(*approve, "--config", f"signing.key={keys / 'eve'}")
        assert (ran.code, ran.out.endswith("  signed\n")) == (0, True)
        verified = signing("audit", "verify", "--json").document["data"]
        assert (verified["ok"], verified["signatures"]) == (True, 1)
        assert verified["findings"] == []
        Path("revoked_keys").write_text((keys / "eve.pub").read_text())
        ran = signing("audit", "verify", "--json")
        assert ran.code == 1
        assert [one["code"] for one in ran.document["data"]["findings"]] == ["signature-revoked"]


def test_without_signing_nothing_is_said(repository: Run) -> None:
    assert "signature" not in repository("show", "HEAD").out

"""Signatures with real keys, checked by ssh-keygen itself and against forged records."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deltavc.errors import (
    DeltavcError,
    MissingExtra,
    NameTaken,
    RepositoryError,
    SignatureInvalid,
    SigningFailed,
    UnsafeFile,
    UsageError,
)
from deltavc.ids import CommitId, ObjectId, RequestId
from deltavc.records.ship import Approval, Signature
from deltavc.repo import branches, history, record, signing
from deltavc.repo.repository import tag_ref
from deltavc.repo.results import SignatureRow
from deltavc.repo.signing_ssh import SshKeygen, Trust

from .conftest import Lab  # type: ignore[import-not-found]

ADA = "ada@example.org"
EVE = "eve@example.org"
DAY = 86_400_000


class Keys:
    """Keys that ssh-keygen made, and what ssh-keygen itself says of signatures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, *kind in (
            ("ada", "-t", "ed25519"),
            ("eve", "-t", "ed25519"),
            ("rsa", "-t", "rsa", "-b", "2048"),
            ("ecdsa", "-t", "ecdsa"),
        ):
            self.make(name, *kind)
        self.make("locked", "-t", "ed25519", passphrase="correct horse")

    def make(self, name: str, *kind: str, passphrase: str = "") -> None:
        path = str(self.folder / name)
        subprocess.run(
            ["ssh-keygen", "-q", *kind, "-N", passphrase, "-C", "", "-f", path], check=True
        )

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    def public(self, name: str) -> str:
        return (self.folder / f"{name}.pub").read_text().strip()

    def fingerprint(self, name: str) -> str:
        command = ["ssh-keygen", "-l", "-f", str(self.folder / f"{name}.pub")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[1]

    def sign(self, name: str, text: bytes, namespace: str = "deltavc") -> str:
        """Signs without deltavc."""
        command = ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", str(self.folder / name)]
        return subprocess.run(command, input=text, capture_output=True, check=True).stdout.decode()

    def verifies(self, allowed: Path, signer: str, armour: str, text: bytes) -> bool:
        """Verifies without deltavc."""
        file = allowed.with_name("one.sig")
        file.write_text(armour)
        command = ["ssh-keygen", "-Y", "verify", "-n", "deltavc", "-f", str(allowed)]
        command += ["-I", signer, "-s", str(file)]
        return subprocess.run(command, input=text, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


class Desk(Lab):  # type: ignore[misc]
    """A repository whose session signs."""

    def __init__(self, root: Path, keys: Keys) -> None:
        super().__init__(root)
        self.keys = keys
        self.raw = self.repo._repo
        self.allowed = self.raw.root / "allowed_signers"
        self.allow(f"{ADA} {keys.public('ada')}")
        self.use(key=keys["ada"], environ=os.environ)

    def use(self, **changes: Any) -> None:
        """Changes the session's signing."""
        settings = replace(self.raw.session.signing, **changes)
        self.raw.session = replace(self.raw.session, signing=settings)

    def act(self, actor: str) -> None:
        self.raw.session = replace(self.raw.session, actor=actor)

    def allow(self, *lines: str) -> None:
        self.allowed.write_text("".join(f"{line}\n" for line in lines))

    def signed(self, **options: Any) -> SignatureRow:
        """Commits a change, signed."""
        done = record.commit(self.raw, self.lora(), message="a change", sign=True, **options)
        assert done.signature is not None
        return done.signature

    def of(self, oid: str) -> list[SignatureRow]:
        return signing.signatures_of(self.raw, [ObjectId(oid)]).get(ObjectId(oid), [])

    def load(self, oid: str) -> Signature:
        body = bytes(self.raw.store.get(ObjectId(oid), "signature"))
        return msgspec.json.decode(body, type=Signature)

    def forge(self, real: SignatureRow, **changes: Any) -> SignatureRow:
        """Returns what a changed copy of a signature's record is worth."""
        changed = msgspec.structs.replace(self.load(real.id), **changes)
        return signing.verify(self.raw, [self.raw.put_record("signature", changed)])[0]

    def contents(self) -> dict[str, bytes]:
        """Returns everything that the repository holds, but for caches and locks."""
        folder = self.raw.layout.folder
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and path.relative_to(folder).parts[0] in ("objects", "events", "config.toml")
        }


@pytest.fixture
def desk(tmp_path: Path, keys: Keys) -> Desk:
    return Desk(tmp_path, keys)


# making them ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ada", "rsa", "ecdsa"])
def test_a_signed_commit_is_good_and_ssh_keygen_says_so_too(desk: Desk, name: str) -> None:
    desk.allow(f"{ADA} {desk.keys.public(name)}")
    desk.use(key=desk.keys[name])
    row = desk.signed()
    assert (row.status, row.signer, row.kind) == ("good", ADA, "commit")
    assert row.key == desk.keys.fingerprint(name)
    assert desk.of(row.object) == [row]
    text = f"deltavc-signature-v1\ncommit {row.object}\n".encode()
    armour = desk.load(row.id).signature
    assert desk.keys.verifies(desk.allowed, ADA, armour, text)
    assert not desk.keys.verifies(desk.allowed, ADA, armour, text + b" ")


def test_the_signature_comes_with_the_event_of_its_commit(desk: Desk) -> None:
    row = desk.signed()
    event, _ = list(desk.raw.log.read())[-1]
    assert event.detail["commits"] == [row.object]
    assert event.detail["signatures"] == [row.id]
    assert row.id in event.objects


def test_a_signed_tag_is_annotated_and_verified(desk: Desk) -> None:
    commit = desk.commit(desk.lora())
    made = branches.tag(desk.raw, "v1", sign=True)
    assert [row.status for row in made.signatures] == ["good"]
    found = branches.verify_tag(desk.raw, "v1")
    assert (found.commit, found.message) == (commit, "")
    assert found.signatures == made.signatures
    again = branches.tag(desk.raw, "v1", sign=True)
    assert not again.changed


def test_a_tag_that_exists_is_not_signed_later(desk: Desk) -> None:
    desk.signed()
    branches.tag(desk.raw, "plain")
    branches.tag(desk.raw, "noted", message="noted")
    for name in ("plain", "noted"):
        assert branches.verify_tag(desk.raw, name).signatures == []
        with pytest.raises(NameTaken, match="not signed"):
            branches.tag(desk.raw, name, sign=True)


def test_an_approval_is_signed_by_who_approves(desk: Desk) -> None:
    commit = CommitId(ObjectId(desk.commit(desk.lora())))
    with desk.raw.change("env approve") as change:
        request = RequestId(ObjectId("0" * 64))
        approval = Approval(
            request, "production", commit, "1" * 64, desk.raw.session.actor, change.time
        )
        oid = desk.raw.put_record("approval", approval)
        row = signing.sign(desk.raw, change, "approval", oid, approval)
    assert row.status == "good"
    assert signing.verify(desk.raw, [ObjectId(row.id)]) == [row]


def test_always_signs_whatever_makes_a_commit(desk: Desk) -> None:
    first = desk.commit(desk.lora("layers.0.q"))
    desk.use(always=True)
    made = [desk.commit(desk.lora("layers.0.v"), stack=True)]
    branches.switch(desk.raw, create="side", start=first)
    made.append(desk.commit(desk.lora("layers.0.q", rank=1), stack=True))
    made += [str(done.commit) for done in desk.repo.cherry_pick([made[0]])]
    made.append(str(desk.repo.revert(["HEAD"]).commit))
    branches.switch(desk.raw, "main")
    merged = desk.repo.merge(["side"], strategy="sum")
    made.append(str(merged.commit))
    tag = branches.tag(desk.raw, "v1")
    assert [[row.status for row in desk.of(oid)] for oid in made] == [["good"]] * len(made)
    assert [row.status for row in tag.signatures] == ["good"]
    assert desk.of(first) == []


def test_an_agent_signs_where_only_the_public_key_is_given(desk: Desk, agent: Agent) -> None:
    agent.add(desk.keys["ada"])
    public = desk.root / "elsewhere.pub"
    public.write_text(desk.keys.public("ada"))
    desk.use(key=public, environ=agent.environ)
    assert desk.signed().status == "good"
    agent.clear()
    with pytest.raises(SigningFailed, match="no agent holds"):
        desk.signed()


def test_no_key_gets_into_the_repository(desk: Desk) -> None:
    desk.signed()
    branches.tag(desk.raw, "v1", sign=True)
    secret = desk.keys["ada"].read_text().splitlines()[1:-1]
    everything = b"\n".join(desk.contents().values()).decode("latin-1")
    assert not any(line in everything for line in secret)


def test_an_unchanged_commit_is_not_signed(desk: Desk) -> None:
    source = desk.lora()
    desk.commit(source)
    done = record.commit(desk.raw, source, message="again", sign=True)
    assert not done.changed
    assert done.signature is None


# refusing ---------------------------------------------------------------------


def _no_key(desk: Desk) -> None:
    desk.use(key=None)


def _missing(desk: Desk) -> None:
    desk.use(key=desk.root / "nowhere")


def _locked(desk: Desk) -> None:
    desk.use(key=desk.keys["locked"])


def _no_private_half(desk: Desk) -> None:
    lonely = desk.root / "lonely.pub"
    lonely.write_text(desk.keys.public("ada"))
    desk.use(key=lonely)


def _not_a_key(desk: Desk) -> None:
    path = desk.root / "text"
    path.write_text("not a key\n")
    path.chmod(0o600)
    desk.use(key=path)


def _open_to_all(desk: Desk) -> None:
    path = desk.root / "open"
    shutil.copy(desk.keys["ada"], path)
    path.chmod(0o644)
    desk.use(key=path)


def _of_somebody_else(desk: Desk) -> None:
    desk.allow(f"{EVE} {desk.keys.public('ada')}")


def _revoked(desk: Desk) -> None:
    (desk.raw.root / "revoked_keys").write_text(desk.keys.public("ada") + "\n")


def _no_such_signers_file(desk: Desk) -> None:
    desk.use(allowed_signers=Path("nowhere"))


def _hidden_name(desk: Desk) -> None:
    desk.act("Ada <ada\x1b@example.org>")


def _no_ssh_keygen(desk: Desk) -> None:
    desk.use(environ={"PATH": str(desk.root)})


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (_no_key, UsageError, "no key to sign with"),
        (_missing, SigningFailed, "there is no signing key"),
        (_locked, SigningFailed, "locked by a passphrase"),
        (_no_private_half, SigningFailed, "no agent holds the private key"),
        (_not_a_key, SigningFailed, "not an SSH key"),
        (_open_to_all, SigningFailed, "can be read by others"),
        (_of_somebody_else, SigningFailed, f"that of '{EVE}', not of '{ADA}'"),
        (_revoked, SigningFailed, "among the revoked"),
        (_no_such_signers_file, RepositoryError, "there is no file"),
        (_hidden_name, UsageError, "cannot sign"),
        (_no_ssh_keygen, MissingExtra, "ssh-keygen"),
    ],
)
def test_what_cannot_sign_changes_nothing(
    desk: Desk, spoil: Callable[[Desk], None], kind: type[DeltavcError], words: str
) -> None:
    desk.commit(desk.lora())
    spoil(desk)
    source, before = desk.lora(), desk.contents()
    for attempt in (
        lambda: record.commit(desk.raw, source, message="x", sign=True),
        lambda: record.commit(desk.raw, source, message="x", sign=True, dry_run=True),
        lambda: branches.tag(desk.raw, "v1", sign=True),
    ):
        with pytest.raises(kind, match=words) as caught:
            attempt()
        assert caught.value.hint
        assert "\x1b" not in caught.value.message
    assert desk.contents() == before


def test_a_key_that_fails_late_changes_no_ref(desk: Desk) -> None:
    """The trial is over when the key goes: objects may be left, nothing refers to them."""
    desk.commit(desk.lora())
    before = desk.raw.state()
    key = desk.root / "going"
    shutil.copy(desk.keys["ada"], key)
    desk.use(key=key)
    assert signing.ready(desk.raw, True)
    commit = desk.raw.need_head(before)

    def attempt() -> None:
        with desk.raw.change("tag") as change:
            change.set(tag_ref("v1"), commit)
            key.unlink()
            signing.sign(desk.raw, change, "commit", commit, desk.raw.commit(commit))

    with pytest.raises(SigningFailed):
        attempt()
    assert desk.raw.state() == before


def test_a_signature_by_a_key_that_nobody_knows_is_made_with_a_warning(desk: Desk) -> None:
    desk.allowed.unlink()
    row = desk.signed()
    assert row.status == "unknown-key"
    assert any("not known to be that of" in text for text in desk.raw.warnings)
    desk.allow(f"{ADA} {desk.keys.public('ada')}")
    assert desk.of(row.object)[0].status == "good"


def test_a_program_that_does_not_answer_is_given_up(desk: Desk) -> None:
    slow = desk.root / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    ssh = SshKeygen(os.environ, timeout=0.2, program=str(slow))
    started = time.monotonic()
    with pytest.raises(SigningFailed, match="no answer"):
        ssh.sign(desk.keys["ada"], b"text")
    assert time.monotonic() - started < 30


# believing --------------------------------------------------------------------


def test_unknown_keys_are_told_from_bad_signatures(desk: Desk) -> None:
    row = desk.signed()
    desk.allow(f"{EVE} {desk.keys.public('eve')}")
    unknown = desk.of(row.object)[0]
    assert (unknown.status, unknown.key) == ("unknown-key", desk.keys.fingerprint("ada"))
    desk.allow("# nobody")
    assert desk.of(row.object)[0].status == "unknown-key"
    desk.allow(f"{EVE} {desk.keys.public('ada')}")
    other = desk.of(row.object)[0]
    assert (other.status, EVE in other.sentence) == ("bad", True)
    desk.allow("*@example.org,!eve@example.org " + desk.keys.public("ada"))
    assert desk.of(row.object)[0].status == "good"


def test_a_key_counts_while_it_was_valid(desk: Desk) -> None:
    """The time that counts is the commit's, which is part of what is signed."""

    def day(offset: int) -> str:
        return time.strftime("%Y%m%d", time.gmtime((row.time + offset * DAY) / 1000))

    row = desk.signed()
    for options, status, words in (
        (f'valid-after="{day(-1)}",valid-before="{day(2)}"', "good", ""),
        (f'valid-before="{day(-1)}"', "unknown-key", "not valid any more"),
        (f'valid-after="{day(2)}"', "unknown-key", "not valid yet"),
        ('namespaces="git"', "unknown-key", "not allowed for signatures of deltavc"),
        ('namespaces="git,deltavc"', "good", ""),
    ):
        desk.allow(f"{ADA} {options} {desk.keys.public('ada')}")
        found = desk.of(row.object)[0]
        assert (found.status, words in found.sentence) == (status, True), options


def test_revoked_keys_do_not_count(desk: Desk, keys: Keys) -> None:
    row = desk.signed()
    revoked = desk.raw.layout.folder / "revoked_keys"
    revoked.write_text(keys.public("eve") + "\n")
    assert desk.of(row.object)[0].status == "good"
    revoked.write_text(keys.public("ada") + "\n")
    assert desk.of(row.object)[0].status == "revoked"
    subprocess.run(
        ["ssh-keygen", "-q", "-k", "-f", str(revoked), str(keys["ada"]) + ".pub"], check=True
    )
    assert desk.of(row.object)[0].status == "revoked"
    desk.use(revoked_keys=Path("nowhere"))
    assert desk.of(row.object)[0].status == "unchecked"


def test_the_file_of_those_who_may_sign_is_found_in_order(desk: Desk, keys: Keys) -> None:
    row = desk.signed()
    inner = desk.raw.layout.folder / "allowed_signers"
    inner.write_text(f"{EVE} {keys.public('eve')}\n")
    assert desk.of(row.object)[0].status == "unknown-key"
    desk.use(allowed_signers=Path("allowed_signers"))
    assert desk.of(row.object)[0].status == "good"
    assert signing.trust(desk.raw) == Trust(desk.allowed, None)


def test_a_pipe_in_place_of_the_file_does_not_block(desk: Desk) -> None:
    row = desk.signed()
    desk.allowed.unlink()
    os.mkfifo(desk.allowed)
    found = desk.of(row.object)[0]
    assert (found.status, "there is no file" in found.sentence) == ("unchecked", True)


def test_without_openssh_history_is_still_shown(desk: Desk) -> None:
    row = desk.signed()
    branches.tag(desk.raw, "v1", sign=True)
    desk.use(environ={"PATH": str(desk.root)})
    shown = history.show(desk.raw, row.object).commit
    assert shown is not None
    assert [found.status for found in shown.signatures] == ["unchecked", "unchecked"]
    with pytest.raises(MissingExtra):
        branches.verify_tag(desk.raw, "v1")


# forging ----------------------------------------------------------------------


def test_no_claim_of_a_record_is_taken_for_itself(desk: Desk, keys: Keys) -> None:
    real, other = desk.signed(), desk.signed()
    of_other = f"deltavc-signature-v1\ncommit {real.object}\n".encode()
    desk.allow(f"{ADA} {keys.public('ada')}", f"{EVE} {keys.public('eve')}")
    assert desk.forge(real).status == "good"
    for changes in (
        {"object": ObjectId(other.object)},
        {"object": ObjectId("0" * 64)},
        {"kind": "tag"},
        {"kind": "event"},
        {"kind": ""},
        {"signer": EVE},
        {"signer": EVE, "signature": keys.sign("eve", of_other)},
        {"signature": keys.sign("eve", of_other)},
        {"signature": keys.sign("ada", of_other, namespace="file")},
        {"signature": keys.sign("ada", of_other + b"\n")},
        {"signature": ""},
        {"signature": "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"},
        {"signature": "ä" * 100},
        {"signature": "A" * 100_000},
        {"time": real.time + 1},
        {"time": -1},
        {"time": 10**17},
        {"key": keys.fingerprint("eve")},
    ):
        found = desk.forge(real, **changes)
        assert found.status == "bad", changes
        assert found.sentence


def test_signing_in_anothers_name_is_seen(desk: Desk, keys: Keys) -> None:
    """Eve may sign, and makes a commit that says it is Ada's."""
    desk.use(key=keys["eve"])
    desk.allow(f"{ADA} {keys.public('ada')}", f"{EVE} {keys.public('eve')}")
    with pytest.raises(SigningFailed):
        desk.signed()
    commit = CommitId(ObjectId(desk.commit(desk.lora())))
    text = signing.text_of("commit", commit)
    forged = Signature(
        commit,
        "commit",
        EVE,
        keys.fingerprint("eve"),
        keys.sign("eve", text),
        desk.raw.commit(commit).time,
    )
    found = signing.verify(desk.raw, [desk.raw.put_record("signature", forged)])[0]
    assert (found.status, ADA in found.sentence) == ("bad", True)


def test_a_record_that_is_no_signature_is_bad(desk: Desk) -> None:
    row = desk.signed()
    missing, wrong = signing.verify(desk.raw, [ObjectId("0" * 64), ObjectId(row.object)])
    assert (missing.status, wrong.status) == ("bad", "bad")


def test_a_tampered_tag_is_not_good(desk: Desk) -> None:
    desk.commit(desk.lora())
    made = branches.tag(desk.raw, "v1", sign=True).signatures[0]
    loose = desk.raw.layout.folder / "objects" / "loose"
    file = next(path for path in loose.rglob("*") if path.name in (made.object, made.object[2:]))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    found = signing.verify(desk.reopen()._repo, [ObjectId(made.id)])[0]
    assert (found.status, "not whole" in found.sentence) == ("bad", True)


def test_fsck_misses_a_signature_that_was_taken_away(desk: Desk) -> None:
    desk.commit(desk.lora())
    made = branches.tag(desk.raw, "v1", sign=True).signatures[0]
    assert desk.repo.fsck().ok
    loose = desk.raw.layout.folder / "objects" / "loose"
    next(path for path in loose.rglob("*") if path.name in (made.id, made.id[2:])).unlink()
    found = desk.reopen().fsck()
    assert [item.subject for item in found.findings if item.code == "object-missing"] == [made.id]
    with pytest.raises(SignatureInvalid):
        branches.verify_tag(desk.repo._repo, "v1")


def test_a_signed_tag_under_another_name_is_refused(desk: Desk) -> None:
    desk.commit(desk.lora())
    branches.tag(desk.raw, "v1", sign=True)
    with desk.raw.change("tag") as change:
        change.set(tag_ref("v2"), change.state.refs[tag_ref("v1")])
    with pytest.raises(SignatureInvalid, match="signed as 'v1'"):
        branches.verify_tag(desk.raw, "v2")


def test_the_catalog_cannot_lend_a_signature(desk: Desk) -> None:
    row = desk.signed()
    other = desk.commit(desk.lora())
    with sqlite3.connect(desk.raw.layout.catalog) as catalog:
        catalog.execute("UPDATE signatures SET object = ?", (other,))
    catalog.close()
    found = desk.of(other)[0]
    assert (found.status, found.object) == ("bad", row.object)
    desk.raw.rebuild_catalog()
    assert desk.of(other) == []
    assert desk.of(row.object) == [row]


def test_undo_and_redo_keep_what_was_signed(desk: Desk) -> None:
    row = desk.signed()
    desk.repo.undo()
    desk.repo.redo()
    assert desk.raw.need_head(desk.raw.state()) == row.object
    assert desk.of(row.object) == [row]


# files, and history -----------------------------------------------------------


def test_a_signed_file_is_checked_without_deltavc(desk: Desk, keys: Keys) -> None:
    pack = desk.root / "evidence.zip"
    pack.write_bytes(os.urandom(300_000))
    made = signing.sign_file(desk.raw, pack)
    assert made == desk.root / "evidence.zip.sig"
    armour = made.read_text()
    assert keys.verifies(desk.allowed, ADA, armour, pack.read_bytes())
    assert signing.verify_file(desk.raw, pack, signer=ADA).status == "good"
    assert signing.verify_file(desk.raw, pack, signer=EVE).status == "bad"
    with pack.open("r+b") as file:
        file.write(b"x")
    assert signing.verify_file(desk.raw, pack, signer=ADA).status == "bad"


def test_a_file_cannot_stand_for_a_version(desk: Desk) -> None:
    commit = desk.commit(desk.lora())
    trap = desk.root / "trap"
    trap.write_bytes(signing.text_of("commit", ObjectId(commit)))
    with pytest.raises(UnsafeFile, match="begins like"):
        signing.sign_file(desk.raw, trap)
    assert not trap.with_name("trap.sig").exists()


def test_log_and_show_tell_what_signatures_are_worth(desk: Desk) -> None:
    plain = desk.commit(desk.lora())
    row = desk.signed()
    tag = branches.tag(desk.raw, "v1", sign=True).signatures
    told = history.log(desk.raw, signatures=True)
    assert [(one.commit, one.signatures) for one in told] == [(row.object, [row]), (plain, [])]
    assert [one.signatures for one in history.log(desk.raw)] == [None, None]
    shown = history.show(desk.raw, "v1")
    assert shown.commit is not None
    assert shown.commit.signatures == [row, *tag]
    assert history.show(desk.raw, row.id).kind == "signature"


@pytest.mark.parametrize(
    ("actor", "name"),
    [
        ("Ada <ada@example.org>", "ada@example.org"),
        ("Ada", "Ada"),
        (" Ada Lovelace ", "Ada Lovelace"),
        ("<ada@example.org>", "ada@example.org"),
        ("A <b> <ada@example.org>", "ada@example.org"),
        ("Ada <>", "Ada <>"),
        ("Ada <ada", "Ada <ada"),
    ],
)
def test_the_principal_is_the_mail_address_or_the_name(actor: str, name: str) -> None:
    assert signing.principal(actor) == name


class Agent:
    """A real ssh-agent."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "agent"
        self.process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(self.socket)], stdout=subprocess.DEVNULL
        )
        while not self.socket.exists():
            assert self.process.poll() is None
            time.sleep(0.01)
        self.environ = {"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": str(self.socket)}

    def _add(self, *arguments: str) -> None:
        subprocess.run(["ssh-add", "-q", *arguments], env=self.environ, check=True)

    def add(self, key: Path) -> None:
        self._add(str(key))

    def clear(self) -> None:
        self._add("-D")


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    running = Agent(tmp_path_factory.mktemp("a"))
    yield running
    running.process.terminate()
    running.process.wait(10)

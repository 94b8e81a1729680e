"""Signatures of commits, tags and approvals, and of files handed out.

A signature is a record of its own, detached from what it signs, so that ids do not
depend on keys. It signs a text that names the kind and the id of an object:

    deltavc-signature-v1
    commit 3f0c…

Since an id is a SHA-256 over everything that the object refers to, one signature covers
the version, its base and its whole history. What the record claims besides, who signed
and when, counts only where the signed object says the same: nobody signs in another's
name, and an expired key cannot be dated back without changing what is signed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from deltavc.errors import (
    DeltavcError,
    IntegrityError,
    RepositoryError,
    RepositoryUnwritable,
    SignatureInvalid,
    SigningFailed,
    UnsafeFile,
    UsageError,
)
from deltavc.formats.files import kind_of, open_regular, read_small, shown
from deltavc.ids import ObjectId
from deltavc.records import canonical
from deltavc.records.model import Commit, Tag
from deltavc.records.ship import Approval, Signature
from deltavc.repo.results import SignatureRow
from deltavc.repo.signing_ssh import MAX_SIGNATURE, Checked, SshKeygen, Trust

if TYPE_CHECKING:
    from deltavc.repo.change import Change
    from deltavc.repo.objects import ObjectSink
    from deltavc.repo.repository import Repository

__all__ = [
    "in_use",
    "principal",
    "ready",
    "required",
    "sign",
    "sign_file",
    "signatures_of",
    "text_of",
    "trust",
    "verify",
    "verify_file",
]

_MAGIC = b"deltavc-signature-v1\n"
_MAX_PUBLIC_KEY = 1 << 14
_MAX_PRINCIPAL = 200


@dataclass(frozen=True)
class _Kind:
    """A kind of record that can be signed: who made it and when."""

    model: type[Any]
    actor: Callable[[Any], str]


_KINDS: Mapping[str, _Kind] = {
    "commit": _Kind(Commit, lambda record: str(record.author)),
    "tag": _Kind(Tag, lambda record: str(record.tagger)),
    "approval": _Kind(Approval, lambda record: str(record.actor)),
}


def text_of(kind: str, oid: ObjectId) -> bytes:
    """Returns the text that a signature of an object signs."""
    return _MAGIC + f"{kind} {oid}\n".encode()


def principal(actor: str) -> str:
    """Returns the name of an actor in ``allowed_signers``: the mail address, else the name."""
    name, bracket, rest = actor.rpartition("<")
    mail = rest.removesuffix(">").strip()
    return mail if bracket and rest.endswith(">") and mail else actor.strip() or name.strip()


def in_use(repo: Repository) -> bool:
    """Tells whether signatures matter here: whoever may sign is named, or all is signed."""
    settings = repo.session.signing
    if settings.always or settings.allowed_signers is not None:
        return True
    try:
        return trust(repo).allowed is not None
    except RepositoryError:
        return True


def trust(repo: Repository) -> Trust:
    """Returns whose keys are believed in a repository.

    Args:
        repo: The repository.

    Returns:
        The files that the settings name, else those in ``.deltavc``, else those of the
        work tree.

    Raises:
        RepositoryError: A file is not there, or is no regular file.
    """
    found = {}
    settings = repo.session.signing
    wanted = {"allowed_signers": settings.allowed_signers, "revoked_keys": settings.revoked_keys}
    for name, named in wanted.items():
        places = (repo.layout.folder / name, repo.root / name)
        path = repo.root / named if named is not None else next(filter(kind_of, places), None)
        if path is not None and kind_of(path) != "file":
            raise RepositoryError(
                f"there is no file '{shown(path)}' to check signatures with",
                hint=f"say where it is: deltavc config set signing.{name} PATH",
                path=str(path),
            )
        found[name] = path
    return Trust(found["allowed_signers"], found["revoked_keys"])


def ready(repo: Repository, asked: bool = False) -> bool:
    """Tells whether to sign, and makes sure that it will work, before long work begins.

    A key that cannot sign is found out here, by a trial: later the repository's lock is
    held, and others wait. A token that wants a touch is spared the trial.

    Args:
        repo: The repository.
        asked: Whether a signature was asked for.

    Returns:
        Whether it was, or whether everything is signed.

    Raises:
        UsageError: No key is configured.
        MissingExtra: OpenSSH is not installed.
        SigningFailed: The key cannot sign.
    """
    if not asked and not repo.session.signing.always:
        return False
    if not _wants_touch(_key(repo)):
        _made(repo, b"deltavc-trial\n", principal(repo.session.actor), repo.session.clock())
    return True


def sign(
    repo: Repository,
    change: Change,
    kind: str,
    oid: ObjectId,
    record: Commit | Tag | Approval,
    *,
    sink: ObjectSink | None = None,
) -> SignatureRow:
    """Signs a record as part of a change: the signature comes with the same event.

    Args:
        repo: The repository.
        change: The open change.
        kind: ``commit``, ``tag`` or ``approval``.
        oid: The record's id.
        record: The record; who made it signs.
        sink: Takes the signature; default: it is written as a loose object.

    Returns:
        The signature, as it is worth now.

    Raises:
        UsageError: No key is configured.
        MissingExtra: OpenSSH is not installed.
        SigningFailed: The key cannot sign, is revoked or is known as somebody else's; the
            change must be given up.
    """
    signer = principal(_KINDS[kind].actor(record))
    armour, worth = _made(repo, text_of(kind, oid), signer, record.time)
    if worth.status == "unknown-key":
        repo.warnings.append(
            f"signed with a key that is not known to be that of '{signer}': {worth.sentence}"
        )
    signature = Signature(oid, kind, signer, worth.key, armour, record.time)
    put = repo.put_record if sink is None else sink.record
    found = put("signature", signature)
    change.note("signatures", found)
    change.touch(found)
    row = _row(found, signature, worth)
    change.signatures.append(row)
    return row


def _made(repo: Repository, text: bytes | BinaryIO, signer: str, time: int) -> tuple[str, Checked]:
    """Makes a signature and checks it, so that none is kept that would not be believed."""
    if not signer or len(signer) > _MAX_PRINCIPAL or not signer.isprintable():
        raise UsageError(
            f"'{shown(signer)}' cannot sign: it is no name that 'allowed_signers' could have",
            hint="set DELTAVC_ACTOR to 'NAME <MAIL>'",
        )
    key, ssh = _key(repo), _ssh(repo)
    armour = ssh.sign(key, text)
    worth = ssh.check(text, armour, signer=signer, time=time, trust=trust(repo))
    if worth.status not in ("good", "unknown-key"):
        raise SigningFailed(
            f"the signing key '{shown(key)}' cannot sign for '{signer}': {worth.sentence}",
            hint="see whose key it is: the file 'allowed_signers'",
            key=str(key),
            signer=signer,
        )
    return armour, worth


def signatures_of(
    repo: Repository, objects: Collection[ObjectId]
) -> dict[ObjectId, list[SignatureRow]]:
    """Returns the signatures of objects, checked.

    Args:
        repo: The repository.
        objects: Ids of commits, tags or approvals.

    Returns:
        The signatures of each object that has any, in the order of their events.
    """
    listed = repo.reader().signatures_of(list(objects))
    of = {row.id: oid for oid, rows in listed.items() for row in rows}
    found: dict[ObjectId, list[SignatureRow]] = {}
    for row in verify(repo, of):
        oid = of[ObjectId(row.id)]
        if row.status == "good" and row.object != oid:  # the catalog is not the truth
            row = msgspec.structs.replace(row, status="bad", sentence="it signs something else")
        found.setdefault(oid, []).append(row)
    return found


def required(repo: Repository, oid: ObjectId, what: str) -> list[SignatureRow]:
    """Returns the signatures of an object, all of them good.

    Args:
        repo: The repository.
        oid: Its id.
        what: What it is, for the message, with its name in single quotes.

    Returns:
        The signatures; none where it is not signed.

    Raises:
        MissingExtra: OpenSSH is not installed.
        RepositoryError: The file of those who may sign is not where the settings say.
        SignatureInvalid: A signature is not good.
    """
    rows = signatures_of(repo, [oid]).get(oid, [])
    for row in rows:
        if row.status == "unchecked":
            trust(repo)
            _ssh(repo).require()
        if row.status != "good":
            raise SignatureInvalid(
                f"the signature of {what} is not good: {row.sentence}",
                object=oid,
                signature=row.id,
                signer=row.signer,
                key=row.key,
                status=row.status,
            )
    return rows


def verify(repo: Repository, ids: Iterable[ObjectId]) -> list[SignatureRow]:
    """Checks signatures.

    Args:
        repo: The repository.
        ids: Ids of signature records.

    Returns:
        What each is worth, in the same order. ``unchecked`` is one that could not be
        checked: OpenSSH is missing, or the file of those who may sign.
    """
    ids = list(ids)
    if not ids:
        return []
    from concurrent.futures import ThreadPoolExecutor

    believed: Trust | Checked
    try:
        believed = trust(repo)
    except DeltavcError as error:
        believed = Checked("unchecked", error.message)
    with ThreadPoolExecutor(max(1, min(repo.session.threads, len(ids)))) as pool:
        return list(pool.map(lambda oid: _verified(repo, oid, believed), ids))


def _verified(repo: Repository, oid: ObjectId, believed: Trust | Checked) -> SignatureRow:
    try:
        signature = canonical.decode(repo.store.get(oid, "signature"), Signature)
    except IntegrityError as error:
        unknown = Signature(ObjectId(""), "", "", "", "", 0)
        return _row(oid, unknown, Checked("bad", error.message))
    try:
        worth = _claims(repo, signature)
        if worth is None and isinstance(believed, Checked):
            worth = believed
        elif worth is None:
            assert isinstance(believed, Trust)
            worth = _ssh(repo).check(
                text_of(signature.kind, signature.object),
                signature.signature,
                signer=signature.signer,
                time=signature.time,
                trust=believed,
            )
            if worth.key not in ("", signature.key):
                worth = Checked("bad", "the record names another key than the signature's")
    except DeltavcError as error:
        worth = Checked("unchecked", error.message)
    return _row(oid, signature, worth)


def _claims(repo: Repository, signature: Signature) -> Checked | None:
    """Compares what a signature claims with what the signed object says; None where it agrees."""
    kind = _KINDS.get(signature.kind)
    if kind is None:
        return Checked("bad", f"'{shown(signature.kind)}' is no kind of object that is signed")
    try:
        body = repo.store.get(signature.object, signature.kind)
        record = canonical.decode(body, kind.model)
    except IntegrityError as error:
        return Checked("bad", f"what it signs is not whole: {error.message}")
    actor = principal(kind.actor(record))
    if actor != signature.signer:
        return Checked("bad", f"it is of '{shown(signature.signer)}', the {signature.kind} "
                       f"of '{shown(actor)}'")  # fmt: skip
    if record.time != signature.time:
        return Checked("bad", f"its time is not that of the {signature.kind}")
    return None


def sign_file(repo: Repository, path: Path) -> Path:
    """Signs a file; ``ssh-keygen -Y verify -n deltavc`` checks it without deltavc.

    Args:
        repo: The repository; its actor signs.
        path: The file.

    Returns:
        The signature's file beside it, ``.sig`` behind its name.

    Raises:
        UsageError: No key is configured.
        MissingExtra: OpenSSH is not installed.
        SigningFailed: The key cannot sign.
        UnsafeFile: Its content is what a signature of an object signs.
        InputError: It cannot be read.
        RepositoryUnwritable: The signature cannot be written.
    """
    with open_regular(path) as (file, _):
        if file.read(len(_MAGIC)) == _MAGIC:
            raise UnsafeFile(
                f"'{shown(path)}' begins like the text that the signature of a version signs",
                hint="sign the version itself: deltavc tag NAME REV --sign",
            )
        armour, _ = _made(repo, file, principal(repo.session.actor), repo.session.clock())
    beside = path.with_name(path.name + ".sig")
    try:
        beside.write_text(armour, encoding="ascii")
    except OSError as error:
        raise RepositoryUnwritable(
            f"the signature '{shown(beside)}' cannot be written: {error.strerror}"
        ) from error
    return beside


def verify_file(repo: Repository, path: Path, *, signer: str) -> SignatureRow:
    """Checks the signature beside a file.

    Args:
        repo: The repository, for whose keys are believed.
        path: The file; the signature has ``.sig`` behind its name.
        signer: The principal that it must be of.

    Returns:
        What it is worth now.

    Raises:
        InputError: One of the two cannot be read.
        MissingExtra: OpenSSH is not installed.
    """
    armour = read_small(path.with_name(path.name + ".sig"), max_bytes=MAX_SIGNATURE)
    with open_regular(path) as (file, _):
        worth = _ssh(repo).check(
            file, armour.decode("latin-1"), signer=signer, time=None, trust=trust(repo)
        )
    signature = Signature(ObjectId(""), "file", signer, worth.key, "", repo.session.clock())
    return _row(ObjectId(""), signature, worth)


def _row(oid: ObjectId, signature: Signature, worth: Checked) -> SignatureRow:
    return SignatureRow(
        id=oid,
        object=signature.object,
        kind=signature.kind,
        signer=signature.signer,
        key=signature.key or worth.key,
        time=signature.time,
        status=worth.status,
        sentence=worth.sentence,
    )


def _ssh(repo: Repository) -> SshKeygen:
    return SshKeygen(repo.session.signing.environ)


def _key(repo: Repository) -> Path:
    key = repo.session.signing.key
    if key is None:
        raise UsageError(
            "no key to sign with is configured",
            hint="say which: deltavc config set --user signing.key ~/.ssh/id_ed25519",
        )
    return repo.root / key


def _wants_touch(key: Path) -> bool:
    """Tells whether a key lives in a token, from its public half."""
    public = key if key.suffix == ".pub" else key.with_name(key.name + ".pub")
    try:
        return read_small(public, max_bytes=_MAX_PUBLIC_KEY).startswith(b"sk-")
    except DeltavcError:
        return False

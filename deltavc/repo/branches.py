"""The verbs ``branch``, ``switch`` and ``tag``: names for revisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltavc.errors import (
    NameTaken,
    NotFastForward,
    Protected,
    SignatureInvalid,
    UnknownRevision,
    UsageError,
)
from deltavc.formats.files import shown
from deltavc.ids import CommitId, ObjectId, check_name, short
from deltavc.records import canonical
from deltavc.records.model import Tag
from deltavc.repo import signing
from deltavc.repo.repository import HEAD, branch_ref, tag_ref
from deltavc.repo.results import BranchRow
from deltavc.repo.revisions import peel, resolve

if TYPE_CHECKING:
    from deltavc.ledger.state import State
    from deltavc.repo.repository import Repository

__all__ = [
    "create",
    "delete",
    "delete_tag",
    "list_",
    "rename",
    "set_to",
    "subject",
    "switch",
    "tag",
    "tags",
    "verify_tag",
]


def subject(message: str) -> str:
    """Returns the first line of a message."""
    return message.partition("\n")[0]


def list_(repo: Repository) -> list[BranchRow]:
    """Returns all branches by name; the current one is listed even before its first commit."""
    state = repo.state()
    current = repo.head_branch(state)
    names = {n.partition(":")[2] for n in state.refs if n.startswith("branch:")}
    return [_row(repo, state, name) for name in sorted(names | ({current} if current else set()))]


def create(
    repo: Repository, name: str, start: str | None = None, *, dry_run: bool = False
) -> BranchRow:
    """Makes a branch.

    Args:
        repo: The repository.
        name: Its name.
        start: Where; default: HEAD.
        dry_run: Only check.

    Returns:
        The branch.

    Raises:
        NameTaken: There is one of this name that stands elsewhere.
        InvalidName: The name may not be used.
    """
    check_name(name, "branch")
    with repo.change("branch") as change:
        target = resolve(repo, start or HEAD, change.state)
        existing = change.state.refs.get(branch_ref(name))
        if existing not in (None, target):
            raise NameTaken(
                f"branch '{name}' exists and stands at {short(existing or '')}",
                hint=f"move it: deltavc branch {name} --set-to REV",
                name=name,
            )
        if not dry_run and existing is None:
            change.summary = f"branch {name} at {short(target)}"
            change.set(branch_ref(name), target)
    return BranchRow(
        name=name,
        commit=target,
        subject=subject(repo.commit(target).message),
        changed=existing is None,
    )


def delete(repo: Repository, name: str, *, dry_run: bool = False) -> BranchRow:
    """Deletes a branch; its commits stay until nothing refers to them.

    Args:
        repo: The repository.
        name: The branch.
        dry_run: Only check.

    Returns:
        The branch as it was.

    Raises:
        Protected: It is the current branch.
    """
    with repo.change("branch") as change:
        value = _existing(change.state, name)
        if repo.head_branch(change.state) == name:
            raise Protected(
                f"branch '{name}' is the current one", hint="switch to another one first", name=name
            )
        if not dry_run:
            change.summary = f"delete branch {name}, was {short(value)}"
            change.set(branch_ref(name), None)
    message = subject(repo.commit(CommitId(ObjectId(value))).message)
    return BranchRow(name=name, commit=None, subject=message, before=value)


def rename(repo: Repository, old: str, new: str, *, dry_run: bool = False) -> BranchRow:
    """Renames a branch.

    Args:
        repo: The repository.
        old: Its name now.
        new: Its new name.
        dry_run: Only check.

    Returns:
        The branch under its new name.

    Raises:
        NameTaken: The new name is in use.
    """
    check_name(new, "branch")
    with repo.change("branch") as change:
        state = change.state
        value = state.refs.get(branch_ref(old))
        current = repo.head_branch(state) == old
        if value is None and not current:
            _existing(state, old)
        if branch_ref(new) in state.refs and new != old:
            raise NameTaken(f"branch '{new}' exists", name=new)
        if not dry_run and new != old:
            change.summary = f"rename branch {old} to {new}"
            change.set(branch_ref(old), None)
            change.set(branch_ref(new), value)
            if current:
                change.set(HEAD, branch_ref(new))
    text = subject(repo.commit(CommitId(ObjectId(value))).message) if value else ""
    return BranchRow(
        name=new, commit=value, subject=text, current=current, before=old, changed=new != old
    )


def set_to(
    repo: Repository, name: str, rev: str, *, dry_run: bool = False, force: bool = True
) -> BranchRow:
    """Moves a branch.

    Args:
        repo: The repository.
        name: The branch.
        rev: Where to.
        dry_run: Only check.
        force: Allow leaving revisions behind.

    Returns:
        The branch at its new place.

    Raises:
        NotFastForward: Revisions would be left behind and ``force`` is off.
    """
    with repo.change("branch") as change:
        value = _existing(change.state, name)
        target = resolve(repo, rev, change.state)
        if not force and not repo.reader().is_ancestor(CommitId(ObjectId(value)), target):
            raise NotFastForward(f"branch '{name}' would leave {short(value)} behind", name=name)
        if not dry_run:
            change.summary = f"move branch {name} from {short(value)} to {short(target)}"
            change.set(branch_ref(name), target)
    return BranchRow(
        name=name,
        commit=target,
        subject=subject(repo.commit(target).message),
        before=value,
        changed=value != target,
    )


def switch(
    repo: Repository,
    name: str | None = None,
    *,
    create: str | None = None,
    start: str | None = None,
    detach: str | None = None,
    dry_run: bool = False,
) -> BranchRow:
    """Moves HEAD and writes no model.

    Args:
        repo: The repository.
        name: Branch to stand on.
        create: Or: a new branch to make and stand on.
        start: Where to make it; default: HEAD.
        detach: Or: a revision to stand on without a branch.
        dry_run: Only check.

    Returns:
        Where HEAD stands then.

    Raises:
        UsageError: Not exactly one of the three was given.
        UnknownRevision: There is no such branch.
        NameTaken: The branch to make exists.
    """
    if sum(x is not None for x in (name, create, detach)) != 1:
        raise UsageError(
            "switch needs one of a branch, --create NAME and --detach REV",
            hint="list the branches: deltavc branch",
        )
    if start is not None and create is None:
        raise UsageError("--start goes with --create", hint="deltavc switch -c NAME --start REV")
    with repo.change("switch") as change:
        state = change.state
        target: str | None
        if detach is not None:
            value: str = resolve(repo, detach, state)
            target, shown = value, short(value)
        else:
            shown = create if create is not None else name or ""
            value = branch_ref(shown)
            if create is not None:
                target = _start(repo, state, create, start)
            elif value in state.refs or repo.head_branch(state) == name:
                target = state.refs.get(value)
            else:
                raise UnknownRevision(
                    f"no branch is called '{shown}'",
                    hint=f"make it: deltavc switch -c {shown}",
                    branch=shown,
                )
        before = state.refs.get(HEAD)
        if not dry_run:
            change.summary = f"switch to {shown}"
            if create is not None:
                change.set(value, target)
            change.set(HEAD, value)
    text = subject(repo.commit(CommitId(ObjectId(target))).message) if target else ""
    return BranchRow(
        name=shown,
        commit=target,
        subject=text,
        current=True,
        before=before,
        changed=before != value,
    )


def _start(repo: Repository, state: State, name: str, start: str | None) -> str | None:
    check_name(name, "branch")
    if branch_ref(name) in state.refs:
        raise NameTaken(
            f"branch '{name}' exists", hint=f"stand on it: deltavc switch {name}", name=name
        )
    if start is None and repo.head_commit(state) is None:
        return None
    return resolve(repo, start or HEAD, state)


def tags(repo: Repository) -> list[BranchRow]:
    """Returns all tags by name."""
    state = repo.state()
    values = {name: v for name, v in sorted(state.refs.items()) if name.startswith("tag:")}
    with repo.reader() as reader:
        known = reader.tagged(values.values())
        commits = reader.commits(commit for commit, _ in known.values())
    rows = []
    for ref, value in values.items():
        if value in known:
            commit, message = known[value]
            told = commits[commit].message
        else:  # what the catalog had to leave out
            commit, message = peel(repo, ObjectId(value)), None
            if commit != value:
                message = canonical.decode(repo.store.get(ObjectId(value), "tag"), Tag).message
            told = repo.commit(commit).message
        name = ref.partition(":")[2]
        rows.append(BranchRow(name=name, commit=commit, subject=subject(told), message=message))
    return rows


def tag(
    repo: Repository,
    name: str,
    rev: str | None = None,
    *,
    message: str | None = None,
    sign: bool = False,
    dry_run: bool = False,
) -> BranchRow:
    """Gives a commit a fixed name.

    Args:
        repo: The repository.
        name: The tag.
        rev: The commit; default: HEAD.
        message: Makes an annotated tag.
        sign: Sign it; it is then annotated, with an empty message for want of another.
        dry_run: Only check.

    Returns:
        The tag.

    Raises:
        NameTaken: The tag exists and names something else, or is not signed and was to be.
        InvalidName: The name may not be used.
        SigningFailed: The key cannot sign; nothing is recorded.
    """
    check_name(name, "tag")
    signed = signing.ready(repo, sign)
    if signed and message is None:
        message = ""
    with repo.change("tag") as change:
        state = change.state
        commit = resolve(repo, rev or HEAD, state)
        existing = state.refs.get(tag_ref(name))
        if existing is not None and peel(repo, ObjectId(existing)) != commit:
            raise NameTaken(
                f"tag '{name}' exists; tags do not move",
                hint=f"delete it first: deltavc tag {name} --delete --reason TEXT",
                name=name,
            )
        if existing is not None and sign and not _is_signed(repo, existing, commit):
            raise NameTaken(
                f"tag '{name}' exists and is not signed; tags do not change",
                hint="sign under another name, or delete it first",
                name=name,
            )
        if existing is None and not dry_run:
            value: ObjectId = commit
            if message is not None:
                record = Tag(commit, name, repo.session.actor, change.time, message)
                value = repo.put_record("tag", record)
                change.note("tags", value)
                change.touch(value)
                if signed:
                    signing.sign(repo, change, "tag", value, record)
            change.summary = f"tag {name} at {short(commit)}"
            change.set(tag_ref(name), value)
    return BranchRow(
        name=name,
        commit=commit,
        subject=subject(repo.commit(commit).message),
        message=message,
        changed=existing is None,
        signatures=change.signatures,
    )


def verify_tag(repo: Repository, name: str) -> BranchRow:
    """Checks the signatures of a tag.

    Args:
        repo: The repository.
        name: The tag.

    Returns:
        The tag with its signatures; without any where it is not signed.

    Raises:
        UnknownRevision: There is no such tag.
        MissingExtra: OpenSSH is not installed.
        SignatureInvalid: A signature is not good, or none could be checked.
    """
    value = repo.state().refs.get(tag_ref(name))
    if value is None:
        raise _no_tag(name)
    oid = ObjectId(value)
    commit = peel(repo, oid)
    message, rows = None, []
    if commit != oid:
        record = canonical.decode(repo.store.get(oid, "tag"), Tag)
        message, rows = record.message, signing.required(repo, oid, f"tag '{name}'")
        if rows and record.name != name:
            raise SignatureInvalid(
                f"tag '{name}' stands at a tag that was signed as '{shown(record.name)}'",
                object=oid,
                name=record.name,
            )
    return BranchRow(
        name=name,
        commit=commit,
        subject=subject(repo.commit(commit).message),
        message=message,
        changed=False,
        signatures=rows,
    )


def delete_tag(repo: Repository, name: str, reason: str, *, dry_run: bool = False) -> BranchRow:
    """Deletes a tag; the reason is kept in the event log.

    Args:
        repo: The repository.
        name: The tag.
        reason: Why.
        dry_run: Only check.

    Returns:
        The tag as it was.

    Raises:
        UnknownRevision: There is no such tag.
    """
    with repo.change("tag") as change:
        value = change.state.refs.get(tag_ref(name))
        if value is None:
            raise _no_tag(name)
        if not dry_run:
            change.summary = f"delete tag {name}, was {short(value)}"
            change.reason = reason
            change.set(tag_ref(name), None)
    commit = peel(repo, ObjectId(value))
    return BranchRow(
        name=name, commit=None, subject=subject(repo.commit(commit).message), before=commit
    )


def _is_signed(repo: Repository, value: str, commit: CommitId) -> bool:
    """Tells whether a tag is signed; a plain one stands at the commit itself and is not."""
    oid = ObjectId(value)
    return oid != commit and bool(repo.reader().signatures_of([oid])[oid])


def _no_tag(name: str) -> UnknownRevision:
    return UnknownRevision(
        f"no tag is called '{name}'", hint="list the tags: deltavc tag", tag=name
    )


def _existing(state: State, name: str) -> str:
    value = state.refs.get(branch_ref(name))
    if value is None:
        raise UnknownRevision(
            f"no branch is called '{name}'", hint="list the branches: deltavc branch", branch=name
        )
    return value


def _row(repo: Repository, state: State, name: str) -> BranchRow:
    value = state.refs.get(branch_ref(name))
    return BranchRow(
        name=name,
        commit=value,
        subject=subject(repo.commit(CommitId(ObjectId(value))).message) if value else "",
        current=repo.head_branch(state) == name,
    )

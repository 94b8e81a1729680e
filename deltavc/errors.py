"""The error tree: every way in which deltavc says no.

An error is a small document: a slug for machines, one sentence for people, a
hint that was made from what was found, an exit code from the documented table
and a ``context`` of plain values. Raise the most specific class; catch the
class that you can handle. Findings of ``fsck``, ``doctor`` and ``base verify``
are values, not exceptions.

::

    DeltavcError
    ├─ UsageError               2
    ├─ RepositoryError             NotARepository 10, FormatTooNew 11,
    │                              RepositoryLocked 12, RepositoryExists 13,
    │                              RepositoryUnwritable 14
    ├─ NamingError                 UnknownRevision 20, AmbiguousRevision 21,
    │                              NameTaken 22, InvalidName 23
    ├─ BaseError                   BaseMismatch 25, BaseUnavailable 26
    ├─ StateError                  MergeConflict 30, WorkspaceDirty 31, RefMoved 32,
    │                              NotFastForward 33, NothingToUndo 34
    ├─ PolicyError                 Protected 35, ApprovalMissing 36
    ├─ IntegrityError              ObjectCorrupt 40, ObjectMissing 41, AuditChainBroken 42,
    │                              SignatureInvalid 43
    ├─ SigningFailed            44
    ├─ InputError                  UnsupportedFormat 45, UnsafeFile 46,
    │                              NonFiniteTensor 47, ShapeMismatch 48
    ├─ MissingExtra             60
    ├─ HookFailed               61
    └─ InternalError            70

This module imports nothing of the package.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AmbiguousRevision",
    "ApprovalMissing",
    "AuditChainBroken",
    "BaseError",
    "BaseMismatch",
    "BaseUnavailable",
    "DeltavcError",
    "FormatTooNew",
    "HookFailed",
    "InputError",
    "IntegrityError",
    "InternalError",
    "InvalidName",
    "MergeConflict",
    "MissingExtra",
    "NameTaken",
    "NamingError",
    "NonFiniteTensor",
    "NotARepository",
    "NotFastForward",
    "NothingToUndo",
    "ObjectCorrupt",
    "ObjectMissing",
    "PolicyError",
    "Protected",
    "RefMoved",
    "RepositoryError",
    "RepositoryExists",
    "RepositoryLocked",
    "RepositoryUnwritable",
    "ShapeMismatch",
    "SignatureInvalid",
    "SigningFailed",
    "StateError",
    "UnknownRevision",
    "UnsafeFile",
    "UnsupportedFormat",
    "UsageError",
    "WorkspaceDirty",
]


class DeltavcError(Exception):
    """A request that deltavc refuses, or could not carry out.

    Args:
        message: One sentence, lower case, no full stop, subject in single quotes.
        hint: What to do next, when it is not the class's own hint.
        context: Values that belong to the refusal; plain JSON types.

    Attributes:
        slug: Stable name for machines, in kebab case.
        exit_code: Exit code of the command line.
    """

    slug: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = "deltavc help exit-codes"

    def __init__(self, message: str, *, hint: str | None = None, **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.context: dict[str, Any] = context


class UsageError(DeltavcError):
    """The request is malformed in a way that the argument parser could not see."""

    slug = "usage"
    exit_code = 2
    default_hint = "deltavc help"


class RepositoryError(DeltavcError):
    """The repository as a whole is not usable as asked."""

    slug = "repository-error"
    exit_code = 10


class NotARepository(RepositoryError):
    """No repository at or above this folder."""

    slug = "repository-not-found"
    exit_code = 10
    default_hint = "create one: deltavc init"


class FormatTooNew(RepositoryError):
    """The repository was written by a newer deltavc."""

    slug = "repository-too-new"
    exit_code = 11
    default_hint = "upgrade deltavc: pip install --upgrade deltavc"


class RepositoryLocked(RepositoryError):
    """Another process holds the repository's lock."""

    slug = "repository-locked"
    exit_code = 12
    default_hint = "wait for the other process to finish, then try again"


class RepositoryExists(RepositoryError):
    """There is a repository already, with other content."""

    slug = "repository-exists"
    exit_code = 13
    default_hint = "use the existing repository, or choose another folder"


class RepositoryUnwritable(RepositoryError):
    """The repository or the target cannot be written: disk full, read-only, no permission."""

    slug = "repository-unwritable"
    exit_code = 14
    default_hint = "check free space and permissions of the folder, then try again"


class NamingError(DeltavcError):
    """A name does not say what it should."""

    slug = "naming-error"
    exit_code = 20


class UnknownRevision(NamingError):
    """No revision, branch, tag, operation or base has this name."""

    slug = "revision-unknown"
    exit_code = 20
    default_hint = "list what there is: deltavc log --all"


class AmbiguousRevision(NamingError):
    """A short id fits several objects."""

    slug = "revision-ambiguous"
    exit_code = 21
    default_hint = "give more digits"


class NameTaken(NamingError):
    """The name is in use for something else."""

    slug = "name-taken"
    exit_code = 22
    default_hint = "choose another name"


class InvalidName(NamingError):
    """The name may not be used for this."""

    slug = "name-invalid"
    exit_code = 23
    default_hint = "names hold letters, digits, '.', '_', '-' and '/'"


class BaseError(DeltavcError):
    """A base model is not what is needed."""

    slug = "base-error"
    exit_code = 25


class BaseMismatch(BaseError):
    """The delta belongs to another base."""

    slug = "base-mismatch"
    exit_code = 25
    default_hint = "list the bases: deltavc base list"


class BaseUnavailable(BaseError):
    """The base's files cannot be found, or are not the recorded ones any more."""

    slug = "base-unavailable"
    exit_code = 26
    default_hint = "say where the base is now: deltavc base add NAME PATH"


class StateError(DeltavcError):
    """The repository's state does not allow it."""

    slug = "state-error"
    exit_code = 30


class MergeConflict(StateError):
    """Changes to the same parameter that cannot be combined."""

    slug = "merge-conflict"
    exit_code = 30
    default_hint = "see both sides: deltavc diff A B --params"


class WorkspaceDirty(StateError):
    """The target holds changes that no commit records."""

    slug = "workspace-dirty"
    exit_code = 31
    default_hint = "record them (deltavc commit), or overwrite them (--force)"


class RefMoved(StateError):
    """A ref moved while the command ran."""

    slug = "ref-moved"
    exit_code = 32
    default_hint = "look at what happened (deltavc op log), then try again"


class NotFastForward(StateError):
    """The ref would lose revisions."""

    slug = "not-fast-forward"
    exit_code = 33
    default_hint = "merge first, or move it on purpose: deltavc branch NAME --set-to REV"


class NothingToUndo(StateError):
    """There is no operation to take back, or to do again."""

    slug = "nothing-to-undo"
    exit_code = 34
    default_hint = "see the operations: deltavc op log"


class PolicyError(DeltavcError):
    """A rule of the repository forbids it."""

    slug = "policy-error"
    exit_code = 35


class Protected(PolicyError):
    """The thing is protected, or still needed."""

    slug = "protected"
    exit_code = 35
    default_hint = "remove what needs it first"


class ApprovalMissing(PolicyError):
    """An approval is needed, or a confirmation off a terminal."""

    slug = "approval-missing"
    exit_code = 36
    default_hint = "confirm with --yes"


class IntegrityError(DeltavcError):
    """Stored data is not what it was."""

    slug = "integrity-error"
    exit_code = 40


class ObjectCorrupt(IntegrityError):
    """A stored object does not match its id or its checksum."""

    slug = "object-corrupt"
    exit_code = 40
    default_hint = "find out what is affected: deltavc fsck"


class ObjectMissing(IntegrityError):
    """A stored object is not there."""

    slug = "object-missing"
    exit_code = 41
    default_hint = "find out what is affected: deltavc fsck"


class AuditChainBroken(IntegrityError):
    """The event log does not follow from itself."""

    slug = "audit-chain-broken"
    exit_code = 42
    default_hint = "see which entry: deltavc audit verify"


class SignatureInvalid(IntegrityError):
    """A signature is not of this content, or not of a key that is believed."""

    slug = "signature-invalid"
    exit_code = 43
    default_hint = "see who may sign: the file 'allowed_signers'"


class SigningFailed(DeltavcError):
    """The configured key cannot sign; nothing was recorded."""

    slug = "signing-failed"
    exit_code = 44
    default_hint = "say which key signs: deltavc config set --user signing.key PATH"


class InputError(DeltavcError):
    """Input that deltavc does not take."""

    slug = "input-error"
    exit_code = 45


class UnsupportedFormat(InputError):
    """The file or folder is of a kind that deltavc does not read or cannot write."""

    slug = "format-unsupported"
    exit_code = 45
    default_hint = "deltavc reads safetensors files, Hugging Face folders and PEFT LoRA folders"


class UnsafeFile(InputError):
    """The file is malformed, or could do harm."""

    slug = "file-unsafe"
    exit_code = 46
    default_hint = "write the file again with safetensors"


class NonFiniteTensor(InputError):
    """A tensor holds NaN or infinity where numbers are needed."""

    slug = "tensor-non-finite"
    exit_code = 47
    default_hint = "look at the training run: the adapter holds NaN or infinity"


class ShapeMismatch(InputError):
    """Shapes or ranks do not fit."""

    slug = "shape-mismatch"
    exit_code = 48
    default_hint = "check that the source was made for this base"


class MissingExtra(DeltavcError):
    """An optional package is not installed."""

    slug = "extra-missing"
    exit_code = 60
    default_hint = 'pip install "deltavc[all]"'


class HookFailed(DeltavcError):
    """The command that an environment runs after a switch failed."""

    slug = "hook-failed"
    exit_code = 61
    default_hint = "run the hook by hand to see what it says"


class InternalError(DeltavcError):
    """A bug in deltavc."""

    slug = "internal"
    exit_code = 70
    default_hint = "please report it, with the output of: deltavc doctor --report FILE"

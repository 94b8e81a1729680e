"""Identifiers: ids of different things are different types.

Every object id is the SHA-256 of the object's canonical bytes in 64 lower-case
hex digits; the types keep a delta's id from being used as a commit's.
"""

from __future__ import annotations

import re
from typing import NewType

from deltavc.errors import InvalidName

__all__ = [
    "HEX_DIGITS",
    "ApprovalId",
    "BaseId",
    "BlobId",
    "CommitId",
    "DeltaId",
    "DeploymentId",
    "EventHash",
    "ManifestId",
    "MeasurementId",
    "ObjectId",
    "RequestId",
    "ServingId",
    "TagId",
    "check_name",
    "is_object_id",
    "is_serving_id",
    "serving_id",
    "short",
]

HEX_DIGITS = 64
SHORT_DIGITS = 10
SERVING = "dv-"
SERVING_DIGITS = 20  # 80 bits: met by chance only among 10^12 revisions

ObjectId = NewType("ObjectId", str)
BaseId = NewType("BaseId", ObjectId)
BlobId = NewType("BlobId", ObjectId)
CommitId = NewType("CommitId", ObjectId)
DeltaId = NewType("DeltaId", ObjectId)
ManifestId = NewType("ManifestId", ObjectId)
MeasurementId = NewType("MeasurementId", ObjectId)
TagId = NewType("TagId", ObjectId)
DeploymentId = NewType("DeploymentId", ObjectId)
RequestId = NewType("RequestId", ObjectId)
ApprovalId = NewType("ApprovalId", ObjectId)
EventHash = NewType("EventHash", str)
ServingId = NewType("ServingId", str)

_OBJECT_ID = re.compile(r"[0-9a-f]{64}\Z")
_SERVING_ID = re.compile(rf"{SERVING}[0-9a-f]{{{SERVING_DIGITS}}}\Z")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}\Z")


def is_object_id(text: str) -> bool:
    """Tells whether a text has the form of a full object id."""
    return _OBJECT_ID.match(text) is not None


def short(oid: str) -> str:
    """Returns the form of an id that people see: its first ten digits."""
    return oid[:SHORT_DIGITS]


def serving_id(commit: CommitId) -> ServingId:
    """Returns what a server calls a revision: short, and every character may be in a header.

    Args:
        commit: The revision.

    Returns:
        ``dv-`` and the first twenty digits of its id; :mod:`deltavc.repo.revisions` reads it.
    """
    return ServingId(SERVING + commit[:SERVING_DIGITS])


def is_serving_id(text: str) -> bool:
    """Tells whether a text has the form of a serving id."""
    return _SERVING_ID.match(text) is not None


def check_name(name: str, what: str) -> str:
    """Returns a ref or base name unchanged, if it may be used as one.

    Args:
        name: The name.
        what: What it names, for the message: branch, tag, base.

    Returns:
        The name.

    Raises:
        InvalidName: It has a character, a part or a form that names may not have.
    """
    bad = (
        not _NAME.match(name)
        or ".." in name
        or "//" in name
        or name.endswith(("/", ".", ".lock"))
        or any(part.startswith(".") for part in name.split("/"))
        or name in ("HEAD", "@")
        or is_object_id(name)
        or is_serving_id(name)
    )
    if bad:
        raise InvalidName(f"'{name[:80]}' cannot be the name of a {what}", name=name, what=what)
    return name

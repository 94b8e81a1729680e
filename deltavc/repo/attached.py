"""What a version keeps of the adapter that it came from, beside its deltas.

A LoRA is written anew from factors, whatever was added to it. Adapters of other
kinds go out as they came in or not at all: their inventory tells where each
tensor of their file is, and which sum of deltas it was taken of. Where the
deltas do not hold the tensors as found, and where an adapter acts beside the
weights, the file itself is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from deltavc.delta.vector import ATTACHMENT, Terms
from deltavc.errors import ObjectCorrupt, UnsupportedFormat
from deltavc.ids import BlobId, ObjectId
from deltavc.records import canonical
from deltavc.records.model import fraction_to_text

if TYPE_CHECKING:
    from deltavc.delta.vector import Vector
    from deltavc.repo.repository import Repository

__all__ = [
    "PEFT_CONFIG",
    "PEFT_INVENTORY",
    "PEFT_NAMES",
    "PEFT_PREFIX",
    "PEFT_WEIGHTS",
    "PEFT_WHOLE",
    "Inventory",
    "attachments",
    "digest_of",
    "inventory_of",
    "refuse_weightless",
    "weightless_kind",
]

PEFT_CONFIG = "peft/adapter_config.json"
PEFT_INVENTORY = "peft/inventory"
PEFT_NAMES = "peft/names"
PEFT_PREFIX = "peft/prefix"
PEFT_WEIGHTS = "peft/adapter_model.safetensors"
PEFT_WHOLE = "peft/whole/"
"""What precedes the name of each base parameter that an adapter brought whole."""


class Inventory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the tensors of an adapter's file are.

    Attributes:
        sum: The digest of the parameters' terms that are the adapter and nothing else.
        weightless: The kind of an adapter that acts beside the weights.
        tensors: For each key the parameter, and the tensor of its delta by name, or ""
            where the parameter's own value is meant.
        empty: Dtype and shape of tensors without elements, by key.
    """

    sum: str
    weightless: str = ""
    tensors: dict[str, tuple[str, str]] = {}
    empty: dict[str, str] = {}


def digest_of(params: Mapping[str, Terms]) -> str:
    """Returns the SHA-256 of all parameters' terms: equal for equal sums."""
    told = {
        name: {oid: fraction_to_text(c) for oid, c in terms.items()}
        for name, terms in params.items()
    }
    return hashlib.sha256(canonical.encode(told)).hexdigest()


def attachments(repo: Repository, vector: Vector) -> dict[str, bytes]:
    """Reads what is attached to a version, but for weights.

    Args:
        repo: The repository.
        vector: The version.

    Returns:
        The bytes by name.
    """
    return {
        key.removeprefix(ATTACHMENT): bytes(repo.store.get(BlobId(ObjectId(blob)), "blob"))
        for key, blob in vector.meta.items()
        if key.startswith(ATTACHMENT) and key != ATTACHMENT + PEFT_WEIGHTS
    }


def inventory_of(repo: Repository, vector: Vector) -> Inventory | None:
    """Returns the inventory of a version's adapter; None where it has none.

    Raises:
        ObjectCorrupt: It cannot be read.
    """
    blob = vector.meta.get(ATTACHMENT + PEFT_INVENTORY)
    if blob is None:
        return None
    data: Any = repo.store.get(BlobId(ObjectId(blob)), "blob")
    try:
        return msgspec.json.decode(bytes(data), type=Inventory)
    except msgspec.MsgspecError as error:
        raise ObjectCorrupt(f"an adapter's inventory cannot be read: {error}") from error


def weightless_kind(repo: Repository, vector: Vector) -> str:
    """Returns the kind of the adapter that a version carries beside its weights; "" for none."""
    found = inventory_of(repo, vector)
    return found.weightless if found is not None else ""


def refuse_weightless(repo: Repository, vector: Vector, what: str) -> None:
    """Refuses a version whose adapter acts beside the weights.

    Args:
        repo: The repository.
        vector: The version.
        what: What cannot be done with it.

    Raises:
        UnsupportedFormat: It carries such an adapter.
    """
    kind = weightless_kind(repo, vector)
    if kind:
        raise UnsupportedFormat(
            f"this version carries a '{kind}' adapter, which has no form as weights: {what}",
            hint="write the adapter itself: deltavc checkout REV --to DIR --as peft",
            peft_type=kind,
        )

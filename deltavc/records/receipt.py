"""The receipt in each checkout: ``deltavc.json``, which says what a folder was written from.

It is no object of the store: nothing is rebuilt from it, and it may be lost. Its layout is
``docs/reference/format/receipt.md``. Fields are only added, so a reader passes over those
that it does not know.
"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

import msgspec

from deltavc.errors import UnsafeFile, UnsupportedFormat
from deltavc.ids import BaseId, CommitId, ManifestId, ServingId, is_object_id, serving_id
from deltavc.records.canonical import loads_strict

__all__ = [
    "FORMS",
    "MAX_BYTES",
    "RECEIPT_FILE",
    "SCHEMA",
    "EnergyLost",
    "FileDigest",
    "Form",
    "Receipt",
    "ReceiptBase",
    "ServedAdapter",
    "decode",
    "encode",
    "is_receipt",
]

RECEIPT_FILE = "deltavc.json"
SCHEMA = "deltavc.receipt/1"
MAX_BYTES = 16 << 20
MAX_FILES = 20_000

Form = Literal["full", "peft", "vllm"]
FORMS: tuple[Form, ...] = get_args(Form)

_FAMILY = "deltavc.receipt/"
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_XXH3 = re.compile(r"[0-9a-f]{32}\Z")
_TIME = re.compile(r"\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z\Z")


class FileDigest(msgspec.Struct, frozen=True):
    """What a file held when it was written.

    Attributes:
        size: Bytes.
        sha256: SHA-256 in hex: whether it is the very file.
        xxh3: xxh3-128 in hex, of long files that of their pieces' digests: whether it came
            to harm, found at memory speed. Files that have the same one can be made at will.
    """

    size: int
    sha256: str
    xxh3: str


class ReceiptBase(msgspec.Struct, frozen=True):
    """The base of a version: its fingerprint, and what the repository called it."""

    fingerprint: BaseId
    name: str


class EnergyLost(msgspec.Struct, frozen=True):
    """Share of a change's squared norm that an approximation left out: of all, by parameter."""

    total: float
    parameters: dict[str, float]


class ServedAdapter(msgspec.Struct, frozen=True):
    """What a server is to know of a LoRA.

    Attributes:
        base_model_name_or_path: What the server calls the base.
        rank: The one rank of all layers.
        max_lora_rank: The least ``--max-lora-rank`` to start vLLM with.
        rounded: Parameters whose scale could not be folded into a factor exactly.
        energy_lost: What approximation left out.
    """

    base_model_name_or_path: str
    rank: int
    max_lora_rank: int
    rounded: list[str]
    energy_lost: EnergyLost


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a folder was written from.

    Attributes:
        schema: ``deltavc.receipt/1``.
        serving_id: What a server answers with: :func:`deltavc.ids.serving_id` of the commit.
        commit: The revision.
        manifest: Its manifest.
        base: Its base.
        form: ``full``, ``peft`` or ``vllm``.
        exact: Whether nothing was approximated, neither when the revision was committed
            nor when the folder was written.
        tool: Which deltavc wrote it.
        written: When, in ISO 8601, UTC.
        adapter: What a server is to know, of the form ``vllm``.
        files: Every other file of the folder by relative path, where that was asked for.
    """

    schema: str
    serving_id: ServingId
    commit: CommitId
    manifest: ManifestId
    base: ReceiptBase
    form: Form
    exact: bool
    tool: str
    written: str
    adapter: ServedAdapter | None = None
    files: dict[str, FileDigest] = {}


def encode(receipt: Receipt) -> bytes:
    """Returns a receipt as a file holds it: JSON that people can read, too."""
    return msgspec.json.format(msgspec.json.encode(receipt), indent=2) + b"\n"


def decode(data: bytes) -> Receipt:
    """Reads a receipt, trusting nothing of it.

    Args:
        data: What the file holds.

    Returns:
        The receipt.

    Raises:
        UnsafeFile: It is malformed, contradicts itself, or names files outside its folder.
        UnsupportedFormat: It is none, or one of a newer schema.
    """
    value = loads_strict(data, f"'{RECEIPT_FILE}'", max_bytes=MAX_BYTES)
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        known = isinstance(schema, str) and schema.startswith(_FAMILY)
        raise UnsupportedFormat(
            f"'{RECEIPT_FILE}' is {'of a newer schema' if known else 'no receipt of deltavc'}",
            hint="read it with a newer deltavc" if known else "give a folder that checkout wrote",
            expected=SCHEMA,
        )
    try:
        receipt = msgspec.convert(value, Receipt)
    except msgspec.ValidationError as error:
        raise UnsafeFile(f"'{RECEIPT_FILE}' is malformed: {error}") from error
    wrong = _contradiction(receipt)
    if wrong is not None:
        raise UnsafeFile(
            f"'{RECEIPT_FILE}' is malformed: {wrong}", hint="check the revision out again"
        )
    return receipt


def is_receipt(data: bytes) -> bool:
    """Tells whether a file of this name is deltavc's own, of whatever schema."""
    try:
        value: Any = loads_strict(data, f"'{RECEIPT_FILE}'", max_bytes=MAX_BYTES)
    except UnsafeFile:
        return False
    schema = value.get("schema") if isinstance(value, dict) else None
    return isinstance(schema, str) and schema.startswith(_FAMILY)


def _contradiction(receipt: Receipt) -> str | None:
    """Returns what of a receipt cannot be; None when it may be true."""
    ids = (receipt.commit, receipt.manifest, receipt.base.fingerprint)
    if not all(is_object_id(one) for one in ids):
        return "an id is not 64 hexadecimal digits"
    if receipt.serving_id != serving_id(receipt.commit):
        return "the serving id is not that of the commit"
    if not _TIME.match(receipt.written):
        return "the time is not one in ISO 8601, UTC"
    if len(receipt.files) > MAX_FILES:
        return f"it names more than {MAX_FILES} files"
    for name, found in receipt.files.items():
        if not _is_inside(name):
            return "the path of a file leads out of the folder"
        if found.size < 0 or not _SHA256.match(found.sha256) or not _XXH3.match(found.xxh3):
            return "the digest of a file is none"
    return None


def _is_inside(name: str) -> bool:
    """Tells whether a path is relative, plain, and not that of the receipt itself."""
    plain = name.isprintable() and "\\" not in name and name != RECEIPT_FILE
    return plain and not any(part in ("", ".", "..") for part in name.split("/"))

"""From what a person commits to a vector: each changed tensor becomes a delta on the base.

Unchanged tensors cost a comparison at memory speed and store nothing. A tensor
that HEAD's own terms rebuild to the very same bits keeps those terms, so that
an adapter stays an adapter when only its neighbours changed.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import median_low
from typing import TYPE_CHECKING

from deltavc.delta.vector import (
    FILE,
    PREFIX,
    REMOVED,
    SHAPE,
    Terms,
    Vector,
    form_to_text,
)
from deltavc.errors import BaseMismatch, UnsupportedFormat
from deltavc.ids import DeltaId
from deltavc.records.receipt import RECEIPT_FILE
from deltavc.repo.parallel import unordered
from deltavc.repo.results import KindRow

if TYPE_CHECKING:
    from deltavc.delta.kinds import Delta
    from deltavc.delta.tensor import Tensor
    from deltavc.formats.checkpoint import Checkpoint
    from deltavc.repo.objects import ObjectSink
    from deltavc.repo.openbase import OpenBase
    from deltavc.repo.repository import Repository

__all__ = ["Encoding", "Options", "Selection", "encode_checkpoint", "encode_one", "forms"]

ONE = Fraction(1)


@dataclass(frozen=True)
class Selection:
    """Which parameters a commit takes from its source; the others stay as they are at HEAD."""

    params: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether all parameters are taken."""
        return not self.params and not self.exclude

    def __call__(self, name: str) -> bool:
        """Tells whether a parameter is taken."""
        wanted = not self.params or any(fnmatch.fnmatchcase(name, p) for p in self.params)
        return wanted and not any(fnmatch.fnmatchcase(name, p) for p in self.exclude)


@dataclass(frozen=True)
class Options:
    """How to encode: effort, and bounds for lossy storing where that was asked for."""

    effort: str = "default"
    max_rank: int | None = None
    rel_error: float | None = None
    selection: Selection = field(default_factory=Selection)

    @property
    def lossy(self) -> bool:
        """Whether an approximation was asked for."""
        return self.max_rank is not None or self.rel_error is not None

    def allows(self, error: float) -> bool:
        """Tells whether an approximation may have this error; one that may not is stored exact.

        With both bounds, the rank may not suffice for the error.
        """
        return self.rel_error is None or error <= self.rel_error


@dataclass
class Encoding:
    """A version encoded: its vector and what its parameters are.

    Attributes:
        vector: The version.
        rows: Per parameter: what it is for people, bytes newly stored, rank.
        unchanged: Parameters that are the base's own.
        errors: Measured relative error per approximated parameter.
        model_bytes: Size of the whole version's tensors.
        ignored: Files of the source that were left out.
    """

    vector: Vector
    rows: dict[str, tuple[str, int, int | None]] = field(default_factory=dict)
    unchanged: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    model_bytes: int = 0
    ignored: list[str] = field(default_factory=list)

    def kinds(self) -> list[KindRow]:
        """Returns the table by kind, the unchanged last."""
        by_kind: dict[str, list[tuple[int, int | None]]] = {}
        for what, stored, rank in self.rows.values():
            by_kind.setdefault(what, []).append((stored, rank))
        table = []
        for what, items in sorted(by_kind.items()):
            ranks = [rank for _, rank in items if rank is not None]
            table.append(
                KindRow(
                    kind=what,
                    parameters=len(items),
                    stored=sum(stored for stored, _ in items),
                    rank_median=median_low(ranks) if ranks else None,
                    rank_max=max(ranks) if ranks else None,
                )
            )
        table.append(KindRow(kind="unchanged", parameters=self.unchanged, stored=0))
        return table

    def contents(self) -> dict[str, int]:
        """Returns the counts that a commit keeps."""
        counts = dict(Counter(what for what, _, _ in self.rows.values()))
        ranks = [rank for _, _, rank in self.rows.values() if rank is not None]
        return counts | ({"rank": max(ranks)} if ranks else {})


@dataclass(frozen=True)
class Item:
    """One tensor of a checkpoint and the parameter that it is."""

    param: str
    name: str
    in_base: bool


def encode_checkpoint(
    repo: Repository,
    base: OpenBase,
    checkpoint: Checkpoint,
    head: Vector | None,
    options: Options,
    sink: ObjectSink,
) -> Encoding:
    """Encodes full weights against the base.

    Args:
        repo: The repository.
        base: The open base.
        checkpoint: The weights.
        head: HEAD's vector where it stands on the same base.
        options: Effort, bounds, selection.
        sink: Takes the objects.

    Returns:
        The version.

    Raises:
        BaseMismatch: The checkpoint shares no parameter with the base.
    """
    prefix, items = _match_names(base, checkpoint)
    chosen = options.selection
    taken = [item for item in items if chosen(item.param)]
    done, total = 0, sum(checkpoint.tensor(item.name).nbytes for item in taken) or 1
    old = head.params if head is not None else {}
    params: dict[str, Terms] = {}
    result = Encoding(Vector(base.id), ignored=sorted(checkpoint.ignored))

    def one(item: Item) -> tuple[Item, Terms, tuple[str, int, int | None] | None, float | None]:
        new = checkpoint.tensor(item.name)
        return item, *encode_one(repo, base, item, new, old.get(item.param), options, sink)

    taken.sort(key=lambda item: (-checkpoint.tensor(item.name).nbytes, item.param))
    for item, terms, row, error in unordered(one, taken, repo.session.threads):
        done += checkpoint.tensor(item.name).nbytes
        repo.session.progress("encode", done, total)
        if terms:
            params[item.param] = terms
        if row is None:
            result.unchanged += 1
        else:
            result.rows[item.param] = row
        if error is not None:
            result.errors[item.param] = error
    present = {item.param for item in items}
    removed = [name for name in base.record.tensors if name not in present and chosen(name)]
    meta = {REMOVED + name: "1" for name in removed if name not in checkpoint.tied}
    meta |= _files(base, checkpoint, sink)
    meta |= forms(base, {item.param: checkpoint.tensor(item.name) for item in taken})
    if prefix:
        meta[PREFIX] = prefix
    if not chosen.everything and head is not None:
        params |= {name: terms for name, terms in head.params.items() if not chosen(name)}
        meta = _kept(head.meta, chosen) | meta
    result.vector = Vector(base.id, {name: params[name] for name in sorted(params)}, meta)
    result.model_bytes = checkpoint.total_bytes
    return result


def encode_one(
    repo: Repository,
    base: OpenBase,
    item: Item,
    new: Tensor,
    old: Terms | None,
    options: Options,
    sink: ObjectSink,
) -> tuple[Terms, tuple[str, int, int | None] | None, float | None]:
    """Encodes one tensor of a checkpoint, or one that an adapter brings whole.

    Args:
        repo: The repository.
        base: The open base.
        item: The tensor and the parameter that it is.
        new: Its values.
        old: HEAD's terms of the parameter.
        options: Effort and bounds.
        sink: Takes the object.

    Returns:
        The terms, none where it is the base's own; the row for people; the measured error.
    """
    from deltavc.delta.encode import encode_tensor

    origin = base.tensor(item.param) if item.in_base else None
    if origin is not None and origin.same_bits(new):
        return {}, None, None
    if old and _rebuilds_to(repo, origin, old, new, item.param):
        return old, ("as at HEAD", 0, None), None
    if options.lossy and origin is not None and _can_approximate(origin, new):
        from deltavc.delta.lossy import approximate

        delta, error = approximate(
            origin, new, max_rank=options.max_rank, rel_error=options.rel_error
        )
        if options.allows(error):
            oid, stored = sink.delta(delta)
            return {oid: ONE}, ("low-rank, approximate", stored, delta.rank), error
    encoded = encode_tensor(
        origin, new, base_sha256=base.sha256.get(item.param, ""), effort=options.effort
    )
    if encoded is None:
        return {}, None, None
    oid, stored = sink.delta(encoded.delta)
    return {oid: ONE}, (encoded.what, stored, encoded.rank), None


def _can_approximate(origin: Tensor, new: Tensor) -> bool:
    return (
        len(new.shape) >= 2
        and origin.shape == new.shape
        and origin.dtype is new.dtype
        and new.dtype.arithmetic
        and new.is_finite()
        and origin.is_finite()
    )


def _rebuilds_to(
    repo: Repository, origin: Tensor | None, terms: Terms, new: Tensor, name: str
) -> bool:
    from deltavc.delta.rebuild import Rebuild, Term

    rebuild = Rebuild(origin, [Term(repo.delta(oid), c) for oid, c in terms.items()], name=name)
    if rebuild.dtype is not new.dtype or rebuild.shape != new.shape:
        return False
    return rebuild.tensor().same_bits(new)


def _match_names(base: OpenBase, checkpoint: Checkpoint) -> tuple[str, list[Item]]:
    """Finds what the checkpoint's names have in front of the base's, and pairs them."""
    known = base.record.tensors
    names = [name for name in checkpoint.entries if name not in checkpoint.tied or name in known]
    candidates = Counter(
        name[: -len(other)]
        for name in names
        for other in (name[i + 1 :] for i in range(-1, len(name)) if i < 0 or name[i] == ".")
        if other in known
    )
    if not candidates:
        raise BaseMismatch(
            f"the checkpoint shares no parameter with base '{base.name}'",
            hint="register its own base: deltavc base add NAME PATH, or name it with --base",
            base=base.id,
            examples=names[:5],
        )
    prefix = max(candidates, key=lambda p: (candidates[p], -len(p)))
    items = []
    for name in names:
        stripped = name.removeprefix(prefix)
        if name.startswith(prefix) and stripped in known:
            items.append(Item(stripped, name, True))
        elif name in known:
            raise UnsupportedFormat(
                f"the checkpoint names '{name}' beside '{prefix}{name}'",
                hint="save the model under one set of names",
                parameter=name,
            )
        else:
            items.append(Item(name, name, False))
    return prefix, items


def _files(base: OpenBase, checkpoint: Checkpoint, sink: ObjectSink) -> dict[str, str]:
    """Returns the files that differ from the base's; a lone weights file brings none."""
    meta: dict[str, str] = {}
    if not checkpoint.path.is_dir():
        return meta
    for name, path in checkpoint.files.items():
        data = path.read_bytes()
        known = base.source.files.get(name)
        if known is None or known.sha256 != hashlib.sha256(data).hexdigest():
            meta[FILE + name] = str(sink.blob(data))
    there = {*checkpoint.files, RECEIPT_FILE}
    gone = [name for name in base.source.files if name not in there]
    return meta | {FILE + name: "" for name in gone}


def forms(base: OpenBase, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns dtype and shape of the parameters that the base lacks or has in another form."""
    forms = {}
    for name, tensor in tensors.items():
        known = base.record.tensors.get(name)
        if known is None or (known.dtype, known.shape) != (tensor.dtype.name, tensor.shape):
            forms[SHAPE + name] = form_to_text(tensor.dtype.name, tensor.shape)
    return forms


def _kept(meta: Mapping[str, str], chosen: Selection) -> dict[str, str]:
    """Returns HEAD's meta without what is told anew of the chosen parameters."""
    return {
        key: value
        for key, value in meta.items()
        if not (key.startswith((SHAPE, REMOVED)) and chosen(key.partition(":")[2]))
    }


def term_check(
    repo: Repository,
    vector: Vector,
    names: Sequence[str],
    origin: Callable[[str], Tensor | None],
    load: Callable[[DeltaId], Delta] | None = None,
) -> None:
    """Makes sure that changed parameters can be rebuilt before they are recorded.

    A sum of additive terms always can; with replacements among them it may not.

    Args:
        repo: The repository.
        vector: The version to record.
        names: The parameters to look at.
        origin: Gives the base's tensor of a name.
        load: Gives a delta; default: from the store.

    Raises:
        MergeConflict: Replacements do not combine.
    """
    from deltavc.delta.rebuild import Rebuild, Term

    read = load or repo.delta
    cache: dict[DeltaId, Delta] = {}
    for name in names:
        terms = vector.params.get(name, {})
        if len(terms) <= 1 and all(c == 1 for c in terms.values()):
            continue
        for oid in terms:
            if oid not in cache:
                cache[oid] = read(oid)
        loaded = [Term(cache[oid], c) for oid, c in terms.items()]
        Rebuild(origin(name), loaded, name=name)

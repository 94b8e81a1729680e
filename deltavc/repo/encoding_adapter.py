"""From a PEFT adapter to a vector: each change that it makes becomes a delta on the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deltavc.delta.vector import ATTACHMENT, Terms, Vector, add_terms, form_to_text
from deltavc.errors import UsageError
from deltavc.ids import BlobId
from deltavc.records import canonical
from deltavc.repo.attached import (
    PEFT_CONFIG,
    PEFT_INVENTORY,
    PEFT_NAMES,
    PEFT_PREFIX,
    PEFT_WEIGHTS,
    PEFT_WHOLE,
    Inventory,
    digest_of,
    weightless_kind,
)
from deltavc.repo.encoding import ONE, Encoding, Item, Options, encode_one, forms

if TYPE_CHECKING:
    from deltavc.delta.kinds import Delta
    from deltavc.formats.peft import Adapter
    from deltavc.formats.peft_match import Matched
    from deltavc.repo.objects import ObjectSink
    from deltavc.repo.openbase import OpenBase
    from deltavc.repo.repository import Repository

__all__ = ["encode_adapter"]

OWN = (PEFT_CONFIG, PEFT_INVENTORY, PEFT_WEIGHTS)  # of one adapter, whatever was there before


def encode_adapter(
    repo: Repository,
    base: OpenBase,
    adapter: Adapter,
    head: Vector | None,
    options: Options,
    sink: ObjectSink,
    *,
    stack: bool,
) -> Encoding:
    """Encodes a PEFT adapter as deltas on the base, or with ``stack`` on top of HEAD.

    Args:
        repo: The repository.
        base: The open base.
        adapter: The adapter.
        head: HEAD's vector; needed to stack.
        options: Effort, bounds, selection.
        sink: Takes the objects.
        stack: Add to HEAD's vector instead of replacing it.

    Returns:
        The version.

    Raises:
        BaseMismatch: The adapter's modules are not the base's.
        ShapeMismatch: They are, with other shapes.
        UsageError: To be stacked, or taken in part, and one of the two has no weights.
    """
    from deltavc.formats.peft_match import match

    chosen = options.selection
    on_head = head is not None and (stack or not chosen.everything)
    start = head if head is not None and on_head else Vector(base.id)
    if adapter.weightless or on_head:
        _check_weights(repo, adapter, start, options, stack=stack)
    shapes = {
        n: (base.checkpoint.entries[n].dtype, base.checkpoint.entries[n].shape)
        for n in base.record.tensors
    }
    tied, threads = base.checkpoint.tied, repo.session.threads
    matched = match(adapter, shapes, tied, read=base.tensor, threads=threads)
    made = _Made(sink, dict(start.params), Encoding(Vector(base.id)))
    _add(repo, base, matched, options, made, stack=stack)
    changed = {*matched.params, *matched.computed, *matched.replaced}
    _copy_ties(base, made.params, changed)
    for alias, name in sorted(matched.ties.items()):
        repo.warnings.append(f"'{alias}' is tied to '{name}': the adapter changes both")
    meta = {k: v for k, v in start.meta.items() if k.removeprefix(ATTACHMENT) not in OWN}
    meta |= forms(base, {n: d.values() for n, d in matched.new.items() if chosen(n)})
    meta |= forms(base, {n: values for n, values in matched.replaced.items() if chosen(n)})
    meta |= _attach(base, adapter, matched, options, sink)
    if adapter.weightless:
        repo.warnings.append(
            f"a '{adapter.kind}' adapter acts beside the weights: it is kept as it is"
        )
    params = {name: made.params[name] for name in sorted(made.params)}
    if chosen.everything and not start.params and not made.result.errors and not adapter.plain:
        meta |= _as_found(adapter, matched, params, sink)
    made.result.vector = Vector(base.id, params, meta)
    made.result.unchanged = sum(name not in params for name in base.record.tensors)
    made.result.model_bytes = base.checkpoint.total_bytes
    return made.result


def _check_weights(
    repo: Repository, adapter: Adapter, start: Vector, options: Options, *, stack: bool
) -> None:
    """Refuses to put together what acts on the weights and what acts beside them."""
    if adapter.weightless and (stack or not options.selection.everything):
        option = "--stack" if stack else "--param and --exclude"
        raise UsageError(
            f"a '{adapter.kind}' adapter changes no weights, so {option} has nothing to act on",
            hint="commit it without: deltavc commit PATH -m TEXT",
            peft_type=adapter.kind,
        )
    carried = weightless_kind(repo, start)
    if carried:
        raise UsageError(
            f"HEAD carries a '{carried}' adapter, which has no weights to add to",
            hint="commit without --stack, or on another branch",
            peft_type=carried,
        )


@dataclass
class _Made:
    """The vector in the making.

    Attributes:
        sink: Takes the objects.
        params: Terms by parameter.
        result: Rows for people, errors.
        blobs: Blobs that were kept already.
    """

    sink: ObjectSink
    params: dict[str, Terms]
    result: Encoding
    blobs: set[BlobId] = field(default_factory=set)

    def put(self, name: str, delta: Delta, *, on_top: bool) -> None:
        """Enters a delta, with the blobs that it refers to."""
        oid, stored = self.sink.delta(delta)
        for stream in delta.shared:
            blob = delta.blobs[stream.name]
            if blob not in self.blobs:
                self.blobs.add(blob)
                self.sink.blob(bytes(delta.stream(stream.name)))
        under = self.params.get(name, {}) if on_top else {}
        self.params[name] = add_terms((1, under), (1, {oid: ONE}))
        self.result.rows[name] = (_told(delta), stored, _rank(delta))


def _told(delta: Delta) -> str:
    """Returns what a delta of an adapter is for people."""
    words = {
        "lowrank": "low-rank", "dora": "DoRA", "rowscale": "IA3", "colscale": "IA3",
        "dense": "new", "replace": "replaced", "hadamard": "LoHa", "kron": "LoKr",
        "vera": "VeRA", "adalora": "AdaLoRA", "experts": "low-rank experts", "oft": "OFT",
        "boft": "BOFT", "hra": "HRA",
    }  # fmt: skip
    return words.get(getattr(delta.header, "form", delta.kind), delta.kind)


def _rank(delta: Delta) -> int | None:
    if getattr(delta.header, "form", "") == "experts":
        return delta.rank // delta.shape[0]
    return delta.rank if delta.kind in ("lowrank", "dora", "product") else None


def _add(
    repo: Repository,
    base: OpenBase,
    matched: Matched,
    options: Options,
    made: _Made,
    *,
    stack: bool,
) -> None:
    """Enters what an adapter changes into the vector."""
    from deltavc.formats.peft_match import computed

    chosen, params, sink = options.selection, made.params, made.sink
    for name in sorted(filter(chosen, matched.params)):
        for delta in matched.params[name]:
            bounded = _bounded(delta, options, made.result.errors, name)
            made.put(name, bounded, on_top=stack and bounded.kind != "replace")
    for name in sorted(filter(chosen, matched.computed)):
        new = computed(name, *matched.computed[name])
        terms, row, _ = encode_one(repo, base, Item(name, name, True), new, None, Options(), sink)
        params[name] = add_terms((1, params.get(name, {}) if stack else {}), (1, terms))
        if row is not None:
            made.result.rows[name] = row
    for name in sorted(filter(chosen, matched.replaced)):
        item, new = Item(name, name, True), matched.replaced[name]
        terms, row, _ = encode_one(repo, base, item, new, None, options, sink)
        params[name] = terms
        if row is not None:
            made.result.rows[name] = row
    for name in sorted(filter(chosen, matched.new)):
        made.put(name, matched.new[name], on_top=False)
    for name in [name for name, terms in params.items() if not terms]:
        del params[name]


def _attach(
    base: OpenBase, adapter: Adapter, matched: Matched, options: Options, sink: ObjectSink
) -> dict[str, str]:
    """Returns what is kept of the adapter so that another one can be written."""
    from deltavc.formats.peft_match import own_name

    meta: dict[str, str] = {ATTACHMENT + PEFT_CONFIG: sink.blob(adapter.config_bytes)}
    if adapter.weightless:
        return meta
    meta[ATTACHMENT + PEFT_PREFIX] = sink.blob(matched.prefix.encode("utf-8"))
    for name in sorted(filter(options.selection, matched.replaced)):
        meta[ATTACHMENT + PEFT_WHOLE + name] = sink.blob(b"")
    odd = {b: a for a, b in matched.names.items() if a != own_name(b, matched.prefix)}
    if odd := {name: own for name, own in odd.items() if name in base.record.tensors}:
        meta[ATTACHMENT + PEFT_NAMES] = sink.blob(canonical.encode(odd))
    return meta


def _as_found(
    adapter: Adapter, matched: Matched, params: Mapping[str, Terms], sink: ObjectSink
) -> dict[str, str]:
    """Returns what is kept so that the adapter goes out as it came in."""
    whole = adapter.weightless or not adapter.verbatim() or bool(matched.computed)
    inventory = Inventory(
        sum=digest_of(params),
        weightless=adapter.kind if adapter.weightless else "",
        tensors={} if whole else {**matched.held, **_shared(adapter, matched)},
        empty={}
        if whole
        else {key: form_to_text(t.dtype.name, t.shape) for key, t in adapter.empty.items()},
    )
    meta: dict[str, str] = {ATTACHMENT + PEFT_INVENTORY: sink.blob(canonical.encode(inventory))}
    if whole:
        meta[ATTACHMENT + PEFT_WEIGHTS] = sink.blob(adapter.file_bytes())
    return meta


def _shared(adapter: Adapter, matched: Matched) -> dict[str, tuple[str, str]]:
    """Returns where the tensors are that all modules share: in any of their deltas."""
    from deltavc.formats.peft_kinds import KINDS

    parts = KINDS[adapter.kind].shared
    return {key: (min(matched.params), part) for key, part in parts.items() if matched.params}


def _copy_ties(base: OpenBase, params: dict[str, Terms], changed: set[str]) -> None:
    """Gives a tensor that the base stores twice the same terms under both names."""
    for alias, name in base.checkpoint.tied.items():
        if name in changed and alias in base.record.tensors:
            if name in params:
                params[alias] = params[name]
            else:
                params.pop(alias, None)


def _bounded(delta: Delta, options: Options, errors: dict[str, float], name: str) -> Delta:
    """Truncates low-rank factors where an approximation was asked for."""
    if not options.lossy or delta.kind != "lowrank":
        return delta
    from deltavc.delta.truncate import truncate

    cut, error = truncate(delta, max_rank=options.max_rank, rel_error=options.rel_error)
    if error and options.allows(error):
        errors[name] = error
        return cut
    return delta

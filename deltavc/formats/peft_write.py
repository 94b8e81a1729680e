"""Writes a PEFT folder: what ``PeftModel.from_pretrained`` loads.

What came in as one LoRA goes out with the tensors and the config it came with.
A sum of several LoRAs goes out as one LoRA of the added ranks, exactly
(:mod:`deltavc.formats.writer_lora`). What a LoRA cannot say is refused with
the parameters named. Reading is :mod:`deltavc.formats.peft`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from deltavc.delta.kinds import Delta
from deltavc.delta.tensor import Tensor
from deltavc.errors import UnsupportedFormat
from deltavc.formats.peft_config import read_settings, tokens_of
from deltavc.formats.peft_found import (
    CONFIG_FILE,
    KEY_PREFIX,
    WrittenAdapter,
    planned_weights,
    rows_in_order,
)
from deltavc.formats.peft_match import own_name
from deltavc.formats.writer import write_folder
from deltavc.formats.writer_lora import LoraLayer, as_found, combine
from deltavc.formats.writer_plan import FolderPlan, Seal

__all__ = ["Adapter", "WrittenAdapter", "build_adapter", "write_adapter"]

SHOWN = 5
# PEFT saves these modules whole in models of these tasks without being told.
_HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score")}
Terms = Mapping[str, Sequence[tuple[Delta, Fraction]]]


@dataclass(frozen=True)
class Adapter:
    """A PEFT LoRA in memory.

    Attributes:
        config: What ``adapter_config.json`` says.
        tensors: The tensors by key.
        rounded: Parameters whose factors had to be rounded, by request.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    rounded: tuple[str, ...] = ()


def write_adapter(
    target: Path,
    *,
    params: Terms,
    rows: Mapping[str, Delta] | None = None,
    new: Mapping[str, Tensor] | None = None,
    saved: Mapping[str, Tensor] | None = None,
    config: Mapping[str, Any] | None = None,
    prefix: str = "",
    names: Mapping[str, str] | None = None,
    base_name: str | None = None,
    embeddings: Collection[str] = (),
    files: Mapping[str, Path | bytes] | None = None,
    seal: Seal | None = None,
    rounded: bool = False,
    split: bool = False,
    durable: bool = False,
    replace: bool = False,
) -> WrittenAdapter:
    """Writes an adapter folder; the arguments are those of :func:`build_adapter`.

    Args:
        target: The folder that is to be.
        params: See :func:`build_adapter`, as all up to ``embeddings``, and ``rounded``.
        rows: See there.
        new: See there.
        saved: See there.
        config: See there.
        prefix: See there.
        names: See there.
        base_name: See there.
        embeddings: See there.
        files: Other files of the folder: README, tokenizer.
        seal: The file that is made last.
        rounded: See there.
        split: See there.
        durable: Flush to disk before the folder takes its place.
        replace: Take the place of a folder that is there.

    Returns:
        What was written.

    Raises:
        UnsupportedFormat: A LoRA cannot say it; the parameters are named.
        NameTaken: The target is there and not to be replaced.
        RepositoryUnwritable: Disk full, read-only, no permission.
    """
    adapter = build_adapter(
        params=params,
        rows=rows,
        new=new,
        saved=saved,
        config=config,
        prefix=prefix,
        names=names,
        base_name=base_name,
        embeddings=embeddings,
        rounded=rounded,
        split=split,
    )
    weights = planned_weights(adapter.tensors)
    text = json.dumps(adapter.config, indent=2, sort_keys=True).encode()
    plan = FolderPlan([weights], {**(files or {}), CONFIG_FILE: text}, seal)
    done = write_folder(target, plan, durable=durable, replace=replace)
    return WrittenAdapter(**vars(done), config=adapter.config, rounded=adapter.rounded)


def build_adapter(
    *,
    params: Terms,
    rows: Mapping[str, Delta] | None = None,
    new: Mapping[str, Tensor] | None = None,
    saved: Mapping[str, Tensor] | None = None,
    config: Mapping[str, Any] | None = None,
    prefix: str = "",
    names: Mapping[str, str] | None = None,
    base_name: str | None = None,
    embeddings: Collection[str] = (),
    rounded: bool = False,
    split: bool = False,
) -> Adapter:
    """Makes a LoRA out of deltas.

    Args:
        params: Deltas and coefficients of each changed parameter, by its name in the base.
        rows: Embeddings of which an adapter brings some rows, by their name in the base.
        new: Parameters that the base lacks (heads), under the adapter's own names.
        saved: Parameters that an adapter brings whole (``modules_to_save``, biases), as
            they are to be. PEFT wants every parameter of such a module.
        config: The config that the deltas came with, if they came with one. It is kept
            where it still says what the deltas are, otherwise only its task is.
        prefix: What the adapter's names have in front of the base's, or lack, as
            :attr:`deltavc.formats.peft_match.Matched.prefix` tells it.
        names: The adapter's own names of base parameters where the prefix does not
            give them: an adapter of the head of a model whose weights are tied.
        base_name: ``base_model_name_or_path``; without it the config's own stays.
        embeddings: Parameters that are embeddings, where the deltas do not tell.
        rounded: Round factors to float32 where there is no exact form.
        split: Take a higher rank where there is no exact form with the deltas' own.

    Returns:
        The adapter.

    Raises:
        UnsupportedFormat: A LoRA cannot say it; the parameters are named.
    """
    own = _Names(prefix, {**(names or {}), **{name: name for name in new or {}}})
    whole = {**(saved or {}), **(new or {})}
    _check_kinds(params)
    tokens = {own.module(n): d.row_index().tolist() for n, d in (rows or {}).items()}
    same = config is not None and _holds(config, params, own, embeddings)
    order = _order(config, tokens) if config is not None and same else None
    same = order is not None
    if same:
        layers = {own.module(n): as_found(terms[0][0]) for n, terms in params.items() if terms}
    else:
        layers = _layers(params, own, embeddings, rounded=rounded, split=split)
    biases = _biases(whole, own, layers, config)
    heads = {name: tensor for name, tensor in whole.items() if name not in biases}
    tensors = dict(_lora_tensors(layers))
    for name, delta in (rows or {}).items():
        module = own.module(name)
        key = f"{KEY_PREFIX}{module}.token_adapter.trainable_tokens_delta"
        tensors[key] = rows_in_order(delta, (order or tokens)[module])
    tensors |= {KEY_PREFIX + key: whole[name] for name, key in biases.items()}
    tensors |= {KEY_PREFIX + own.adapter(name): tensor for name, tensor in heads.items()}
    head_names = [own.adapter(name) for name in heads]
    if config is not None and same and _saves(config, head_names):
        made = dict(config)
    elif config is not None and same:
        made = {**config, "modules_to_save": _saved_modules(head_names, config)}
    else:
        bias = _bias_setting(biases, config)
        made = _new_config(layers, _saved_modules(head_names, config), bias, config or {})
        made |= {"trainable_token_indices": tokens} if tokens else {}
    if base_name is not None:
        made["base_model_name_or_path"] = base_name
    inexact = tuple(sorted(name for name in params if layers[own.module(name)].rounded))
    return Adapter(made, tensors, inexact)


@dataclass(frozen=True)
class _Names:
    """How the base's names become the adapter's."""

    prefix: str
    known: Mapping[str, str]

    def adapter(self, name: str) -> str:
        """Returns the adapter's name of a parameter."""
        return self.known.get(name) or own_name(name, self.prefix)

    def module(self, name: str) -> str:
        """Returns the adapter's name of the module that a weight belongs to."""
        return self.adapter(name).removesuffix(".weight")


def _refuse(names: Iterable[str], why: str) -> UnsupportedFormat:
    found = sorted(names)
    shown = ", ".join(f"'{name}'" for name in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return UnsupportedFormat(
        f"{shown}{more} cannot be written as LoRA: {why}",
        hint="write full weights: deltavc checkout REV --as full",
        parameters=found,
    )


def _check_kinds(params: Terms) -> None:
    """Refuses what is not low-rank, and parameters that are no module's weight."""
    if not any(params.values()):
        raise UnsupportedFormat(
            "no parameter has a low-rank change, and an adapter without any cannot be loaded",
            hint="write full weights: deltavc checkout REV --as full",
            parameters=[],
        )
    kinds = {
        name: sorted({delta.kind for delta, _ in terms} - {"lowrank"})
        for name, terms in params.items()
    }
    found = {name for name, others in kinds.items() if others}
    if found:
        others = ", ".join(sorted({kind for name in found for kind in kinds[name]}))
        raise _refuse(found, f"the change is not low-rank ({others})")
    odd = [name for name in params if not name.endswith(".weight") or name == ".weight"]
    if odd:
        raise _refuse(odd, "it is not the weight of a module")


def _layers(
    params: Terms, names: _Names, embeddings: Collection[str], *, rounded: bool, split: bool
) -> dict[str, LoraLayer]:
    """Returns the layer of each module."""
    layers: dict[str, LoraLayer] = {}
    inexact = []
    for name, terms in params.items():
        if not terms:
            continue
        kind = "embedding" if name in embeddings else None
        if kind is None and len(terms[0][0].shape) > 2:
            kind = "conv"
        layer = combine(terms, kind=kind, rounded=rounded, split=split)
        if layer is None:
            inexact.append(name)
        else:
            layers[names.module(name)] = layer
    if inexact:
        raise _refuse(inexact, "coefficients times factors have no exact value in float32")
    return layers


def _lora_tensors(layers: Mapping[str, LoraLayer]) -> Iterable[tuple[str, Tensor]]:
    for module, layer in layers.items():
        for letter, tensor in (("A", layer.a), ("B", layer.b)):
            if layer.kind == "embedding":
                yield f"{KEY_PREFIX}{module}.lora_embedding_{letter}", tensor
            else:
                yield f"{KEY_PREFIX}{module}.lora_{letter}.weight", tensor


def _biases(
    whole: Mapping[str, Tensor],
    names: _Names,
    layers: Mapping[str, LoraLayer],
    config: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Returns the keys of parameters that go out as biases, not in modules of their own."""
    every = (config or {}).get("bias") == "all"
    present = {names.adapter(name) for name in whole}
    keys: dict[str, str] = {}
    for name in whole:
        key = names.adapter(name)
        module = key.removesuffix(".bias")
        if module == key:
            continue
        if module in layers:
            keys[name] = f"{module}.base_layer.bias"
        elif every and f"{module}.weight" not in present:
            keys[name] = key
    return keys


def _bias_setting(biases: Mapping[str, str], config: Mapping[str, Any] | None) -> str:
    if not biases:
        return "none"
    return "all" if (config or {}).get("bias") == "all" else "lora_only"


def _holds(
    config: Mapping[str, Any], params: Terms, names: _Names, embeddings: Collection[str]
) -> bool:
    """Tells whether the config says of every layer what its one delta is."""
    settings = read_settings(dict(config))
    for name, terms in params.items():
        if not terms:
            continue
        (delta, coefficient), module = terms[0], names.module(name)
        header = delta.header
        if (
            len(terms) > 1
            or coefficient != 1
            or settings.rank_of(module) != delta.rank
            or settings.scale_of(module, delta.rank) != delta.scale
            or (name in embeddings and header.layer != "embedding")
        ):
            return False
    return True


def _order(
    config: Mapping[str, Any], tokens: Mapping[str, list[int]]
) -> dict[str, list[int]] | None:
    """Returns the order in which a config lists trained rows; None if it lists others."""
    said = tokens_of(config)
    if not isinstance(said, dict):
        said = dict.fromkeys(tokens, said) if said and len(tokens) == 1 else {}
        if bool(said) != bool(tokens):
            return None
    found = {}
    for module, known in tokens.items():
        listed = next((t for k, t in said.items() if module == k or module.endswith(f".{k}")), [])
        if sorted(listed) != known:
            return None
        found[module] = listed
    return found if len(found) == len(said) else None


def _saves(config: Mapping[str, Any], heads: Sequence[str]) -> bool:
    """Tells whether the config lists the modules of these parameters."""
    settings = read_settings(dict(config))
    return all(settings.saves(name.rpartition(".")[0]) for name in heads)


def _saved_modules(heads: Sequence[str], config: Mapping[str, Any] | None) -> list[str]:
    """Returns the modules to list in ``modules_to_save`` for these parameters.

    A module that the original config, or PEFT for the task, saves as a whole
    is listed as that; wrapping parts of it a second time would break it.
    """
    config = config or {}
    known = [*(config.get("modules_to_save") or []), *_HEADS.get(str(config.get("task_type")), ())]
    modules = set()
    for name in heads:
        parts = name.split(".")[:-1]
        if not parts:
            raise _refuse([name], "it does not belong to a module")
        paths = [".".join(parts[: i + 1]) for i in range(len(parts))]
        ends = (p for p in paths if any(p == k or p.endswith(f".{k}") for k in known))
        modules.add(next(ends, paths[-1]))
    return sorted(modules)


def _new_config(
    layers: Mapping[str, LoraLayer], saved: list[str], bias: str, original: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a config that names every module and keeps nothing but the task of another."""
    inside = [m for m in layers if any(m == s or m.startswith(f"{s}.") for s in saved)]
    if inside:
        raise _refuse(inside, "they lie in a module that is saved whole")
    odd = [module for module in layers if not _plain(module)]
    if odd:
        raise _refuse(odd, "PEFT would read their names as patterns")
    ranks = {module: layer.rank for module, layer in layers.items()}
    alphas = {module: layer.alpha for module, layer in layers.items()}
    rank, rank_pattern = _pattern(ranks)
    alpha, alpha_pattern = _pattern(alphas)
    return {
        "alpha_pattern": alpha_pattern,
        "auto_mapping": None,
        "base_model_name_or_path": original.get("base_model_name_or_path"),
        "bias": bias,
        # PEFT looks at each module's class itself and only warns where this is not so.
        "fan_in_fan_out": any(layer.transposed for layer in layers.values()),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": saved or None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": rank_pattern,
        "revision": original.get("revision"),
        "target_modules": sorted(layers),
        "task_type": original.get("task_type"),
        "use_dora": False,
        "use_rslora": False,
    }


def _plain(module: str) -> bool:
    return all(c.isalnum() or c in "._-" for c in module)


def _pattern(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns the commonest value, and the others by module.

    PEFT reads a key as the end of a pattern; anchored and with its dots
    escaped it stands for that one module and for no other.
    """
    default = Counter(values.values()).most_common(1)[0][0]
    others = {module: value for module, value in values.items() if value != default}
    return default, {"^" + m.replace(".", "\\."): value for m, value in sorted(others.items())}

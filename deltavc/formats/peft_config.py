"""What an adapter's config says about its deltas, field by field.

``adapter_config.json`` is read, never obeyed: module names in it are compared
as text, nothing is imported, and no string becomes a regular expression. A
field that would change the delta in a way that deltavc does not rebuild is
refused by name, and so is a field that a newer PEFT has and that is set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from deltavc.errors import UnsupportedFormat
from deltavc.formats.files import shown

__all__ = ["LoraSettings", "NamePattern", "read_settings", "rslora_scale"]

# Fields that say how the adapter was made or where it was put, not what it is.
HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules",
    "task_type", "velora_config",
}  # fmt: skip
# Fields that are read below.
READ = {
    "alpha_pattern", "bias", "fan_in_fan_out", "init_lora_weights", "lora_alpha",
    "modules_to_save", "r", "rank_pattern", "trainable_token_indices", "use_rslora",
}  # fmt: skip
# Fields that change the delta, or the model around it.
REFUSED = {
    "alora_invocation_tokens": "it acts on some tokens only",
    "arrow_config": "it routes between adapters",
    "kasa_config": "it changes the base weights",
    "layer_replication": "it changes the number of layers",
    "lora_bias": "it adds to biases",
    "megatron_config": "its layers are split over processes",
    "monteclora_config": "its weights are random",
    "target_parameters": "it adapts parameters without a module of their own",
    "use_bdlora": "its factors are block-diagonal",
    "use_dora": "it rescales the base weights",
    "use_qalora": "it pools its inputs",
}
# Initialisations that leave the base's weights as they are.
PLAIN_INITS = {"gaussian", "eva", "orthogonal", "mica"}
BIASES = ("none", "all", "lora_only")
MAX_RANK = 1 << 24
MAX_ALPHA = 1e9
MAX_PATTERNS = 50_000
MAX_TOKENS = 10_000_000


class NamePattern:
    """A key of ``rank_pattern`` or ``alpha_pattern``: a module name or its last components.

    PEFT reads such a key as the end of a regular expression. Of that language
    only text, ``.`` for any character, an escaped character, ``^`` in front and
    ``$`` behind are understood; everything else is refused, since a pattern
    from a stranger's file can be made to run for ever.

    Args:
        key: The key.
        flag: The field it stands in, for messages.

    Raises:
        UnsupportedFormat: The key uses more of the pattern language.
    """

    def __init__(self, key: str, flag: str) -> None:
        body = key.removesuffix("$") if not key.endswith("\\$") else key
        self._whole = body.startswith("^")
        self._runs: list[tuple[int, str]] = [(0, "")]
        self._length = 0
        chars = iter(body.removeprefix("^"))
        for char in chars:
            if char == ".":
                self._runs.append((self._length + 1, ""))
            else:
                literal = next(chars, "") if char == "\\" else char
                plain = char not in "*+?{}[]()|^$" and (char != "\\" or not literal.isalnum())
                if not literal or not plain:
                    raise UnsupportedFormat(
                        f"the adapter's '{flag}' has the pattern '{shown(key)}',"
                        " and deltavc does not run patterns from a file",
                        hint="write the module names out in adapter_config.json",
                        flag=flag,
                        pattern=shown(key),
                    )
                at, text = self._runs[-1]
                self._runs[-1] = (at, text + literal)
            self._length += 1

    def matches(self, name: str) -> bool:
        """Tells whether a module name is this one, or ends with it after a dot."""
        start = len(name) - self._length
        if start < 0 or (start and (self._whole or name[start - 1] != ".")):
            return False
        return all(name.startswith(text, start + at) for at, text in self._runs)


@dataclass(frozen=True)
class LoraSettings:
    """What a LoRA config says about the deltas.

    Attributes:
        rank: Rank of modules without one of their own.
        alpha: Alpha of modules without one of their own.
        rslora: Scale by alpha / sqrt(r) instead of alpha / r.
        fan_in_fan_out: Weights are stored as (in, out).
        bias: Which biases the adapter brings: none, all or lora_only.
        modules_to_save: Names of modules that it brings whole.
        tokens: Trained rows of the embedding, or of the modules named.
    """

    rank: int
    alpha: Fraction
    rslora: bool
    fan_in_fan_out: bool
    bias: str
    modules_to_save: tuple[str, ...]
    tokens: list[int] | dict[str, list[int]]
    ranks: tuple[tuple[NamePattern, Fraction], ...]
    alphas: tuple[tuple[NamePattern, Fraction], ...]

    def rank_of(self, module: str) -> int:
        """Returns the rank that the config gives a module."""
        return int(_first(self.ranks, module, Fraction(self.rank)))

    def scale_of(self, module: str, rank: int) -> Fraction:
        """Returns the scale of a module's factors as an exact rational."""
        alpha = _first(self.alphas, module, self.alpha)
        return rslora_scale(alpha, rank) if self.rslora else alpha / rank

    def saves(self, module: str) -> bool:
        """Tells whether a module lies in one that the adapter brings whole."""
        parts = module.split(".")
        paths = [".".join(parts[: i + 1]) for i in range(len(parts))]
        return any(path.endswith(saved) for path in paths for saved in self.modules_to_save)


def _first(
    patterns: tuple[tuple[NamePattern, Fraction], ...], module: str, default: Fraction
) -> Fraction:
    return next((value for pattern, value in patterns if pattern.matches(module)), default)


def rslora_scale(alpha: Fraction, rank: int) -> Fraction:
    """Returns the float64 nearest to alpha / sqrt(rank), as an exact rational.

    Numerics:
        Ties cannot occur: a midpoint would be a rational square root, and its
        square times the rank is compared exactly.
    """
    found = float(alpha) / math.sqrt(rank)

    def beyond(midpoint: Fraction) -> bool:
        return midpoint * abs(midpoint) * rank > alpha * abs(alpha)

    for toward in (-math.inf, math.inf):
        other = math.nextafter(found, toward)
        between = (Fraction(found) + Fraction(other)) / 2
        if beyond(between) == (toward < 0):
            return Fraction(other)
    return Fraction(found)


def read_settings(config: dict[str, Any]) -> LoraSettings:
    """Reads an adapter config and refuses what would not be rebuilt as it acts.

    Args:
        config: The parsed ``adapter_config.json``.

    Returns:
        What it says.

    Raises:
        UnsupportedFormat: Another type of adapter, a field that changes the
            delta, an unknown field that is set, or a value out of place.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UnsupportedFormat(
            f"adapters of type '{shown(kind)}' are not supported",
            hint="merge the adapter into its model with PEFT, then commit the full model",
            peft_type=shown(kind),
        )
    for flag, why in REFUSED.items():
        if config.get(flag):
            _refuse(flag, f"the adapter uses '{flag}': {why}", "merge it with PEFT first")
    for flag, value in config.items():
        if value and flag not in HARMLESS and flag not in READ:
            _refuse(
                flag,
                f"the adapter sets '{shown(flag)}', which this version of deltavc does not know",
                "upgrade deltavc, or merge the adapter with PEFT first",
            )
    _check_init(config.get("init_lora_weights"))
    bias = config.get("bias") or "none"
    if bias not in BIASES:
        _misplaced("bias")
    return LoraSettings(
        rank=int(_number("r", config.get("r", 8), whole=True)),
        alpha=_number("lora_alpha", config.get("lora_alpha", 8)),
        rslora=_flag("use_rslora", config.get("use_rslora")),
        fan_in_fan_out=_flag("fan_in_fan_out", config.get("fan_in_fan_out")),
        bias=bias,
        modules_to_save=_names("modules_to_save", config.get("modules_to_save")),
        tokens=_tokens(config.get("trainable_token_indices")),
        ranks=_patterns("rank_pattern", config.get("rank_pattern"), whole=True),
        alphas=_patterns("alpha_pattern", config.get("alpha_pattern"), whole=False),
    )


def _refuse(flag: str, message: str, hint: str) -> None:
    raise UnsupportedFormat(message, hint=hint, flag=shown(flag))


def _misplaced(flag: str) -> None:
    _refuse(
        flag,
        f"the adapter's '{flag}' has a value that it cannot have",
        "see what PEFT writes there, and correct adapter_config.json",
    )


def _check_init(value: Any) -> None:
    """Refuses initialisations that move part of the base into the factors."""
    if value is None or isinstance(value, bool):
        return
    if not isinstance(value, str):
        _misplaced("init_lora_weights")
    if str(value).lower() not in PLAIN_INITS:
        _refuse(
            "init_lora_weights",
            f"the adapter was started with '{shown(value)}', which changes the base weights",
            "convert it: save_pretrained(…, path_initial_model_for_weight_conversion=…)",
        )


def _flag(flag: str, value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        _misplaced(flag)
    return bool(value)


def _number(flag: str, value: Any, *, whole: bool = False) -> Fraction:
    if type(value) is int and (1 <= value <= MAX_RANK if whole else abs(value) <= MAX_ALPHA):
        return Fraction(value)
    if whole or type(value) is not float or not abs(value) <= MAX_ALPHA:
        _misplaced(flag)
    return Fraction(value)


def _names(flag: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        _misplaced(flag)
    return tuple(value)


def _patterns(flag: str, value: Any, *, whole: bool) -> tuple[tuple[NamePattern, Fraction], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict) or len(value) > MAX_PATTERNS:
        _misplaced(flag)
    return tuple(
        (NamePattern(key, flag), _number(flag, item, whole=whole)) for key, item in value.items()
    )


def _tokens(value: Any) -> list[int] | dict[str, list[int]]:
    flag = "trainable_token_indices"
    if value is None:
        return []
    lists = value.values() if isinstance(value, dict) else [value]
    for rows in lists:
        if (
            not isinstance(rows, list)
            or not all(type(row) is int and 0 <= row < MAX_TOKENS for row in rows)
            or len(set(rows)) != len(rows)
        ):
            _misplaced(flag)
    found: list[int] | dict[str, list[int]] = value
    return found

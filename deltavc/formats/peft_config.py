"""What an adapter's config says about its deltas, field by field.

``adapter_config.json`` is read, never obeyed: module names in it are compared
as text, nothing is imported, and no string becomes a regular expression. A
field that would change the delta in a way that deltavc does not rebuild is
refused by name, and so is a field that a newer PEFT has and that is set.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from deltavc.errors import UnsupportedFormat
from deltavc.formats.files import shown

__all__ = [
    "COMMON",
    "LoraSettings",
    "NamePattern",
    "Settings",
    "bias_of",
    "check_fields",
    "flag_of",
    "misplaced",
    "names_of",
    "number_of",
    "patterns_of",
    "read_settings",
    "rslora_scale",
    "tokens_of",
]

# Fields of every kind that say where the adapter was put, not what it is.
COMMON = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode",
    "layers_pattern", "layers_to_transform", "peft_type", "peft_version", "revision",
    "target_modules", "task_type",
}  # fmt: skip
# Fields of LoRA that say how the adapter was made.
HARMLESS = COMMON | {
    "corda_config", "ensure_weight_tying", "eva_config", "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_core", "qalora_group_size", "runtime_config", "velora_config",
}  # fmt: skip
# Fields that are read below.
READ = {
    "alpha_pattern", "bias", "fan_in_fan_out", "init_lora_weights", "lora_alpha", "lora_bias",
    "modules_to_save", "r", "rank_pattern", "target_parameters", "trainable_token_indices",
    "use_dora", "use_rslora",
}  # fmt: skip
# Fields that change the delta, or the model around it.
REFUSED = {
    "alora_invocation_tokens": "it acts on some tokens only",
    "arrow_config": "it routes between adapters",
    "kasa_config": "it changes the base weights",
    "layer_replication": "it changes the number of layers",
    "megatron_config": "its layers are split over processes",
    "monteclora_config": "its weights are random",
    "use_bdlora": "its factors are block-diagonal",
    "use_qalora": "it pools its inputs",
}
# Initialisations that leave the base's weights as they are.
PLAIN_INITS = {"gaussian", "eva", "orthogonal", "mica"}
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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a config of any kind says about the deltas.

    Attributes:
        fan_in_fan_out: Weights are stored as (in, out).
        bias: Which biases the adapter brings: none, all, or those of its own modules.
        modules_to_save: Names of modules that it brings whole.
        tokens: Trained rows of the embedding, or of the modules named.
    """

    fan_in_fan_out: bool = False
    bias: str = "none"
    modules_to_save: tuple[str, ...] = ()
    tokens: list[int] | dict[str, list[int]] = field(default_factory=list)

    def saves(self, module: str) -> bool:
        """Tells whether a module lies in one that the adapter brings whole."""
        parts = module.split(".")
        paths = [".".join(parts[: i + 1]) for i in range(len(parts))]
        return any(path.endswith(saved) for path in paths for saved in self.modules_to_save)


@dataclass(frozen=True, kw_only=True)
class LoraSettings(Settings):
    """What a LoRA config says about the deltas; LoHa and LoKr have the same of it.

    Attributes:
        rank: Rank of modules without one of their own.
        alpha: Alpha of modules without one of their own.
        rslora: Scale by alpha / sqrt(r) instead of alpha / r.
        dora: Each output's weights are brought to a trained length.
        lora_bias: The factors' product adds to the biases as well.
        parameters: Parameters that are adapted without a module of their own.
        ranks: Ranks by module.
        alphas: Alphas by module.
    """

    rank: int
    alpha: Fraction
    rslora: bool = False
    dora: bool = False
    lora_bias: bool = False
    parameters: tuple[str, ...] = ()
    ranks: tuple[tuple[NamePattern, Fraction], ...] = ()
    alphas: tuple[tuple[NamePattern, Fraction], ...] = ()

    @property
    def plain(self) -> bool:
        """Whether there is nothing to the adapter but factors and whole parameters."""
        return not (self.dora or self.lora_bias or self.parameters)

    def rank_of(self, module: str) -> int:
        """Returns the rank that the config gives a module."""
        return int(_first(self.ranks, module, Fraction(self.rank)))

    def scale_of(self, module: str, rank: int) -> Fraction:
        """Returns the scale of a module's factors as an exact rational."""
        alpha = _first(self.alphas, module, self.alpha)
        return rslora_scale(alpha, rank) if self.rslora else alpha / rank


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
    if config.get("peft_type") != "LORA":
        raise UnsupportedFormat(
            f"an adapter of type '{shown(config.get('peft_type'))}' is no LoRA",
            hint="merge the adapter into its model with PEFT, then commit the full model",
            peft_type=shown(config.get("peft_type")),
        )
    check_fields(config, HARMLESS | READ, REFUSED)
    _check_init(config.get("init_lora_weights"))
    dora, lora_bias = (flag_of(config, flag) for flag in ("use_dora", "lora_bias"))
    parameters = names_of(config, "target_parameters")
    if dora and (lora_bias or parameters):
        other = "lora_bias" if lora_bias else "target_parameters"
        _refuse(
            other,
            f"the adapter sets 'use_dora' and '{other}', which have no meaning together",
            "merge it with PEFT first",
        )
    bias = bias_of(config, "lora_only")
    if lora_bias and bias != "none":
        _refuse(
            "lora_bias",
            f"the adapter trains biases twice, by 'lora_bias' and by 'bias' = '{bias}'",
            "merge it with PEFT first",
        )
    return LoraSettings(
        rank=int(number_of(config, "r", 8, whole=True)),
        alpha=number_of(config, "lora_alpha", 8),
        rslora=flag_of(config, "use_rslora"),
        dora=dora,
        lora_bias=lora_bias,
        parameters=parameters,
        fan_in_fan_out=flag_of(config, "fan_in_fan_out"),
        bias=bias,
        modules_to_save=names_of(config, "modules_to_save"),
        tokens=tokens_of(config),
        ranks=patterns_of(config, "rank_pattern", whole=True),
        alphas=patterns_of(config, "alpha_pattern", whole=False),
    )


def check_fields(
    config: Mapping[str, Any], known: Collection[str], refused: Mapping[str, str]
) -> None:
    """Refuses fields that change the delta in a way that is not rebuilt, or that nobody knows.

    Args:
        config: The parsed config.
        known: Fields that are read, and such as do not change the delta.
        refused: Fields that may not be set, and what they do.

    Raises:
        UnsupportedFormat: One of the others is set; it is named.
    """
    for flag, why in refused.items():
        if config.get(flag):
            _refuse(flag, f"the adapter uses '{flag}': {why}", "merge it with PEFT first")
    for flag, value in config.items():
        if value and flag not in known:
            _refuse(
                flag,
                f"the adapter sets '{shown(flag)}', which this version of deltavc does not know",
                "upgrade deltavc, or merge the adapter with PEFT first",
            )


def _refuse(flag: str, message: str, hint: str) -> None:
    raise UnsupportedFormat(message, hint=hint, flag=shown(flag))


def misplaced(flag: str) -> None:
    """Refuses a field for its value.

    Raises:
        UnsupportedFormat: Always.
    """
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
        misplaced("init_lora_weights")
    if str(value).lower() not in PLAIN_INITS:
        _refuse(
            "init_lora_weights",
            f"the adapter was started with '{shown(value)}', which changes the base weights",
            "convert it: save_pretrained(…, path_initial_model_for_weight_conversion=…)",
        )


def flag_of(config: Mapping[str, Any], flag: str, default: bool = False) -> bool:
    """Returns a field that is true or false."""
    value = config.get(flag, default)
    if value is not None and not isinstance(value, bool):
        misplaced(flag)
    return bool(value)


def bias_of(config: Mapping[str, Any], own: str) -> str:
    """Returns which biases come whole: none, all, or those of the kind's own modules."""
    value = config.get("bias") or "none"
    if value not in ("none", "all", own):
        misplaced("bias")
    return str(value)


def number_of(
    config: Mapping[str, Any], flag: str, default: float | None = None, *, whole: bool = False
) -> Fraction:
    """Returns a field that is a number, within reason; a whole one is at least 1."""
    return _number(flag, config.get(flag, default), whole=whole)


def _number(flag: str, value: Any, *, whole: bool) -> Fraction:
    if type(value) is int and (1 <= value <= MAX_RANK if whole else abs(value) <= MAX_ALPHA):
        return Fraction(value)
    if whole or type(value) is not float or not abs(value) <= MAX_ALPHA:
        misplaced(flag)
    return Fraction(value)


def names_of(config: Mapping[str, Any], flag: str) -> tuple[str, ...]:
    """Returns a field that lists names."""
    value = config.get(flag)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        misplaced(flag)
    return tuple(value)


def patterns_of(
    config: Mapping[str, Any], flag: str, *, whole: bool
) -> tuple[tuple[NamePattern, Fraction], ...]:
    """Returns a field that gives some modules a number of their own."""
    value = config.get(flag)
    if value is None:
        return ()
    if not isinstance(value, dict) or len(value) > MAX_PATTERNS:
        misplaced(flag)
    return tuple(
        (NamePattern(key, flag), _number(flag, item, whole=whole)) for key, item in value.items()
    )


def tokens_of(config: Mapping[str, Any]) -> list[int] | dict[str, list[int]]:
    """Returns the trained rows of embeddings."""
    flag = "trainable_token_indices"
    value = config.get(flag)
    if value is None:
        return []
    lists = value.values() if isinstance(value, dict) else [value]
    for rows in lists:
        if (
            not isinstance(rows, list)
            or not all(type(row) is int and 0 <= row < MAX_TOKENS for row in rows)
            or len(set(rows)) != len(rows)
        ):
            misplaced(flag)
    found: list[int] | dict[str, list[int]] = value
    return found

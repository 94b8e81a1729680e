"""Which parameters of a model are one and the same tensor under two names.

Language models often share the embedding with the output head. The file then
holds one of the two names, or both with the same bits, and only the config
tells. The pairs below are those that the architectures in wide use have; a
pair that is not listed is never guessed from equal bits, since two biases that
are still all zero are not tied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

__all__ = ["find_ties"]

# what the head is called, in front of its last components any wrapper
HEADS = (
    "lm_head.weight",
    "embed_out.weight",
    "proj_out.weight",
    "cls.predictions.decoder.weight",
    "lm_head.decoder.weight",
    "predictions.decoder.weight",
    "generator_lm_head.weight",
    "vocab_projector.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
)
EMBEDDINGS = (
    "shared.weight",
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
)
BIASES = {
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "predictions.decoder.bias": "predictions.bias",
    "lm_head.decoder.bias": "lm_head.bias",
}
HEADED = ("LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForConditionalGeneration", "ForPreTraining")


def find_ties(
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, Any],
    same: Callable[[str, str], bool],
) -> dict[str, str]:
    """Returns the names that stand for another tensor of the file.

    Args:
        shapes: Tensor names of the file with their shapes.
        config: The model's config, {} without one.
        same: Tells whether two tensors of the file have the same bits.

    Returns:
        Alias to name; an alias may be a name that the file lacks.
    """
    said = _said(config)
    if said is False:
        return {}
    main = _embedding(shapes)
    ties: dict[str, str] = {}
    if main is not None:
        for head in HEADS:
            stored = _ending(shapes, head)
            for name in stored:
                if name != main and shapes[name] == shapes[main] and same(name, main):
                    ties[name] = main
        if said or _has_head(config):
            ties.update(dict.fromkeys(_left_out(shapes, config, main), main))
    for alias, name in BIASES.items():
        if ties and name in shapes and alias not in shapes:
            ties[alias] = name
    return ties


def _left_out(shapes: Collection[str], config: Mapping[str, Any], main: str) -> list[str]:
    """Returns the names of heads that the model has and the file leaves out."""
    found = []
    for head in HEADS:
        module = head.removesuffix(".weight").removesuffix(".decoder")
        if head.endswith("embed_tokens.weight"):
            wrapper, is_shared, _ = main.rpartition("shared.weight")
            if is_shared and wrapper + head not in shapes:
                found.append(wrapper + head)
        elif not _ending(shapes, head) and (
            head == "lm_head.weight"
            or any(name.startswith(f"{module}.") for name in shapes)
            or (head == "proj_out.weight" and config.get("model_type") == "whisper")
        ):
            found.append(head)
    return found


def _said(config: Mapping[str, Any]) -> bool | None:
    """Returns what a config says about tied embeddings; None where it is silent."""
    value = config.get("tie_word_embeddings")
    if value is None and isinstance(config.get("text_config"), dict):
        value = config["text_config"].get("tie_word_embeddings")
    return value if isinstance(value, bool) else None


def _has_head(config: Mapping[str, Any]) -> bool:
    """Tells whether the model has an output head: one that the file lacks is then tied."""
    names = config.get("architectures")
    return isinstance(names, list) and any(
        isinstance(name, str) and name.endswith(HEADED) for name in names
    )


def _embedding(names: Collection[str]) -> str | None:
    """Returns the one input embedding of the file; None where there are none or several."""
    for last in EMBEDDINGS:
        found = _ending(names, last)
        if len(found) > 1:  # the shortest path is the model's own, as in shared and encoder
            depth = min(name.count(".") for name in found)
            found = [name for name in found if name.count(".") == depth]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _ending(names: Collection[str], last: str) -> list[str]:
    return [name for name in names if name == last or name.endswith("." + last)]

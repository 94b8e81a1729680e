"""One adapter of every kind and layer that PEFT supports, as PEFT makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .conftest import (  # type: ignore[import-not-found]
    gpt2,
    llama,
    peft,
    torch,
    transformers,
)

ATTENTION = ["query", "key", "output.dense"]
Config = Callable[[], Any]


def bert(hidden: int = 16) -> Any:
    """Returns one layer of a BERT."""
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=hidden, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=2 * hidden, max_position_embeddings=16,
    )  # fmt: skip
    return transformers.BertModel(config).eval()


class Layers(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Layers of all sorts, wide enough for blocks of 4."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.words = torch.nn.Embedding(40, 8)
        self.one = torch.nn.Conv1d(8, 12, 3, padding=1)
        self.two = torch.nn.Conv2d(12, 8, 3, padding=1)
        self.point = torch.nn.Conv2d(8, 8, 1)
        self.three = torch.nn.Conv3d(8, 4, (1, 3, 3), padding=(0, 1, 1))
        self.head = torch.nn.Linear(4, 8)

    def forward(self, x: Any) -> Any:
        x = torch.tanh(self.one(self.words(x).transpose(1, 2)))
        x = torch.tanh(self.point(self.two(x[:, :, None].expand(-1, -1, 4, -1))))
        return self.head(self.three(x[:, :, None]).mean(dim=(2, 3, 4)))


class Experts(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Four experts in two fused parameters, as mixtures of them have."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = torch.nn.Parameter(torch.randn(4, 12, 8) / 4)
        self.down_proj = torch.nn.Parameter(torch.randn(4, 8, 6) / 4)

    def forward(self, x: Any) -> Any:
        up = torch.einsum("bi,eoi->beo", x, self.gate_up_proj)
        return torch.einsum("beo,eio->bi", torch.tanh(up[:, :, :6]) * up[:, :, 6:], self.down_proj)


class Mixture(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A model with experts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.words = torch.nn.Embedding(40, 8)
        self.experts = Experts()
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        return self.head(self.experts(self.words(x).mean(1)))


def _lora(**given: Any) -> Config:
    return lambda: peft.LoraConfig(**{"r": 3, "lora_alpha": 6, **given})


def _adalora(**given: Any) -> Config:
    fixed = {"init_r": 4, "target_r": 2, "total_step": 10, "lora_alpha": 6}
    return lambda: peft.AdaLoraConfig(**{**fixed, **given})


def _of(kind: str, **given: Any) -> Config:
    return lambda: getattr(peft, f"{kind}Config")(**given)


CASES: dict[str, tuple[Callable[[], Any], Config]] = {
    "dora": (bert, _lora(use_dora=True, target_modules=ATTENTION)),
    "dora-thin": (bert, _lora(use_dora=True, r=1, target_modules=ATTENTION)),
    "dora-conv1d": (
        gpt2,
        _lora(use_dora=True, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True),
    ),
    "dora-conv": (Layers, _lora(use_dora=True, target_modules=["one", "two", "point", "three"])),
    "dora-embedding": (llama, _lora(use_dora=True, target_modules=["embed_tokens", "q_proj"])),
    "dora-rslora-saved": (
        bert,
        _lora(use_dora=True, use_rslora=True, target_modules=["query"], modules_to_save=["pooler"]),
    ),
    "lora-bias": (bert, _lora(lora_bias=True, target_modules=ATTENTION)),
    "lora-bias-conv": (Layers, _lora(lora_bias=True, target_modules=["one", "two", "head"])),
    "experts": (
        Mixture,
        _lora(target_modules=[], target_parameters=["gate_up_proj", "experts.down_proj"]),
    ),
    "experts-one": (Mixture, _lora(target_modules=["head"], target_parameters=["down_proj"])),
    "adalora": (bert, _adalora(target_modules=ATTENTION)),
    "adalora-conv1d": (gpt2, _adalora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "adalora-conv": (Layers, _adalora(target_modules=["two", "point", "head"])),
    "ia3": (bert, _of("IA3", target_modules=ATTENTION, feedforward_modules=["output.dense"])),
    "ia3-conv1d": (
        gpt2,
        _of(
            "IA3",
            target_modules=["c_attn", "mlp.c_proj"],
            feedforward_modules=["mlp.c_proj"],
            fan_in_fan_out=True,
        ),
    ),
    "ia3-conv": (
        Layers,
        _of("IA3", target_modules=["two", "point", "three"], feedforward_modules=["point"]),
    ),
    "loha": (bert, _of("LoHa", r=2, alpha=4, target_modules=ATTENTION)),
    "loha-conv": (Layers, _of("LoHa", r=2, alpha=4, target_modules=["one", "two", "head"])),
    "loha-tucker": (
        Layers,
        _of(
            "LoHa", r=2, alpha=1, target_modules=["one", "two", "point"], use_effective_conv2d=True
        ),
    ),
    "lokr": (bert, _of("LoKr", r=1, alpha=2, target_modules=ATTENTION)),
    "lokr-full": (bert, _of("LoKr", r=8, alpha=2, target_modules=ATTENTION)),
    "lokr-both": (
        bert,
        _of(
            "LoKr",
            r=1,
            alpha=3,
            target_modules=ATTENTION,
            decompose_both=True,
            rank_pattern={"key": 2},
        ),
    ),
    "lokr-conv": (Layers, _of("LoKr", r=1, alpha=2, target_modules=["one", "two", "point"])),
    "lokr-conv-full": (Layers, _of("LoKr", r=8, alpha=8, target_modules=["one", "two", "head"])),
    "lokr-tucker": (
        Layers,
        _of(
            "LoKr",
            r=2,
            alpha=2,
            target_modules=["one", "two"],
            use_effective_conv2d=True,
            decompose_factor=2,
        ),
    ),
    "oft": (bert, _of("OFT", oft_block_size=4, target_modules=ATTENTION)),
    "oft-cayley": (
        bert,
        _of("OFT", r=2, oft_block_size=0, target_modules=ATTENTION, use_cayley_neumann=False),
    ),
    "oft-conv": (Layers, _of("OFT", oft_block_size=4, target_modules=["two", "point", "words"])),
    "oft-shared": (
        bert,
        _of("OFT", oft_block_size=8, target_modules=ATTENTION, block_share=True, bias="oft_only"),
    ),
    "coft": (bert, _of("OFT", oft_block_size=4, target_modules=ATTENTION, coft=True, eps=0.01)),
    "boft": (bert, _of("BOFT", boft_block_size=4, target_modules=ATTENTION)),
    "boft-conv": (
        Layers,
        _of("BOFT", boft_block_size=4, target_modules=["two", "point"], bias="boft_only"),
    ),
    "hra": (bert, _of("HRA", r=2, target_modules=ATTENTION)),
    "hra-orthogonal": (bert, _of("HRA", r=3, target_modules=ATTENTION, apply_GS=True)),
    "hra-conv": (Layers, _of("HRA", r=2, target_modules=["two", "point"])),
    "vera": (bert, _of("Vera", r=4, target_modules=["query", "dense"])),
    "vera-conv1d": (
        gpt2,
        _of("Vera", r=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True),
    ),
    "ln": (bert, _of("LNTuning", target_modules=["LayerNorm"], modules_to_save=["pooler"])),
}
"""What makes the model, and what makes the adapter's config."""


def adapted(make: Callable[[], Any], config: Config, *, seed: int = 7, dtype: Any = None) -> Any:
    """Returns a PEFT model whose adapter's numbers are all random."""
    model = make() if dtype is None else make().to(dtype)
    model = peft.get_peft_model(model, config())
    model.create_or_update_model_card = lambda _: None  # a tenth of the time to save it
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            size = 0.3 * torch.randn_like(parameter)
            scales = any(mark in name for mark in ("ia3_l", "magnitude", "boft_s"))
            parameter.copy_(parameter * (1 + size) if scales else parameter + size)
    return model.eval()


__all__ = ["CASES", "Layers", "Mixture", "adapted", "bert"]

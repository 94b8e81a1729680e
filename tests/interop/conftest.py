"""Small models of transformers and PEFT, and a desk at which a stranger commits what they made."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import deltavc

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

TOKENS = [[3, 9, 27, 1, 0, 5], [2, 2, 31, 7, 9, 11]]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def bert(cls: str = "BertModel", **extra: Any) -> Any:
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, **extra,
    )  # fmt: skip
    return getattr(transformers, cls)(config).eval()


def llama(*, tied: bool = False, vocab: int = 40) -> Any:
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=vocab, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def gpt2() -> Any:
    torch.manual_seed(1)
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


class Convolutions(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A model that no library knows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.one = torch.nn.Conv1d(4, 6, 3)
        self.two = torch.nn.Conv2d(1, 5, (3, 2))
        self.norm = torch.nn.BatchNorm1d(6)
        self.head = torch.nn.Linear(5, 3)
        self.eval()

    def forward(self, x: Any) -> Any:
        x = self.norm(self.one(x))
        return self.head(self.two(x.unsqueeze(1)).mean(dim=(2, 3)))


def answer(model: Any) -> Any:
    """Returns what a model says to a fixed input: logits, or the last hidden state."""
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        if any(isinstance(m, Convolutions) for m in model.modules()):
            torch.manual_seed(3)
            return model.eval()(torch.randn(2, 4, 9).to(dtype))
        return model.eval()(torch.tensor(TOKENS))[0]


def trained(model: Any, *, seed: int = 7, size: float = 0.3, **config: Any) -> Any:
    """Returns a PEFT model whose trainable weights are all random."""
    model = peft.get_peft_model(model, peft.LoraConfig(**config))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(size * torch.randn_like(parameter))
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    """Saves a model as its library does."""
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        from safetensors.torch import save_file

        folder.mkdir()
        save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def tensors_of(folder: Path) -> dict[str, Any]:
    """Reads all safetensors files of a folder with the safetensors package."""
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tells whether two state dicts have the same names, dtypes, shapes and bits."""
    return bits(one) == bits(other)


def bits(tensors: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (
            str(value.dtype),
            tuple(value.shape),
            value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, value in tensors.items()
    }


class Desk:
    """A repository on a base that was saved by transformers or by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 1_700_000_000_000
        self.repo = deltavc.init(root / "repo", actor="Ada <ada@example.org>", clock=self.clock)
        self._count = 0

    def clock(self) -> int:
        self.now += 1000
        return self.now

    def folder(self, what: str = "made") -> Path:
        self._count += 1
        return self.root / f"{what}-{self._count}"

    def base(self, model: Any, name: str = "base", **options: Any) -> Path:
        folder = self.folder("base")
        if isinstance(model, Path):
            folder = model
        else:
            save(model, folder)
        self.repo.add_base(name, folder, **options)
        return folder

    def adapter(self, make: Callable[[], Any], **config: Any) -> Path:
        """Saves an adapter that PEFT made on a fresh model."""
        folder = self.folder("adapter")
        trained(make(), **config).save_pretrained(folder)
        return folder

    def commit(self, source: Path, message: str = "a change", **options: Any) -> Any:
        return self.repo.commit(source, message=message, **options)

    def out(self, rev: str = "HEAD", **options: Any) -> Path:
        folder = self.folder("out")
        self.repo.checkout(rev, to=folder, **options)
        return folder


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)

"""Adapters for vLLM: held against the rules of its loader, and against PEFT.

The rules (of ``vllm/lora``): ``peft_helper.py`` takes ``r``, ``lora_alpha`` and
``target_modules``, refuses saved modules, DoRA and biases and a rank above the
server's, and scales every layer by alpha / r; ``lora_model.py`` takes keys that end in
``.lora_A.weight`` and ``.lora_B.weight`` (or ``.lora_embedding_A`` and ``_B``);
``filesystem_resolver.py`` compares the base's name as a text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.delta.kinds import lowrank
from deltavc.delta.tensor import Tensor
from deltavc.errors import NonFiniteTensor, ShapeMismatch, UnsupportedFormat, UsageError
from deltavc.formats.vllm import MAX_RANKS, build_vllm, write_vllm
from deltavc.formats.writer_plan import Seal

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

import deltavc  # noqa: E402

NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    import warnings

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def factors(rank: int, rows: int = 6, columns: int = 5, seed: int = 0, dtype: str = "f4") -> Any:
    rng = np.random.default_rng(seed)
    return (
        Tensor.from_array(rng.normal(size=(rows, rank)).astype(dtype)),
        Tensor.from_array(rng.normal(size=(rank, columns)).astype(dtype)),
    )


def delta(rank: int, scale: Fraction = Fraction(2), **options: Any) -> Any:
    return lowrank(*factors(rank, **options), scale, shape=(6, 5))


def product(adapter: Any, module: str) -> Any:
    """What vLLM adds for a module: alpha / r times B times A, in rational arithmetic."""
    key = f"base_model.model.{module}.lora_"
    a, b = (adapter.tensors[f"{key}{x}.weight"].to_float64() for x in "AB")
    scale = Fraction(adapter.config["lora_alpha"]) / adapter.config["r"]
    return [
        [
            scale * sum(Fraction(b[i, k]) * Fraction(a[k, j]) for k in range(a.shape[0]))
            for j in range(a.shape[1])
        ]
        for i in range(b.shape[0])
    ]


def wanted(terms: Any) -> Any:
    total = [[Fraction(0)] * 5 for _ in range(6)]
    for one, coefficient in terms:
        left, right = one.matrices()
        for i in range(6):
            for j in range(5):
                total[i][j] += (
                    coefficient
                    * one.scale
                    * sum(
                        Fraction(left[i, k]) * Fraction(right[k, j]) for k in range(left.shape[1])
                    )
                )
    return total


def check_rules(folder: Path, max_lora_rank: int, base_model_name: str) -> dict[str, Any]:
    """Does what vLLM does before it takes an adapter; returns the config."""
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == base_model_name
    assert {"r", "lora_alpha", "target_modules"} <= config.keys()
    assert not config["modules_to_save"]
    assert not config["use_dora"]
    assert config["bias"] == "none"
    assert config["r"] <= max_lora_rank
    from safetensors.numpy import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    suffix = re.compile(r"^base_model\.model\.(.+)\.(?:lora_([AB])\.weight|lora_embedding_([AB]))$")
    for key, value in tensors.items():
        found = suffix.match(key)
        assert found, key
        assert found[1] in config["target_modules"]
        assert value.shape[0 if (found[2] or found[3]) == "A" else 1] == config["r"]
    # what vLLM does not read must not be needed
    assert config["rank_pattern"] == {}
    assert config["alpha_pattern"] == {}
    assert config["lora_alpha"] == config["r"]
    return config


# building ------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    data=st.lists(
        st.tuples(
            st.integers(1, 3),
            st.sampled_from([Fraction(2), Fraction(1, 4), Fraction(-1), Fraction(3, 2)]),
            st.sampled_from(["f4", "f2"]),
        ),
        min_size=1,
        max_size=3,
    ),
    pad=st.none() | st.integers(9, 12),
)
def test_folded_and_padded_factors_are_the_very_sum(data: Any, pad: int | None) -> None:
    terms = [
        (delta(rank, seed=i, dtype=dtype), coefficient)
        for i, (rank, coefficient, dtype) in enumerate(data)
    ]
    adapter = build_vllm({NAME: terms}, base_name="org/base", pad_rank=pad)
    assert adapter.rank == (pad or sum(rank for rank, *_ in data))
    found, expected = product(adapter, NAME.removesuffix(".weight")), wanted(terms)
    if not adapter.rounded:
        assert found == expected
        return
    assert adapter.rounded == (NAME,)
    assert any(coefficient == Fraction(3, 2) for _, coefficient, _ in data)
    sizes = wanted([(abs_delta(one), abs(c)) for one, c in terms])
    for mine, theirs, size in zip(found, expected, sizes, strict=True):
        for x, y, bound in zip(mine, theirs, size, strict=True):
            assert abs(x - y) <= bound * Fraction(1, 2**24)


def abs_delta(one: Any) -> Any:
    left, right = one.matrices()
    made = (Tensor.from_array(np.abs(x)) for x in (left, right))
    return lowrank(*made, one.scale, shape=one.shape)


def test_a_power_of_two_keeps_the_dtype_and_every_digit() -> None:
    terms = [(delta(4, Fraction(2), dtype="f2"), Fraction(1))]
    adapter = build_vllm({NAME: terms}, base_name="x")
    assert {t.dtype.name for t in adapter.tensors.values()} == {"F16"}
    assert adapter.rounded == ()
    half = [(delta(4, Fraction(3, 7)), Fraction(1))]
    assert build_vllm({NAME: half}, base_name="x").rounded == (NAME,)


def test_all_modules_get_one_rank() -> None:
    params = {NAME: [(delta(2), Fraction(1))], "b.weight": [(delta(5, seed=2), Fraction(1))]}
    adapter = build_vllm(params, base_name="x")
    assert adapter.rank == adapter.config["r"] == 5
    assert adapter.server_rank == 8
    for name, terms in params.items():
        assert product(adapter, name.removesuffix(".weight")) == wanted(terms)
    wide = build_vllm(params, base_name="x", pad_rank=16)
    same = {k: v for k, v in wide.config.items() if k not in ("r", "lora_alpha")}
    assert same == {k: v for k, v in adapter.config.items() if k not in ("r", "lora_alpha")}
    assert {min(t.shape) if max(t.shape) == 16 else 16 for t in wide.tensors.values()} >= {5, 6}


def test_ranks_above_what_is_allowed() -> None:
    params = {NAME: [(delta(5), Fraction(1))]}
    for options in ({"max_rank": 4}, {"pad_rank": 4}):
        with pytest.raises(ShapeMismatch) as found:
            build_vllm(params, base_name="x", **options)
        assert found.value.context["parameters"] == {NAME: 5}
        assert "--rel-error" in found.value.hint
    with pytest.raises(ShapeMismatch):
        build_vllm(params, base_name="x", pad_rank=MAX_RANKS[-1] + 1)
    for option in ("max_rank", "pad_rank"):
        with pytest.raises(UsageError):
            build_vllm(params, base_name="x", **{option: 0})
    big = lowrank(*factors(520, 6, 5), Fraction(1), shape=(6, 5))
    with pytest.raises(ShapeMismatch):
        build_vllm({NAME: [(big, Fraction(1))]}, base_name="x")


def test_truncation_tells_the_energy_that_is_left_out() -> None:
    terms = [(delta(5), Fraction(1))]
    exact = np.array(wanted(terms), dtype=float)
    singular = np.linalg.svd(exact, compute_uv=False)
    error = np.sqrt((singular[3:] ** 2).sum() / (singular**2).sum())
    adapter = build_vllm({NAME: terms}, base_name="x", max_rank=3, rel_error=error * 1.01)
    assert adapter.rank == 3
    assert adapter.lost[NAME] == pytest.approx(error**2, rel=1e-3)
    assert adapter.lost_total == adapter.lost[NAME]
    both = {NAME: terms, "b.weight": [(delta(1, seed=9), Fraction(1))]}
    adapter = build_vllm(both, base_name="x", max_rank=3, rel_error=error * 1.01)
    assert list(adapter.lost) == [NAME]
    other = (np.array(wanted(both["b.weight"]), dtype=float) ** 2).sum()
    share = (singular[3:] ** 2).sum() / ((singular**2).sum() + other)
    assert adapter.lost_total == pytest.approx(share, rel=1e-3)
    with pytest.raises(ShapeMismatch) as found:
        build_vllm({NAME: terms}, base_name="x", max_rank=3, rel_error=error * 0.9)
    assert found.value.context["parameters"][NAME] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize(
    ("params", "kind", "word"),
    [
        ({}, UnsupportedFormat, "no low-rank change"),
        ({"lm.bias": [(delta(1), Fraction(1))]}, UnsupportedFormat, "'lm.bias'"),
        (
            {NAME: [(lowrank(*factors(1, dtype="f4"), Fraction(10) ** 50, shape=(6, 5)),
                     Fraction(1))]},
            NonFiniteTensor,
            NAME,
        ),
    ],
)  # fmt: skip
def test_what_has_no_place_is_named(params: Any, kind: Any, word: str) -> None:
    with pytest.raises(kind) as found:
        build_vllm(params, base_name="x")
    assert word in found.value.message


def test_a_convolution_and_a_missing_name() -> None:
    b = Tensor.from_array(np.ones((6, 2, 1), "f4"))
    a = Tensor.from_array(np.ones((2, 5, 3), "f4"))
    conv = lowrank(b, a, Fraction(1), shape=(6, 5, 3), layer="conv")
    with pytest.raises(UnsupportedFormat, match="convolution"):
        build_vllm({"c.weight": [(conv, Fraction(1))]}, base_name="x")
    with pytest.raises(UsageError) as found:
        build_vllm({NAME: [(delta(1), Fraction(1))]}, base_name="")
    assert "--base-name" in found.value.hint


def test_a_folder_is_sealed_when_all_else_is_there(tmp_path: Path) -> None:
    adapter = build_vllm({NAME: [(delta(2), Fraction(1))]}, base_name="org/base", pad_rank=16)
    seal = Seal("seal", lambda folder: " ".join(sorted(p.name for p in folder.iterdir())).encode())
    done = write_vllm(tmp_path / "out", adapter, seal=seal)
    again = write_vllm(tmp_path / "again", adapter)
    names = (tmp_path / "out" / "seal").read_text().split()
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    assert not (tmp_path / "again" / "seal").exists()
    for name, digest in done.sha256.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert done.sha256 == again.sha256
    assert sorted(done.sha256) == names
    check_rules(tmp_path / "out", 16, "org/base")


# whole versions ------------------------------------------------------------------


def llama(*, tied: bool = False) -> Any:
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model.eval()(torch.tensor([[3, 9, 27, 1], [2, 31, 7, 9]])).logits


class Shop:
    """A repository on a small language model."""

    def __init__(self, root: Path, base: Any) -> None:
        self.root = root
        self.count = 0
        base.save_pretrained(self.place())
        self.base = self.root / "1"
        self.repo = deltavc.init(root / "repo", actor="Ada <ada@example.org>")
        self.repo.add_base("llama", self.base)

    def place(self) -> Path:
        self.count += 1
        return self.root / str(self.count)

    def adapter(self, *, make: Any = llama, stack: bool = False, **config: Any) -> str:
        model = peft.get_peft_model(make(), peft.LoraConfig(**config))
        torch.manual_seed(self.count)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(0.3 * torch.randn_like(parameter))
        folder = self.place()
        model.save_pretrained(folder)
        return self.commit(folder, stack=stack)

    def commit(self, folder: Path, **options: Any) -> str:
        return str(self.repo.commit(folder, message="a change", **options).commit)

    def serve(self, rev: str = "HEAD", name: str = "org/llama", **options: Any) -> tuple[Path, Any]:
        folder = self.place()
        done = self.repo.checkout(rev, to=folder, form="vllm", base_name=name, **options)
        return folder, done

    def rebuilt(self, rev: str = "HEAD") -> Any:
        folder = self.place()
        self.repo.checkout(rev, to=folder)
        return transformers.AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, llama())


def served(shop: Shop, folder: Path) -> Any:
    base = transformers.AutoModelForCausalLM.from_pretrained(shop.base)
    return peft.PeftModel.from_pretrained(base, folder).eval()


@pytest.mark.interop
@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "down_proj"], "r": 4, "lora_alpha": 8},
        {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 8,
         "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"target_modules": ["up_proj"], "r": 3, "lora_alpha": 7, "use_rslora": True},
        {"target_modules": ["embed_tokens", "q_proj"], "r": 2, "lora_alpha": 8},
    ],
)  # fmt: skip
def test_peft_gives_the_same_logits_as_full_weights(shop: Shop, config: Any) -> None:
    shop.adapter(**config)
    expected = logits(shop.rebuilt())
    assert not torch.allclose(logits(llama()), expected, atol=1e-3)
    for options in ({}, {"pad_rank": 16}):
        folder, done = shop.serve(**options)
        check_rules(folder, 16, "org/llama")
        assert done.form == "vllm"
        assert done.rank == (16 if options else max(2, config["r"]))
        # float32 sums in two orders: a few ulps of the logits, which are below 1
        assert torch.allclose(logits(served(shop, folder)), expected, atol=2e-6, rtol=0)


@pytest.mark.interop
def test_a_stack_goes_out_as_one_adapter(shop: Shop) -> None:
    shop.adapter(target_modules=["q_proj"], r=4, lora_alpha=8)
    shop.adapter(target_modules=["q_proj", "o_proj"], r=2, lora_alpha=2, stack=True)
    folder, done = shop.serve()
    config = check_rules(folder, 8, "org/llama")
    assert config["r"] == done.rank == 6
    assert torch.allclose(logits(served(shop, folder)), logits(shop.rebuilt()), atol=2e-6, rtol=0)


@pytest.mark.interop
def test_padded_versions_are_exchanged_under_one_compiled_shape(shop: Shop) -> None:
    from peft.utils.hotswap import hotswap_adapter

    one = shop.adapter(target_modules=["q_proj", "o_proj"], r=4, lora_alpha=8)
    two = shop.adapter(target_modules=["q_proj"], r=2, lora_alpha=2, use_rslora=True)
    (first, _), (second, _) = (shop.serve(rev, pad_rank=8) for rev in (one, two))
    model = served(shop, first)
    shapes = [p.shape for n, p in model.named_parameters() if "lora_" in n]
    places = [p.data_ptr() for n, p in model.named_parameters() if "lora_" in n]
    for folder, rev in ((second, two), (first, one), (second, two)):
        hotswap_adapter(model, str(folder), adapter_name="default", torch_device="cpu")
        assert [p.shape for n, p in model.named_parameters() if "lora_" in n] == shapes
        assert [p.data_ptr() for n, p in model.named_parameters() if "lora_" in n] == places
        assert torch.allclose(logits(model), logits(shop.rebuilt(rev)), atol=2e-6, rtol=0)


def refused(shop: Shop, **options: Any) -> Any:
    with pytest.raises(UnsupportedFormat) as found:
        shop.serve(**options)
    assert found.value.exit_code == 45
    return found.value.context["parameters"]


@pytest.mark.interop
def test_what_vllm_has_no_place_for_is_refused_by_name(shop: Shop) -> None:
    shop.adapter(target_modules=["q_proj"], r=2, modules_to_save=["lm_head"])
    assert refused(shop) == ["lm_head.weight"]
    full = llama()
    with torch.no_grad():
        full.model.norm.weight += 0.5
        full.model.embed_tokens.weight += 0.5
    folder = shop.place()
    full.save_pretrained(folder)
    shop.commit(folder)
    assert refused(shop, rel_error=0.5) == ["model.embed_tokens.weight", "model.norm.weight"]
    assert not (shop.root / str(shop.count)).exists()


@pytest.mark.interop
def test_tied_weights_are_refused(tmp_path: Path) -> None:
    shop = Shop(tmp_path, llama(tied=True))
    shop.adapter(make=lambda: llama(tied=True), target_modules=["embed_tokens"], r=2)
    assert refused(shop) == ["model.embed_tokens.weight"]


@pytest.mark.interop
def test_a_change_that_is_not_low_rank_is_approximated_on_request(shop: Shop) -> None:
    full = llama()
    torch.manual_seed(5)
    name = "model.layers.0.mlp.up_proj.weight"
    weight = full.get_parameter(name)
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 0.1 * torch.randn(24, 3) @ torch.randn(3, 16) + 1e-3 * torch.randn(24, 16)
    folder = shop.place()
    full.save_pretrained(folder)
    shop.commit(folder)
    assert refused(shop) == [name]
    out, done = shop.serve(rel_error=0.1)
    assert done.rank == 3
    change = (weight.detach() - before).double()
    singular = torch.linalg.svdvals(change)
    share = float((singular[3:] ** 2).sum() / (singular**2).sum())
    assert done.energy_lost[name] == pytest.approx(share, rel=0.05)
    assert done.energy_lost_total == done.energy_lost[name]
    card = json.loads((out / "deltavc.json").read_text())
    assert card["exact"] is False
    assert card["adapter"]["energy_lost"]["parameters"] == done.energy_lost
    assert card["adapter"]["max_lora_rank"] == 8
    check_rules(out, 8, "org/llama")
    delta = served(shop, out).base_model.model.get_submodule(name.removesuffix(".weight"))
    found = delta.get_delta_weight("default").double()
    assert float((found - change).norm() / change.norm()) <= 0.1
    with pytest.raises(ShapeMismatch):
        shop.serve(rel_error=1e-6, max_rank=4)


@pytest.mark.interop
def test_gpt2_keeps_its_weights_the_other_way_round(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    shop = Shop(tmp_path, model)
    name = "transformer.h.0.attn.c_attn.weight"
    with torch.no_grad():
        model.get_parameter(name).add_(torch.randn(16, 2) @ torch.randn(2, 48))
    folder = shop.place()
    model.save_pretrained(folder)
    shop.commit(folder)
    out, done = shop.serve(rel_error=1e-3)
    assert done.rank == 2
    assert torch.allclose(logits(served(shop, out)), logits(model), atol=1e-3)


def test_the_name_of_the_base(shop: Shop) -> None:
    shop.adapter(target_modules=["q_proj"], r=2)
    with pytest.raises(UsageError):
        shop.serve(name="")
    folder, _ = shop.serve(name="/models/llama")
    check_rules(folder, 8, "/models/llama")

"""PEFT folders out: exact factors, and the refusal of what a LoRA cannot say."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deltavc.delta import kinds
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import NameTaken, UnsupportedFormat
from deltavc.formats.peft_config import read_settings, rslora_scale
from deltavc.formats.peft_write import build_adapter, write_adapter
from deltavc.formats.safetensors import SafetensorsFile
from deltavc.formats.writer_lora import alpha_for, combine

RNG = np.random.default_rng(3)
CONFIG = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q", "v"],
    "task_type": "CAUSAL_LM", "base_model_name_or_path": "org/base", "lora_dropout": 0.1,
}  # fmt: skip


def tensor(shape, dtype="F32", scale=1.0):
    values = (RNG.standard_normal(shape) * scale).astype(np.float32)
    if dtype == "BF16":
        return Tensor(
            DTYPES["BF16"], shape, (values.view(np.uint32) >> 16).astype("<u2").reshape(-1)
        )
    kind = {"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype]
    return Tensor.from_array(values.astype(kind))


def lora(rank=4, scale=2, *, dtype="F32", out=6, inside=5, transposed=False, layer="linear"):
    shape = (inside, out) if transposed else (out, inside)
    return kinds.lowrank(
        tensor((out, rank), dtype), tensor((rank, inside), dtype), Fraction(scale), shape=shape,
        transposed=transposed, layer=layer,
    )  # fmt: skip


def product(terms):
    """The sum as rational numbers: the oracle."""
    total = 0
    for delta, coefficient in terms:
        left, right = (np.vectorize(Fraction, otypes=[object])(m) for m in delta.matrices())
        total = total + coefficient * delta.scale * (left @ right)
    return total


def layer_product(layer):
    a, b = (
        np.vectorize(Fraction, otypes=[object])(t.to_float64().reshape(t.shape[0], -1))
        for t in (layer.a, layer.b)
    )
    whole = Fraction(layer.alpha) / layer.rank * (b @ a)
    return whole.T if layer.transposed or layer.kind == "embedding" else whole


def test_one_adapter_goes_out_as_it_came(tmp_path):
    params = {f"l.{m}.weight": [(lora(), Fraction(1))] for m in "qv"}
    written = write_adapter(tmp_path / "out", params=params, config=CONFIG)
    text = (tmp_path / "out/adapter_config.json").read_text()
    assert json.loads(text) == CONFIG == written.config
    with SafetensorsFile(tmp_path / "out/adapter_model.safetensors") as file:
        assert {e.name for e in file.entries} == {
            f"base_model.model.l.{m}.lora_{x}.weight" for m in "qv" for x in "AB"
        }
        for m in "qv":
            delta = params[f"l.{m}.weight"][0][0]
            for x in "AB":
                found = file.tensor(f"base_model.model.l.{m}.lora_{x}.weight")
                assert found.same_bits(delta.factor(x.lower()))
    assert written.rounded == ()
    renamed = write_adapter(
        tmp_path / "out", params=params, config=CONFIG, base_name="other", replace=True,
        files={"README.md": b"hi"},
    )  # fmt: skip
    assert renamed.config == CONFIG | {"base_model_name_or_path": "other"}
    assert (tmp_path / "out/README.md").read_bytes() == b"hi"
    with pytest.raises(NameTaken):
        write_adapter(tmp_path / "out", params=params)


def test_rslora_and_patterns_keep_their_config():
    scale = rslora_scale(Fraction(8), 12)
    config = CONFIG | {
        "use_rslora": True,
        "r": 12,
        "rank_pattern": {"v": 3},
        "alpha_pattern": {"v": 5},
    }
    params = {
        "l.q.weight": [(lora(12, scale), Fraction(1))],
        "l.v.weight": [(lora(3, rslora_scale(Fraction(5), 3)), Fraction(1))],
    }
    assert build_adapter(params=params, config=config).config == config
    with pytest.raises(UnsupportedFormat) as found:  # without it the scale has no exact alpha
        build_adapter(params=params)
    assert found.value.context["parameters"] == ["l.v.weight"]


scales = st.sampled_from(
    [Fraction(2), Fraction(1, 2), Fraction(3), Fraction(5, 4), Fraction(-7, 8)]
)


@given(
    dtypes=st.lists(st.sampled_from(["F32", "BF16", "F16"]), min_size=1, max_size=4),
    scales=st.lists(scales, min_size=4, max_size=4),
    coefficients=st.lists(scales, min_size=4, max_size=4),
    transposed=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_a_sum_is_one_lora_exactly_or_not_at_all(dtypes, scales, coefficients, transposed):
    terms = [
        (lora(i + 1, s, dtype=d, transposed=transposed), c)
        for i, (d, s, c) in enumerate(zip(dtypes, scales, coefficients, strict=False))
    ]
    layer = combine(terms)
    assume(layer is not None)
    assert layer.rank == sum(delta.rank for delta, _ in terms)
    assert not layer.rounded
    assert (layer_product(layer) == product(terms)).all()
    if len(set(dtypes)) > 1:
        assert layer.a.dtype.name == "F32"


def test_powers_of_two_are_always_exact_in_the_factors_own_dtype():
    for dtype in ("F32", "BF16", "F16"):
        terms = [(lora(3, 2, dtype=dtype), Fraction(1)), (lora(5, 1, dtype=dtype), Fraction(-1, 2))]
        layer = combine(terms)
        assert (layer.a.dtype.name, layer.b.dtype.name, layer.alpha) == (dtype, dtype, 8)
        assert (layer_product(layer) == product(terms)).all()


def test_a_shared_odd_factor_goes_into_alpha():
    terms = [(lora(4, 3), Fraction(3, 4)), (lora(4, 3), Fraction(-3, 2))]
    layer = combine(terms)
    assert layer.alpha == 8 * 9 / 4
    assert layer.b.dtype.name == "F32"
    assert (layer_product(layer) == product(terms)).all()


def test_bf16_widens_where_its_own_bits_are_too_few():
    terms = [(lora(2, 1, dtype="BF16"), Fraction(1)), (lora(2, 3, dtype="BF16"), Fraction(1, 8))]
    layer = combine(terms)
    assert (layer.a.dtype.name, layer.b.dtype.name) == ("BF16", "F32")
    assert (layer_product(layer) == product(terms)).all()


def test_what_has_no_exact_product_is_refused_or_rounded_by_request():
    terms = [(lora(4, 2), Fraction(1, 3)), (lora(4, 2), Fraction(7, 10))]
    params = {"l.q.weight": terms, "l.v.weight": [(lora(), Fraction(1))]}
    with pytest.raises(UnsupportedFormat, match=r"'l\.q\.weight' cannot") as found:
        build_adapter(params=params)
    assert found.value.exit_code == 45
    adapter = build_adapter(params=params, rounded=True)
    assert adapter.rounded == ("l.q.weight",)
    third = [(lora(4, 2), Fraction(1, 3))]
    layer = combine(third, rounded=True)  # only alpha is rounded
    assert layer.b.same_bits(third[0][0].factor("b"))
    assert (layer.rounded, layer.alpha) == (True, 8 / 3)
    layer = combine(terms, rounded=True)
    exact = product(terms).astype(float)
    assert np.abs(layer_product(layer).astype(float) - exact).max() < 1e-6 * np.abs(exact).max()


@given(
    numerator=st.integers(-(2**60), 2**60),
    denominator=st.integers(1, 2**60),
    rank=st.integers(1, 99),
)
def test_alpha_is_exact_or_none(numerator, denominator, rank):
    scale = Fraction(numerator, denominator)
    alpha = alpha_for(scale, rank)
    assert alpha is None or Fraction(alpha) / rank == scale


def test_tiny_and_huge_numbers_are_not_lost():
    tiny = Tensor.from_array(np.full((2, 1), 2.0**-149, dtype=np.float32))
    one = Tensor.from_array(np.ones((1, 2), dtype=np.float32))
    delta = kinds.lowrank(tiny, one, Fraction(1), shape=(2, 2))
    other = kinds.lowrank(one_column(), one, Fraction(1), shape=(2, 2))
    terms = [(delta, Fraction(1, 2)), (other, Fraction(3))]
    assert (layer_product(combine(terms)) == product(terms)).all()
    far = [(delta, Fraction(1, 2**1100)), (other, Fraction(1))]
    assert combine(far) is None
    assert combine([(delta, Fraction(2**1100))]) is None


def one_column():
    return Tensor.from_array(np.ones((2, 1), dtype=np.float32))


def test_an_embedding_found_in_a_checkpoint_is_turned_round():
    plain = (lora(3, 2, out=9, inside=4), Fraction(1))
    native = (lora(2, 4, out=4, inside=9, transposed=True, layer="embedding"), Fraction(1))
    for terms in ([plain], [plain, native], [native]):
        adapter = build_adapter(params={"emb.weight": terms}, embeddings=["emb.weight"])
        a = adapter.tensors["base_model.model.emb.lora_embedding_A"]
        b = adapter.tensors["base_model.model.emb.lora_embedding_B"]
        assert (a.shape[1], b.shape[0]) == (9, 4)
        found = (b.to_float64() @ a.to_float64()).T * adapter.config["lora_alpha"] / a.shape[0]
        np.testing.assert_allclose(found, product(terms).astype(float), rtol=1e-12)


def test_a_convolution_keeps_its_kernel():
    b, a = tensor((6, 2, 1, 1)), tensor((2, 3, 3, 3))
    delta = kinds.lowrank(b, a, Fraction(2), shape=(6, 3, 3, 3), layer="conv")
    adapter = build_adapter(params={"c.weight": [(delta, Fraction(1)), (delta, Fraction(1, 2))]})
    assert adapter.tensors["base_model.model.c.lora_A.weight"].shape == (4, 3, 3, 3)
    assert adapter.tensors["base_model.model.c.lora_B.weight"].shape == (6, 4, 1, 1)


def test_what_a_lora_cannot_say_is_refused_with_the_parameters_named():
    good = [(lora(), Fraction(1))]
    whole = kinds.replace(tensor((6, 5)))
    params = {f"l{i}.weight": [(whole, Fraction(1))] for i in range(7)} | {"q.weight": good}
    with pytest.raises(UnsupportedFormat, match=r"and 2 more .*replace") as found:
        build_adapter(params=params)
    assert found.value.context["parameters"] == [f"l{i}.weight" for i in range(7)]
    assert "--as full" in found.value.hint
    for params in ({}, {"q.weight": []}):
        with pytest.raises(UnsupportedFormat, match="no parameter"):
            build_adapter(params=params)
    for name in ("q.bias", "experts.gate_up", ".weight"):
        with pytest.raises(UnsupportedFormat, match="not the weight of a module"):
            build_adapter(params={name: good})
    for name in ("a(b.weight", "a+.weight", "a b.weight"):
        with pytest.raises(UnsupportedFormat, match="patterns"):
            build_adapter(params={name: good})
    with pytest.raises(UnsupportedFormat, match="saved whole"):
        build_adapter(params={"head.q.weight": good}, saved={"head.weight": tensor((2, 2))})
    with pytest.raises(UnsupportedFormat, match="does not belong"):
        build_adapter(params={"q.weight": good}, new={"scale": tensor((2,))})


def test_a_new_config_says_of_each_module_what_it_is():
    params = {
        "m.a.q.weight": [(lora(4, 2), Fraction(1))],
        "q.weight": [(lora(2, 8), Fraction(1))],
        "b.q.weight": [(lora(4, 2), Fraction(1))],
        "b.v.weight": [(lora(4, Fraction(1, 2)), Fraction(-1))],
    }
    config = build_adapter(
        params=params, config=CONFIG | {"revision": None}, prefix="model."
    ).config
    settings = read_settings(config)
    for name, ((delta, coefficient),) in params.items():
        module = "model." + name.removesuffix(".weight")
        assert settings.rank_of(module) == delta.rank
        assert settings.scale_of(module, delta.rank) == coefficient * delta.scale
    assert config["target_modules"] == ["model.b.q", "model.b.v", "model.m.a.q", "model.q"]
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == "org/base"
    assert config["lora_dropout"] == 0.0
    less = build_adapter(params=params, prefix="-m.", names={"b.v.weight": "head.weight"}).config
    assert less["target_modules"] == ["a.q", "b.q", "head", "q"]


def test_heads_and_biases_find_their_keys():
    params = {"q.weight": [(lora(), Fraction(1))]}
    head = {"classifier.dense.weight": tensor((3, 2)), "classifier.out.bias": tensor((3,))}
    adapter = build_adapter(params=params, new=head, config={**CONFIG, "task_type": "SEQ_CLS"})
    assert adapter.config["modules_to_save"] == ["classifier"]
    assert (
        adapter.tensors["base_model.model.classifier.dense.weight"]
        is head["classifier.dense.weight"]
    )
    adapter = build_adapter(params=params, saved=head)
    assert adapter.config["modules_to_save"] == ["classifier.dense", "classifier.out"]

    bias = tensor((6,))
    adapter = build_adapter(params=params, saved={"q.bias": bias})
    assert adapter.config["bias"] == "lora_only"
    assert adapter.config["modules_to_save"] is None
    assert adapter.tensors["base_model.model.q.base_layer.bias"] is bias
    config = CONFIG | {"bias": "all"}
    adapter = build_adapter(params=params, saved={"norm.bias": bias, "q.bias": bias}, config=config)
    assert adapter.config == config
    assert adapter.tensors["base_model.model.norm.bias"] is bias

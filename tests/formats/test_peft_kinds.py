"""Adapters of other kinds that are wrong or hostile: what is missing, odd or unknown is named."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import (
    BaseMismatch,
    DeltavcError,
    NonFiniteTensor,
    ShapeMismatch,
    UnsafeFile,
    UnsupportedFormat,
)
from deltavc.formats.peft import open_adapter
from deltavc.formats.peft_match import computed, match

PREFIX = "base_model.model."
RANDOM = np.random.default_rng(5)


def numbers(*shape, dtype=np.float32):
    return RANDOM.standard_normal(shape).astype(dtype)


def of(module="q", **tensors):
    return {f"{PREFIX}{module}.{name.replace('__', '.')}": t for name, t in tensors.items()}


LORA = of(lora_A__weight=numbers(2, 6), lora_B__weight=numbers(4, 2))
VERA = {"base_model.vera_A": numbers(3, 6), "base_model.vera_B": numbers(4, 3)}
OFT = {"oft_block_size": 3, "peft_version": "0.21.2"}
# config, tensors of an adapter of a linear layer q (4, 6)
GOOD = {
    "dora": ({"peft_type": "LORA", "r": 2, "use_dora": True},
             LORA | of(lora_magnitude_vector=numbers(4))),
    "bias": ({"peft_type": "LORA", "r": 2, "lora_bias": True}, LORA | of(lora_B__bias=numbers(4))),
    "adalora": ({"peft_type": "ADALORA", "init_r": 2},
                of(lora_A=numbers(2, 6), lora_B=numbers(4, 2), lora_E=numbers(2, 1))),
    "ia3": ({"peft_type": "IA3", "feedforward_modules": []}, of(ia3_l=numbers(4, 1))),
    "loha": ({"peft_type": "LOHA", "r": 2},
             of(hada_w1_a=numbers(4, 2), hada_w1_b=numbers(2, 6), hada_w2_a=numbers(4, 2),
                hada_w2_b=numbers(2, 6))),
    "lokr": ({"peft_type": "LOKR", "r": 1},
             of(lokr_w1=numbers(2, 2), lokr_w2_a=numbers(2, 1), lokr_w2_b=numbers(1, 3))),
    "oft": ({"peft_type": "OFT", **OFT}, of(oft_R__weight=numbers(2, 3))),
    "boft": ({"peft_type": "BOFT"}, of(boft_R=numbers(1, 3, 2, 2), boft_s=numbers(4, 1))),
    "hra": ({"peft_type": "HRA", "r": 2}, of(hra_u=numbers(6, 2))),
    "vera": ({"peft_type": "VERA", "r": 3},
             VERA | of(vera_lambda_b=numbers(4), vera_lambda_d=numbers(3))),
}  # fmt: skip
BASE = {"q.weight": (DTYPES["F32"], (4, 6)), "q.bias": (DTYPES["F32"], (4,))}


def adapter_at(folder, config, tensors):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return open_adapter(folder)


def base_tensor(name):
    dtype, shape = BASE[name]
    return Tensor(dtype, shape, numbers(*shape).reshape(-1).view("<u4"))


def matched(folder, config, tensors, base=None):
    with adapter_at(folder, config, tensors) as adapter:
        return match(adapter, base or BASE, {}, read=base_tensor)


@pytest.mark.parametrize("kind", GOOD)
def test_what_is_sound_is_taken(tmp_path, kind):
    found = matched(tmp_path, *GOOD[kind])
    assert found.params.keys() | found.computed.keys() <= BASE.keys()
    assert "q.weight" in found.params


@pytest.mark.parametrize("kind", GOOD)
def test_a_tensor_that_is_missing(tmp_path, kind):
    config, tensors = GOOD[kind]
    for key in tensors:
        rest = {name: t for name, t in tensors.items() if name != key}
        with pytest.raises((UnsafeFile, UnsupportedFormat, BaseMismatch)) as caught:
            matched(tmp_path, config, rest or of(other=numbers(2)))
        assert caught.value.exit_code in (25, 45, 46)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none(tmp_path, kind, bad):
    config, tensors = GOOD[kind]
    for key in tensors:
        spoilt = {name: t.copy() for name, t in tensors.items()}
        spoilt[key].flat[0] = bad
        with pytest.raises(NonFiniteTensor) as caught:
            matched(tmp_path, config, spoilt)
        assert caught.value.context["tensor"] == key


@pytest.mark.parametrize("kind", GOOD)
def test_a_tensor_of_another_shape(tmp_path, kind):
    config, tensors = GOOD[kind]
    for key, tensor in tensors.items():
        for axis in range(tensor.ndim):
            grown = np.concatenate([tensor, tensor], axis=axis)
            if key in VERA and grown.shape[axis] in (8, 12):
                continue  # the shared matrices may be larger than a module needs
            with pytest.raises((ShapeMismatch, UnsupportedFormat)) as caught:
                matched(tmp_path, config, tensors | {key: grown})
            assert caught.value.exit_code in (45, 48)


@pytest.mark.parametrize("kind", GOOD)
def test_integers_are_no_change(tmp_path, kind):
    config, tensors = GOOD[kind]
    for key in tensors:
        with pytest.raises(UnsupportedFormat):
            matched(tmp_path, config, tensors | {key: np.ones(tensors[key].shape, np.int32)})


@pytest.mark.parametrize("kind", GOOD)
def test_a_tensor_that_no_kind_knows(tmp_path, kind):
    config, tensors = GOOD[kind]
    for odd in ("lora_C.weight", "hada_w3_a", "ia3_m", "oft_s", "vera_lambda_c"):
        with pytest.raises(UnsupportedFormat) as caught:
            matched(tmp_path, config, tensors | of(**{odd.replace(".", "__"): numbers(4)}))
        assert odd in caught.value.context["key"]


@pytest.mark.parametrize("kind", GOOD)
def test_a_module_that_the_base_lacks(tmp_path, kind):
    config, tensors = GOOD[kind]
    with pytest.raises(BaseMismatch) as caught:
        matched(tmp_path, config, tensors, {"k.weight": (DTYPES["F32"], (4, 6))})
    assert "q.weight" in caught.value.context["missing"]


@pytest.mark.parametrize("kind", GOOD)
def test_a_weight_of_another_shape(tmp_path, kind):
    config, tensors = GOOD[kind]
    with pytest.raises(ShapeMismatch):
        matched(tmp_path, config, tensors, {"q.weight": (DTYPES["F32"], (5, 7))} | {
            "q.bias": (DTYPES["F32"], (5,))})  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "flag", "value"),
    [
        ("dora", "lora_bias", True),
        ("dora", "target_parameters", ["experts"]),
        ("adalora", "use_dora", True),
        ("adalora", "layer_replication", [[0, 1]]),
        ("adalora", "rank_pattern", {"q.lora_E": [1, 0]}),
        ("adalora", "rank_pattern", ["q"]),
        ("adalora", "init_r", 0),
        ("ia3", "feedforward_modules", 5),
        ("ia3", "feedforward_modules", [""]),
        ("loha", "alpha", "8"),
        ("loha", "rank_pattern", {"(a+)+": 2}),
        ("lokr", "alpha_pattern", {"q": None}),
        ("oft", "coft", "yes"),
        ("oft", "num_cayley_neumann_terms", 0),
        ("oft", "num_cayley_neumann_terms", 10**6),
        ("oft", "peft_version", "0.17.1"),
        ("oft", "peft_version", None),
        ("oft", "peft_version", "x.y"),
        ("oft", "bias", "lora_only"),
        ("boft", "boft_n_butterfly_factor", 0),
        ("hra", "apply_GS", 1),
        ("hra", "r", 2.0),
        ("vera", "save_projection", False),
        ("vera", "bias", ["all"]),
    ]
    + [(kind, "a_flag_of_tomorrow", True) for kind in GOOD],
)
def test_a_flag_is_named(tmp_path, kind, flag, value):
    config, tensors = GOOD[kind]
    with pytest.raises(UnsupportedFormat) as caught:
        matched(tmp_path, config | {flag: value}, tensors)
    assert caught.value.context["flag"] == flag
    assert caught.value.hint


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("dora", {"use_dora": False}),
        ("bias", {"lora_bias": False}),
        ("dora", {"r": 3}),
        ("adalora", {"init_r": 3}),
        ("adalora", {"rank_pattern": {"q.lora_E": [True, False]}}),
        ("ia3", {"feedforward_modules": ["q"]}),
        ("loha", {"r": 4}),
        ("lokr", {"r": 2}),
        ("oft", {"block_share": True}),
        ("hra", {"r": 1}),
        ("vera", {"r": 4}),
    ],
)
def test_a_config_that_its_tensors_contradict(tmp_path, kind, change):
    config, tensors = GOOD[kind]
    with pytest.raises((ShapeMismatch, UnsupportedFormat)):
        matched(tmp_path, config | change, tensors)


def test_a_bias_is_not_trained_in_two_ways(tmp_path):
    config, tensors = GOOD["bias"]
    with pytest.raises(UnsupportedFormat, match="trains biases twice"):
        matched(tmp_path, config | {"bias": "all"}, tensors)


def test_patterns_of_feedforward_modules_are_not_run(tmp_path):
    """Where the numbers' shape tells, the pattern is not needed; a convolution's does not."""
    config = {"peft_type": "IA3", "feedforward_modules": "(q+)+$"}
    assert matched(tmp_path / "linear", config, of(ia3_l=numbers(4, 1))).params
    with pytest.raises(UnsupportedFormat, match="does not run patterns"):
        matched(tmp_path / "conv", config, of(ia3_l=numbers(1, 4, 1, 1)))


def test_the_inputs_of_a_grouped_convolution(tmp_path):
    """PEFT lets each group see its own inputs' numbers; so the whole weight is computed."""
    base = {"q.weight": (DTYPES["F32"], (4, 3, 2, 2))}
    config = {"peft_type": "IA3", "feedforward_modules": ["q"]}
    scale = numbers(1, 6, 1, 1)
    found = matched(tmp_path, config, of(ia3_l=scale), base)
    change, place = found.computed["q.weight"]
    weight = numbers(4, 3, 2, 2)
    there = Tensor(DTYPES["F32"], weight.shape, weight.reshape(-1).view("<u4"))
    made = computed("q.weight", change, type(place)(place.shape, False, lambda: there))
    expected = weight.astype(np.float64)
    expected[:2] *= scale[:, :3].astype(np.float64)
    expected[2:] *= scale[:, 3:].astype(np.float64)
    assert np.array_equal(made.to_float64(), expected.astype(np.float32))


def test_a_dora_of_weights_that_are_zero(tmp_path):
    config, tensors = GOOD["dora"]
    tensors = tensors | of(lora_B__weight=np.zeros((4, 2), np.float32))
    zeros = Tensor(DTYPES["F32"], (4, 6), np.zeros(24, "<u4"))
    with adapter_at(tmp_path, config, tensors) as adapter:
        found = match(adapter, BASE, {}, read=lambda _: zeros)
        with pytest.raises(NonFiniteTensor, match="divides by their length"):
            computed("q.weight", *found.computed["q.weight"])


EXPERTS = {"peft_type": "LORA", "r": 2, "target_parameters": ["up", "down"]}


def experts(module, outer, inner):
    """Returns the tensors of two wrapped parameters: (A, B) of each."""
    found = of(module, lora_A__weight=numbers(*outer[0]), lora_B__weight=numbers(*outer[1]))
    a, b = (numbers(*shape) for shape in inner)
    return found | of(f"{module}.base_layer", lora_A__weight=a, lora_B__weight=b)


def test_experts_are_told_by_their_shapes(tmp_path):
    base = {"m.up": (DTYPES["F32"], (3, 8, 4)), "m.down": (DTYPES["F32"], (3, 4, 5))}
    tensors = experts("m", ((6, 5), (4, 6)), ((6, 4), (8, 6)))
    found = matched(tmp_path, EXPERTS, tensors, base).params
    shapes = {name: delta.tensor("a").shape for name, (delta,) in found.items()}
    assert shapes == {"m.down": (6, 5), "m.up": (6, 4)}
    assert not any(delta.header.transposed for (delta,) in found.values())


def test_square_experts_lie_as_their_siblings(tmp_path):
    base = {"m.up": (DTYPES["F32"], (3, 4, 8)), "m.down": (DTYPES["F32"], (3, 4, 4))}
    tensors = experts("m", ((6, 4), (4, 6)), ((6, 4), (8, 6)))
    found = matched(tmp_path, EXPERTS, tensors, base)
    assert all(delta.header.transposed for (delta,) in found.params.values())


@pytest.mark.parametrize(
    ("up", "down"), [((3, 4, 4), (3, 4, 4)), ((3, 4, 5), (3, 4, 5))], ids=["alike", "square"]
)
def test_experts_that_nothing_tells_apart(tmp_path, up, down):
    base = {"m.up": (DTYPES["F32"], up), "m.down": (DTYPES["F32"], down)}
    one = ((6, up[2]), (up[1], 6))
    with pytest.raises(UnsupportedFormat, match=r"do not tell|nothing tells"):
        matched(tmp_path, EXPERTS, experts("m", one, one), base)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"])
def test_a_prompt_is_read_and_its_numbers_looked_at(tmp_path, kind):
    tensors = {"prompt_embeddings": numbers(3, 4)}
    with adapter_at(tmp_path, {"peft_type": kind}, tensors) as adapter:
        assert adapter.weightless
        assert adapter.items == []
        assert match(adapter, BASE, {}).params == {}
    tensors["prompt_embeddings"][1, 1] = np.nan
    with pytest.raises(NonFiniteTensor):
        adapter_at(tmp_path, {"peft_type": kind}, tensors)


def test_a_prompt_whose_file_is_cut_off(tmp_path):
    adapter_at(tmp_path, {"peft_type": "CPT"}, {"prompt_embeddings": numbers(3, 4)}).close()
    path = tmp_path / "adapter_model.safetensors"
    for data in (path.read_bytes()[:-1], b"", struct.pack("<Q", 1 << 60)):
        path.write_bytes(data)
        with pytest.raises(DeltavcError) as caught:
            open_adapter(tmp_path)
        assert caught.value.exit_code == 46

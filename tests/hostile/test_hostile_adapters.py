"""Adapter folders that are wrong or hostile: refused with the flag, the name or the count."""

import json
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from deltavc.delta.tensor import DTYPES
from deltavc.errors import (
    BaseMismatch,
    DeltavcError,
    NonFiniteTensor,
    ShapeMismatch,
    UnsafeFile,
    UnsupportedFormat,
)
from deltavc.formats.peft import is_adapter, open_adapter
from deltavc.formats.peft_config import NamePattern
from deltavc.formats.peft_match import match

PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
PREFIX = "base_model.model."


def numbers(*shape, dtype=np.float32):
    return np.random.default_rng(3).standard_normal(shape).astype(dtype)


def factors(module="layer.q", out=4, rank=2, inner=4):
    return {
        f"{PREFIX}{module}.lora_A.weight": numbers(rank, inner),
        f"{PREFIX}{module}.lora_B.weight": numbers(out, rank),
    }


def adapter_at(folder, config=PLAIN, tensors=None):
    folder.mkdir(exist_ok=True, parents=True)
    text = config if isinstance(config, str | bytes) else json.dumps(config)
    data = text.encode() if isinstance(text, str) else text
    (folder / "adapter_config.json").write_bytes(data)
    save_file(factors() if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


def base_of(**shapes):
    return {name.replace("__", "."): (DTYPES["F32"], shape) for name, shape in shapes.items()}


# the config ------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"LORA",
        b"[]",
        b"null",
        b'"LORA"',
        b'{"peft_type": "LORA", "r": 2, "r": 2}',
        b'{"peft_type": "LORA", "r": NaN}',
        b'{"peft_type": "LORA", "lora_alpha": Infinity}',
        b'{"peft_type": "LORA", "lora_alpha": 1e999}',
        b'{"peft_type": "LORA", "r": ' + b"9" * 100 + b"}",
        b'{"peft_type": "LORA", "x": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"peft_type": "LORA", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"peft_type": "LORA", "x": "\\ud800"}',
        b'{"peft_type": "LORA", "x": "\xff"}',
        json.dumps(PLAIN).encode("utf-16"),
        b'{"peft_type": "LORA", "x": "' + b"x" * (17 << 20) + b'"}',
    ],
    ids=range(16),
)
def test_a_config_that_is_not_sound_json(tmp_path, text):
    with pytest.raises(UnsafeFile) as caught:
        open_adapter(adapter_at(tmp_path, text))
    assert caught.value.exit_code == 46


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("use_dora", True),
        ("use_qalora", True),
        ("lora_bias", True),
        ("alora_invocation_tokens", [1, 2]),
        ("layer_replication", [[0, 4], [2, 6]]),
        ("target_parameters", "mlp.experts.gate_up_proj"),
        ("use_dora", 1),
        ("megatron_config", {"hidden_size": 1}),
        ("arrow_config", {"top_k": 3}),
        ("kasa_config", {"beta": 1}),
        ("monteclora_config", {"num_samples": 8}),
        ("use_bdlora", {"nblocks": 2}),
        ("a_flag_of_tomorrow", True),
        ("another_one", {"x": 1}),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "new_method"),
        ("init_lora_weights", ["pissa"]),
        ("r", 0),
        ("r", -1),
        ("r", 2.0),
        ("r", True),
        ("r", "2"),
        ("r", 10**30),
        ("lora_alpha", "4"),
        ("lora_alpha", None),
        ("lora_alpha", True),
        ("lora_alpha", 10**30),
        ("lora_alpha", 1e300),
        ("bias", "some"),
        ("bias", ["all"]),
        ("use_rslora", "yes"),
        ("use_rslora", 1),
        ("fan_in_fan_out", [True]),
        ("modules_to_save", "head"),
        ("modules_to_save", [""]),
        ("modules_to_save", [1]),
        ("rank_pattern", ["q"]),
        ("rank_pattern", {"q": 0}),
        ("rank_pattern", {"q": 2.5}),
        ("alpha_pattern", {"q": "4"}),
        ("trainable_token_indices", "5"),
        ("trainable_token_indices", [-1]),
        ("trainable_token_indices", [1, 1]),
        ("trainable_token_indices", [1.5]),
        ("trainable_token_indices", [10**30]),
        ("trainable_token_indices", {"embed": 5}),
    ],
)
def test_a_field_that_is_not_understood_is_named(tmp_path, flag, value):
    with pytest.raises(UnsupportedFormat) as caught:
        open_adapter(adapter_at(tmp_path, PLAIN | {flag: value}))
    assert caught.value.context["flag"] == flag
    assert caught.value.exit_code == 45
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["C3A", "XLORA", "lora", "", None, 5, ["LORA"], "\x1b[2J"])
def test_other_types_of_adapter(tmp_path, kind):
    with pytest.raises(UnsupportedFormat, match="of type") as caught:
        open_adapter(adapter_at(tmp_path, PLAIN | {"peft_type": kind}))
    assert str(caught.value).isprintable()


def test_fields_that_do_not_matter_are_passed_over(tmp_path):
    harmless = {
        "base_model_name_or_path": "../../etc/passwd",
        "auto_mapping": {"base_model_class": "os.system", "parent_library": "os"},
        "target_modules": "((a+)+)+$",
        "exclude_modules": ["(a*)*b"],
        "layers_pattern": "(.*)*",
        "revision": "main",
        "lora_dropout": 0.9,
        "loftq_config": {},
        "eva_config": {"rho": 2.0},
        "a_flag_of_tomorrow": None,
        "another_one": False,
    }
    with open_adapter(adapter_at(tmp_path, PLAIN | harmless)) as adapter:
        assert len(adapter.items) == 1
        assert adapter.config["revision"] == "main"


CATASTROPHIC = ["(a+)+$", "(a|a)*b", "(.*a){20}", "a{1,99999}", "[a", "(?P<x>", "(?:a*)*", "x*"]


@pytest.mark.timeout(5)
@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("pattern", [*CATASTROPHIC, ".*q", "q|k", "q+", "\\w", "a\\", "q$$", "^^q"])
def test_patterns_are_not_run(tmp_path, field, pattern):
    started = time.perf_counter()
    tensors = factors("a" * 60 + "!")
    with pytest.raises(UnsupportedFormat) as caught:
        open_adapter(adapter_at(tmp_path, PLAIN | {field: {pattern: 2}}, tensors))
    assert time.perf_counter() - started < 1
    assert caught.value.context["flag"] == field


@pytest.mark.parametrize(
    ("key", "name", "expected"),
    [
        ("q", "q", True),
        ("q", "layer.q", True),
        ("q", "layer.qq", False),
        ("q", "layer.xq", False),
        ("q", "q.layer", False),
        ("layer.q", "model.layer.q", True),
        ("layer.q", "model.layerxq", True),  # a dot is any character, as in PEFT
        ("layer.q", "my_layer.q", False),
        (r"layer\.q", "model.layerxq", False),
        (r"layer\.q", "model.layer.q", True),
        ("^layer.q", "layer.q", True),
        ("^layer.q", "model.layer.q", False),
        ("^layer.q$", "layer.q", True),
        ("longer.than.the.name", "name", False),
        ("", "q", False),
        ("0.q", "layers.10.q", False),
        ("..q", "layer.q", False),
        ("...q", "a.bc.q", True),
    ],
)
def test_names_in_patterns_mean_what_they_mean_in_peft(key, name, expected):
    import re

    assert NamePattern(key, "rank_pattern").matches(name) is expected
    assert bool(re.match(rf"(.*\.)?({key})$", name)) is expected  # the pattern that PEFT builds


# the tensors -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ({}, UnsupportedFormat),
        ({"layer.q.lora_A.weight": numbers(2, 4)}, UnsupportedFormat),
        ({f"{PREFIX}q.lora_A.weight": numbers(2, 4)}, UnsafeFile),
        ({f"{PREFIX}q.lora_embedding_B": numbers(4, 2)}, UnsafeFile),
        (factors(rank=3), ShapeMismatch),
        (factors() | {f"{PREFIX}layer.q.lora_B.weight": numbers(4, 3)}, ShapeMismatch),
        (factors() | {f"{PREFIX}layer.q.lora_A.weight": numbers(8)}, ShapeMismatch),
        (factors() | {f"{PREFIX}layer.q.lora_A.weight": numbers(0, 4)}, ShapeMismatch),
        (factors() | {f"{PREFIX}layer.q.lora_B.weight": numbers(4, 2, 1)}, ShapeMismatch),
        (
            {
                f"{PREFIX}c.lora_A.weight": numbers(2, 4, 3),
                f"{PREFIX}c.lora_B.weight": numbers(6, 2, 2),
            },
            ShapeMismatch,
        ),
        (
            {
                f"{PREFIX}c.lora_A.weight": numbers(2, 4, 3),
                f"{PREFIX}c.lora_B.weight": numbers(6, 1, 1),
            },
            UnsupportedFormat,
        ),
        (
            factors("e")
            | {
                f"{PREFIX}e.lora_embedding_A": numbers(2, 4),
                f"{PREFIX}e.lora_embedding_B": numbers(4, 2),
            },
            UnsafeFile,
        ),
        (factors() | {f"{PREFIX}layer.q.lora_magnitude_vector": numbers(4)}, UnsupportedFormat),
        (factors() | {f"{PREFIX}layer.q.lora_B.bias": numbers(4)}, UnsupportedFormat),
        (factors() | {f"{PREFIX}layer.q.lora_new.weight": numbers(4)}, UnsupportedFormat),
        (factors() | {f"{PREFIX}layer.q.lora_A.default.weight": numbers(4)}, UnsupportedFormat),
        (factors("a.base_layer.out_proj"), UnsupportedFormat),
        (
            {
                f"{PREFIX}q.lora_A.weight": np.ones((2, 4), np.int8),
                f"{PREFIX}q.lora_B.weight": numbers(4, 2),
            },
            UnsupportedFormat,
        ),
        (
            {
                f"{PREFIX}h.modules_to_save.bias": numbers(2),
                f"{PREFIX}h.bias": numbers(2) + 1,
            },
            UnsafeFile,
        ),
        (
            factors() | {f"{PREFIX}e.token_adapter.trainable_tokens_delta": numbers(2, 4)},
            ShapeMismatch,
        ),
    ],
    ids=range(20),
)
def test_tensors_that_do_not_make_an_adapter(tmp_path, tensors, error):
    with pytest.raises(error):
        open_adapter(adapter_at(tmp_path, PLAIN, tensors))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["layer.q.lora_A.weight", "layer.q.lora_B.weight", "head.weight"])
def test_numbers_that_are_none(tmp_path, bad, key):
    tensors = factors() | {f"{PREFIX}head.weight": numbers(3, 4)}
    tensors[PREFIX + key].reshape(-1)[-1] = bad
    with pytest.raises(NonFiniteTensor) as caught:
        open_adapter(adapter_at(tmp_path, PLAIN, tensors))
    assert caught.value.context["tensor"] == PREFIX + key
    assert caught.value.exit_code == 47


def test_trained_tokens_that_the_file_lacks(tmp_path):
    config = PLAIN | {"trainable_token_indices": [1, 2]}
    with pytest.raises(UnsafeFile, match="trained tokens"):
        open_adapter(adapter_at(tmp_path, config))


def test_a_folder_without_weights_or_config(tmp_path):
    assert not is_adapter(tmp_path)
    assert not is_adapter(tmp_path / "none")
    assert not is_adapter(tmp_path / "a\0b")
    with pytest.raises(UnsupportedFormat):
        open_adapter(tmp_path)
    adapter_at(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    assert is_adapter(tmp_path)
    with pytest.raises(UnsupportedFormat):
        open_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeFile, match="pickle"):
        open_adapter(tmp_path)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_pipe_never_blocks(tmp_path, name):
    import os

    adapter_at(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(UnsafeFile, match="pipe"):
        open_adapter(tmp_path)


def test_only_readme_and_tokenizer_go_along(tmp_path):
    adapter_at(tmp_path)
    for name in ("README.md", "tokenizer.json", "training_args.bin", "notes.txt", "run.py"):
        (tmp_path / name).write_text("x")
    with open_adapter(tmp_path) as adapter:
        assert sorted(adapter.files) == ["README.md", "tokenizer.json"]


# the base --------------------------------------------------------------------


def matched(folder, base, tied=None):
    with open_adapter(folder) as adapter:
        return match(adapter, base, tied or {})


def test_a_name_that_could_be_two_is_not_guessed(tmp_path):
    base = base_of(text__layer__q__weight=(4, 4), image__layer__q__weight=(4, 4))
    with pytest.raises(BaseMismatch, match="could be") as caught:
        matched(adapter_at(tmp_path), base)
    assert sorted(caught.value.context["candidates"]) == [
        "image.layer.q.weight",
        "text.layer.q.weight",
    ]


def test_of_two_places_the_one_that_fits_all(tmp_path):
    tensors = factors("layer.q") | factors("layer.k")
    base = base_of(
        text__layer__q__weight=(4, 4),
        image__layer__q__weight=(4, 4),
        image__layer__k__weight=(4, 4),
    )
    found = matched(adapter_at(tmp_path, PLAIN, tensors), base)
    assert found.prefix == "-image."


def test_the_adapters_own_names_come_first(tmp_path):
    base = base_of(layer__q__weight=(4, 4), wrapper__layer__q__weight=(4, 4))
    assert matched(adapter_at(tmp_path), base).prefix == ""


def test_only_names_with_whole_components_match(tmp_path):
    with pytest.raises(BaseMismatch):
        matched(adapter_at(tmp_path), base_of(my_layer__q__weight=(4, 4)))


def test_five_names_are_shown_and_all_are_listed(tmp_path):
    tensors = {}
    for i in range(9):
        tensors |= factors(f"layer.{i}")
    with pytest.raises(BaseMismatch, match="and 4 more") as caught:
        matched(adapter_at(tmp_path, PLAIN, tensors), base_of(x=(1,)))
    assert len(caught.value.context["missing"]) == caught.value.context["count"] == 9


def test_a_parameter_that_belongs_nowhere(tmp_path):
    tensors = factors() | {f"{PREFIX}extra.weight": numbers(2, 4)}
    base = base_of(layer__q__weight=(4, 4))
    with pytest.raises(BaseMismatch, match="'extra\\.weight' is missing"):
        matched(adapter_at(tmp_path, PLAIN, tensors), base)
    config = PLAIN | {"modules_to_save": ["extra"]}
    assert list(matched(adapter_at(tmp_path, config, tensors), base).new) == ["extra.weight"]


@pytest.mark.parametrize(
    ("given", "known", "fits"),
    [((3, 4), (2, 4), True), ((3, 4), (2, 5), False), ((3, 4), (4,), False), ((3,), (2,), False)],
)
def test_a_head_may_have_other_classes_but_not_other_inputs(tmp_path, given, known, fits):
    tensors = factors() | {f"{PREFIX}head.weight": numbers(*given)}
    folder = adapter_at(tmp_path, PLAIN | {"modules_to_save": ["head"]}, tensors)
    base = base_of(layer__q__weight=(4, 4), head__weight=known)
    if fits:
        assert matched(folder, base).replaced["head.weight"].shape == given
    else:
        with pytest.raises(ShapeMismatch):
            matched(folder, base)


def test_rows_beyond_the_embedding(tmp_path):
    tensors = factors() | {f"{PREFIX}e.token_adapter.trainable_tokens_delta": numbers(2, 4)}
    folder = adapter_at(tmp_path, PLAIN | {"trainable_token_indices": [9, 3]}, tensors)
    with pytest.raises(ShapeMismatch):
        matched(folder, base_of(layer__q__weight=(4, 4), e__weight=(9, 4)))
    found = matched(folder, base_of(layer__q__weight=(4, 4), e__weight=(10, 4)))
    delta = found.params["e.weight"][0]
    assert delta.row_index().tolist() == [3, 9]
    expected = tensors[f"{PREFIX}e.token_adapter.trainable_tokens_delta"][::-1]
    assert delta.values().to_float64().tolist() == expected.tolist()


def test_a_quantised_base(tmp_path):
    base = {"layer.q.weight": (DTYPES["I8"], (4, 4))}
    with pytest.raises(UnsupportedFormat, match="cannot be added"):
        matched(adapter_at(tmp_path), base)


def test_a_square_weight_that_nothing_orients(tmp_path):
    tensors = factors("a") | factors("b", out=6)
    base = base_of(a__weight=(4, 4), b__weight=(4, 6))  # b lies transposed, the config says not
    folder = adapter_at(tmp_path, PLAIN, tensors)
    with pytest.raises(UnsupportedFormat, match="transposed"):
        matched(folder, base)
    told = base | base_of(c__a__weight=(4, 8), c__a__bias=(8,))
    assert matched(folder, told).params["a.weight"][0].header.transposed


def test_a_hostile_number_of_names_ends_soon(tmp_path):
    deep = ".".join("abcdefgh" * 25)
    tensors = {}
    for i in range(300):
        tensors |= factors(f"{deep}.{i}")
    folder = adapter_at(tmp_path, PLAIN, tensors)
    base = {f"{p}.{deep}.0.weight": (DTYPES["F32"], (4, 4)) for p in range(1000)}
    started = time.perf_counter()
    with pytest.raises(DeltavcError):
        matched(folder, base)
    assert time.perf_counter() - started < 5

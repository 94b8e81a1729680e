"""Adapters made by PEFT itself: names, shapes, scales and orientations against its own merge."""

import json
import os
import warnings
from fractions import Fraction

import numpy as np
import pytest

from deltavc.delta.kinds import Delta
from deltavc.errors import BaseMismatch, ShapeMismatch, UnsupportedFormat
from deltavc.formats.checkpoint import open_checkpoint
from deltavc.formats.peft import Factors, open_adapter
from deltavc.formats.peft_match import match, own_name

pytestmark = pytest.mark.interop

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def bert(cls="BertModel", **extra):
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, **extra,
    )  # fmt: skip
    return getattr(transformers, cls)(config)


def llama(*, tied=False):
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


class Convolutions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one = torch.nn.Conv1d(4, 6, 3)
        self.two = torch.nn.Conv2d(4, 6, (3, 2))
        self.three = torch.nn.Conv3d(4, 6, (1, 2, 3))
        self.point = torch.nn.Conv2d(4, 6, 1)
        self.norm = torch.nn.BatchNorm1d(4)
        self.grouped = torch.nn.Conv1d(4, 8, 3, groups=2)

    def forward(self, x):
        return self.one(x)


def trained(model, **config):
    """Returns a PEFT model in float64 whose adapter weights are all random."""
    torch.manual_seed(7)
    settings = peft.LoraConfig(**config)
    if config.get("init_lora_weights") == "mica":  # cannot be started in float64
        model = peft.get_peft_model(model.float(), settings).double()
    else:
        model = peft.get_peft_model(model.double(), settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or "lora_" in name:
                parameter.copy_(torch.randn_like(parameter))
    return model


def save_base(model, folder):
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        from safetensors.torch import save_file

        folder.mkdir()
        save_file(model.state_dict(), folder / "model.safetensors")


def applied(base, deltas: list[Delta]):
    """Adds deltas to a float64 array the plain way."""
    value = base.copy()
    for delta in deltas:
        if delta.kind == "lowrank":
            left, right = delta.matrices()
            value = value + float(delta.scale) * (left @ right).reshape(delta.shape)
        else:
            value[delta.row_index().astype(int)] = delta.values().to_float64()
    return value


def rebuilt(folder, adapter_folder):
    """Returns the base's tensors with the adapter's changes, as float64, and the match."""
    with open_checkpoint(folder) as base, open_adapter(adapter_folder) as adapter:
        entries = {name: (e.dtype, e.shape) for name, e in base.entries.items()}
        matched = match(adapter, entries, base.tied, read=base.tensor)
        values = {
            name: base.tensor(name).to_float64()
            for name, entry in base.entries.items()
            if entry.dtype.arithmetic
        }
        for name, deltas in matched.params.items():
            values[name] = applied(values[name], deltas)
        for name, tensor in matched.replaced.items():
            if tensor.dtype.arithmetic:
                values[name] = tensor.to_float64()
        for name, delta in matched.new.items():
            values[name] = delta.values().to_float64()
    return values, matched


def check(tmp_path, make, config, *, rename=lambda name: name):
    """Compares our reading of an adapter with PEFT's merge, tensor by tensor."""
    torch.manual_seed(1)
    base = make().double()
    save_base(base, tmp_path / "base")
    model = trained(base, **config)
    model.save_pretrained(tmp_path / "adapter")
    values, matched = rebuilt(tmp_path / "base", tmp_path / "adapter")
    merged = model.merge_and_unload().state_dict()
    compared = 0
    for name, tensor in merged.items():
        if tensor.is_floating_point() and rename(name) in values:
            expected = tensor.numpy()
            np.testing.assert_allclose(values[rename(name)], expected, rtol=1e-12, atol=1e-12)
            compared += 1
    assert compared == len(values)
    return matched


LINEAR = ["query", "dense"]


def test_a_plain_lora(tmp_path):
    matched = check(tmp_path, bert, {"r": 4, "lora_alpha": 6, "target_modules": LINEAR})
    assert len(matched.params) == 9  # query and three dense a layer, and the pooler's
    assert matched.prefix == ""
    assert {d.scale for deltas in matched.params.values() for d in deltas} == {Fraction(3, 2)}


def test_rank_stabilised_scale_is_the_nearest_float64(tmp_path):
    config = {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": ["query"]}
    matched = check(tmp_path, bert, config)
    scale = matched.params["encoder.layer.0.attention.self.query.weight"][0].scale
    assert scale == Fraction(float(scale))
    below, above = (Fraction(np.nextafter(float(scale), to)) for to in (-np.inf, np.inf))
    assert ((below + scale) / 2) ** 2 * 3 < 25 < ((above + scale) / 2) ** 2 * 3


def test_ranks_and_alphas_by_name(tmp_path):
    config = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": LINEAR,
        "rank_pattern": {"layer.0.attention.self.query": 2, "^pooler.dense": 5},
        "alpha_pattern": {"output.dense": 3, "query": 16},
    }
    matched = check(tmp_path, bert, config)
    one = matched.params["encoder.layer.0.attention.self.query.weight"][0]
    assert (one.rank, one.scale) == (2, 8)
    assert matched.params["pooler.dense.weight"][0].rank == 5
    assert matched.params["encoder.layer.1.output.dense.weight"][0].scale == Fraction(3, 4)


def test_gpt2_weights_lie_transposed(tmp_path):
    config = {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
    matched = check(tmp_path, gpt2, config)
    assert all(deltas[0].header.transposed for deltas in matched.params.values())


def test_a_square_gpt2_weight_is_told_by_its_siblings_when_the_flag_is_wrong(tmp_path):
    def untied():
        model = gpt2()
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        return model

    config = {"r": 4, "target_modules": ["c_proj", "lm_head"]}
    matched = check(tmp_path, untied, config)
    written = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert written["fan_in_fan_out"] is False  # as the head needs it, not as c_proj does
    assert matched.params["transformer.h.0.attn.c_proj.weight"][0].header.transposed
    assert not matched.params["lm_head.weight"][0].header.transposed


def test_an_embedding_and_its_copy_in_the_adapter(tmp_path):
    config = {"r": 4, "target_modules": ["embed_tokens", "q_proj"]}
    matched = check(tmp_path, llama, config)
    delta = matched.params["model.embed_tokens.weight"][0]
    assert (delta.header.layer, delta.header.transposed) == ("embedding", True)
    assert list(matched.copies) == ["model.embed_tokens.weight"]
    assert "model.embed_tokens.weight" not in matched.replaced


def test_convolutions_and_saved_buffers(tmp_path):
    config = {
        "r": 2,
        "target_modules": ["one", "two", "three", "point"],
        "modules_to_save": ["norm"],
    }
    matched = check(tmp_path, Convolutions, config)
    assert matched.params["three.weight"][0].header.layer == "conv"
    assert matched.replaced["norm.num_batches_tracked"].dtype.name == "I64"


def test_a_grouped_convolution_is_refused(tmp_path):
    trained(Convolutions(), r=2, target_modules=["grouped"]).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedFormat, match="grouped"):
        open_adapter(tmp_path)


def test_attention_in_one_module_is_refused(tmp_path):
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(8, 2)

    trained(Attention(), r=2, target_modules=["attention"]).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedFormat, match="another adapted layer"):
        open_adapter(tmp_path)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_come_whole(tmp_path, bias):
    config = {"r": 2, "target_modules": ["query"], "bias": bias}
    matched = check(tmp_path, bert, config)
    assert "encoder.layer.1.attention.self.query.bias" in matched.replaced
    assert ("pooler.dense.bias" in matched.replaced) is (bias == "all")


def test_a_head_that_the_base_lacks_is_new(tmp_path):
    def classifier():
        return bert("BertForSequenceClassification", num_labels=3)

    torch.manual_seed(1)
    whole = classifier().double()
    save_base(whole.bert, tmp_path / "base")  # the bare encoder: no wrapper's name, no head
    model = trained(whole, r=4, target_modules=["query"], task_type="SEQ_CLS", bias="all")
    model.save_pretrained(tmp_path / "adapter")
    values, matched = rebuilt(tmp_path / "base", tmp_path / "adapter")
    assert matched.prefix == "bert."
    assert sorted(matched.new) == ["classifier.bias", "classifier.weight"]
    merged = model.merge_and_unload().state_dict()
    for name, tensor in merged.items():
        if name != "bert.embeddings.position_ids":
            expected = tensor.numpy()
            found = values[name.removeprefix("bert.")]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    for name, base_name in matched.names.items():
        if base_name not in matched.new:
            assert own_name(base_name, matched.prefix) == name


def test_a_prefix_that_only_the_base_has(tmp_path):
    torch.manual_seed(1)
    whole = bert("BertForMaskedLM").double()
    save_base(whole, tmp_path / "base")
    trained(whole.bert, r=4, target_modules=["query"]).save_pretrained(tmp_path / "adapter")
    _, matched = rebuilt(tmp_path / "base", tmp_path / "adapter")
    assert matched.prefix == "-bert."
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert name in matched.params
    assert own_name(name, matched.prefix) == name.removeprefix("bert.")


def test_trained_tokens_are_rows(tmp_path):
    config = {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [9, 3, 27]}
    matched = check(tmp_path, lambda: llama(tied=True), config)
    delta = matched.params["model.embed_tokens.weight"][0]
    assert delta.row_index().tolist() == [3, 9, 27]


def test_trained_tokens_take_the_dtype_of_the_base(tmp_path):
    torch.manual_seed(1)
    base = llama().to(torch.bfloat16)
    save_base(base, tmp_path / "base")
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 1]}
    )
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        layer = model.base_model.model.model.embed_tokens.token_adapter
        layer.trainable_tokens_delta["default"].copy_(torch.randn(2, 16))
    model.save_pretrained(tmp_path / "adapter")
    _, matched = rebuilt(tmp_path / "base", tmp_path / "adapter")
    rows = matched.params["model.embed_tokens.weight"][0].values()
    assert rows.dtype.name == "BF16"
    merged = model.merge_and_unload().state_dict()["model.embed_tokens.weight"]
    expected = merged[[1, 5]].view(torch.uint16).numpy()
    assert np.array_equal(rows.bits.reshape(2, 16), expected)


def test_an_adapter_on_a_tied_head_changes_the_one_tensor(tmp_path):
    torch.manual_seed(1)
    base = llama(tied=True).double()
    save_base(base, tmp_path / "base")
    trained(base, r=2, target_modules=["lm_head"]).save_pretrained(tmp_path / "adapter")
    values, matched = rebuilt(tmp_path / "base", tmp_path / "adapter")
    assert "lm_head.weight" not in values
    assert list(matched.params) == ["model.embed_tokens.weight"]
    assert matched.ties == {"lm_head.weight": "model.embed_tokens.weight"}


def test_a_tied_pair_of_factors_counts_once(tmp_path):
    torch.manual_seed(1)
    base = llama(tied=True).double()
    save_base(base, tmp_path / "base")
    model = trained(base, r=2, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True)
    model.save_pretrained(tmp_path / "adapter")
    _, matched = rebuilt(tmp_path / "base", tmp_path / "adapter")
    assert len(matched.params["model.embed_tokens.weight"]) == 1


def test_two_changes_of_tied_weights_are_refused(tmp_path):
    torch.manual_seed(1)
    base = llama(tied=True).double()
    save_base(base, tmp_path / "base")
    model = trained(base, r=2, target_modules=["embed_tokens", "lm_head"])
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UnsupportedFormat, match="two ways"):
        rebuilt(tmp_path / "base", tmp_path / "adapter")


def test_an_embedding_copy_of_another_base_is_refused(tmp_path):
    torch.manual_seed(1)
    save_base(llama().double(), tmp_path / "base")
    model = trained(llama(), r=2, target_modules=["embed_tokens"])
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(BaseMismatch, match="other values"):
        rebuilt(tmp_path / "base", tmp_path / "adapter")


def test_another_width_is_a_shape_mismatch(tmp_path):
    save_base(bert(), tmp_path / "base")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=16,
    )  # fmt: skip
    wide = trained(transformers.BertModel(config), r=2, target_modules=["query"])
    wide.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ShapeMismatch) as caught:
        rebuilt(tmp_path / "base", tmp_path / "adapter")
    assert len(caught.value.context["parameters"]) == 2


def test_a_deeper_model_matches_only_in_part(tmp_path):
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    save_base(bert(), tmp_path / "base")
    deep = trained(transformers.BertModel(config), r=2, target_modules=["query"])
    deep.save_pretrained(tmp_path / "adapter")
    with pytest.raises(BaseMismatch) as caught:
        rebuilt(tmp_path / "base", tmp_path / "adapter")
    assert caught.value.context["missing"] == ["encoder.layer.2.attention.self.query.weight"]
    assert caught.value.exit_code == 25


@pytest.mark.parametrize(
    ("flag", "config"),
    [
        ("layer_replication", {"layer_replication": [(0, 2), (1, 2)]}),
        ("alora_invocation_tokens", {"alora_invocation_tokens": [1, 2], "task_type": "CAUSAL_LM"}),
        ("init_lora_weights", {"init_lora_weights": "pissa"}),
        ("init_lora_weights", {"init_lora_weights": "olora"}),
    ],
)
def test_what_changes_the_delta_is_refused_by_name(tmp_path, flag, config):
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], **config)
    model = peft.get_peft_model(llama(), settings)
    model.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedFormat) as caught:
        open_adapter(tmp_path)
    assert caught.value.context["flag"] == flag
    assert flag in str(caught.value) or flag == "init_lora_weights"


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "mica"])
def test_an_initialisation_that_leaves_the_base_alone_is_taken(tmp_path, init):
    check(tmp_path, llama, {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": init})


def test_other_adapter_types_are_refused(tmp_path):
    config = peft.C3AConfig(block_size=4, target_modules=["q_proj"])
    peft.get_peft_model(llama(), config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedFormat, match="'C3A'"):
        open_adapter(tmp_path)


def test_a_training_aid_in_the_file_is_passed_over(tmp_path):
    velora = peft.tuners.lora.config.VeloraConfig(num_groups=4)
    config = {"r": 2, "target_modules": ["q_proj"], "velora_config": velora}
    check(tmp_path, llama, config)


def test_every_field_of_the_installed_peft_is_decided():
    from deltavc.formats.peft_config import HARMLESS, READ, REFUSED

    known = HARMLESS | READ | set(REFUSED)
    fields = set(peft.LoraConfig(r=2).to_dict())
    assert fields - known == set()


def test_pickled_weights_need_permission(tmp_path):
    model = trained(llama(), r=2, target_modules=["q_proj"])
    model.save_pretrained(tmp_path, safe_serialization=False)
    from deltavc.errors import UnsafeFile

    with pytest.raises(UnsafeFile):
        open_adapter(tmp_path)
    with open_adapter(tmp_path, allow_pickle=True) as adapter:
        assert all(isinstance(item, Factors) for item in adapter.items)

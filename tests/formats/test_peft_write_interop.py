"""What deltavc writes, PEFT loads: same tensors, same config, same model."""

import json
import os
import warnings
from fractions import Fraction

import pytest

from deltavc.formats.checkpoint import open_checkpoint
from deltavc.formats.peft import open_adapter
from deltavc.formats.peft_match import match
from deltavc.formats.peft_write import write_adapter

pytestmark = pytest.mark.interop

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def llama():
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def gpt2():
    torch.manual_seed(2)
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=0,
        eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def bert_classifier():
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


class Convolutions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.one = torch.nn.Conv1d(4, 6, 3)
        self.two = torch.nn.Conv2d(4, 6, (3, 2))
        self.last = torch.nn.Linear(6, 5)

    def forward(self, x):
        return self.one(x)


def save_base(make, folder):
    model = make()
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        folder.mkdir()
        safetensors_torch.save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def train(make, folder, seed, *, dtype=torch.float32, **config):
    """Saves an adapter with random weights, as PEFT saves it."""
    model = peft.get_peft_model(make(), peft.LoraConfig(**config))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or "lora_" in name:
                parameter.copy_(torch.randn_like(parameter).to(dtype) * 0.1)
    model.save_pretrained(folder, save_embedding_layers=False)
    if dtype is not torch.float32:
        tensors = safetensors_torch.load_file(folder / WEIGHTS)
        tensors = {key: value.to(dtype) for key, value in tensors.items()}
        safetensors_torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def read(base_folder, adapter_folder):
    """Returns what write_adapter takes, from an adapter and its base."""
    with open_checkpoint(base_folder) as base, open_adapter(adapter_folder) as adapter:
        entries = {name: (e.dtype, e.shape) for name, e in base.entries.items()}
        found = match(adapter, entries, base.tied)
        return {
            "params": {n: [(d, Fraction(1)) for d in ds] for n, ds in found.params.items()},
            "saved": found.replaced,
            "new": {name: delta.values() for name, delta in found.new.items()},
            "config": adapter.config,
            "prefix": found.prefix,
        }


def merged(make, folder):
    model = peft.PeftModel.from_pretrained(make().double(), folder)
    return {k: v.double() for k, v in model.merge_and_unload().state_dict().items()}


CASES = {
    "llama": (llama, {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "up_proj"],
                      "task_type": "CAUSAL_LM"}),
    "llama-all": (llama, {"r": 3, "lora_alpha": 5, "use_rslora": True,
                          "target_modules": "all-linear", "rank_pattern": {"q_proj": 6},
                          "alpha_pattern": {"layers.0.mlp.up_proj": 7}}),
    "llama-embedding": (llama, {"r": 4, "target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "gpt2": (gpt2, {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "gpt2-head": (gpt2, {"r": 4, "target_modules": ["c_attn", "lm_head"], "fan_in_fan_out": True}),
    "bert": (bert_classifier, {"r": 4, "target_modules": ["query", "value"],
                               "task_type": "SEQ_CLS", "bias": "lora_only"}),
    "conv": (Convolutions, {"r": 2, "lora_alpha": 6, "target_modules": ["one", "two", "last"]}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_goes_in_and_comes_out_the_same(tmp_path, case):
    make, config = CASES[case]
    base = save_base(make, tmp_path / "base")
    came = train(make, tmp_path / "came", 5, **config)
    written = write_adapter(tmp_path / "out", **read(base, came))
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (came / WEIGHTS).read_bytes()
    assert written.config == json.loads((came / "adapter_config.json").read_text())
    one, other = merged(make, came), merged(make, tmp_path / "out")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("case", ["llama", "llama-embedding", "gpt2", "gpt2-head", "bert", "conv"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sum_of_adapters_is_one_that_peft_merges_to_the_same_model(tmp_path, case, dtype):
    make, config = CASES[case]
    config = {k: v for k, v in config.items() if k != "bias"}
    base = save_base(make, tmp_path / "base")
    more = config | {"r": 5, "lora_alpha": 20, "target_modules": config["target_modules"][:-1]}
    folders = [
        train(make, tmp_path / "a", 6, dtype=dtype, **config),
        train(make, tmp_path / "b", 7, dtype=dtype, **more),
    ]
    parts = [read(base, folder) for folder in folders]
    coefficients = (Fraction(3, 4), Fraction(-2))
    if dtype is torch.float32:  # its factors have no bits to spare: shares in a ratio of 1 to -2
        first = Fraction(config.get("lora_alpha", 8), config["r"])
        coefficients = (Fraction(3, 4), -Fraction(3, 4) * first / 2)
    params = {}
    for part, coefficient in zip(parts, coefficients, strict=True):
        for name, ((delta, _),) in part["params"].items():
            params.setdefault(name, []).append((delta, coefficient))
    write_adapter(tmp_path / "out", **parts[0] | {"params": params})

    plain = {name: value.double() for name, value in make().state_dict().items()}
    expected = dict(plain)
    for folder, coefficient in zip(folders, coefficients, strict=True):
        for name, value in merged(make, folder).items():
            expected[name] = expected[name] + float(coefficient) * (value - plain[name])
    found = merged(make, tmp_path / "out")
    changed = 0
    for name in plain:
        if name.startswith("classifier"):  # saved whole, not summed
            assert torch.equal(found[name], merged(make, folders[0])[name])
            continue
        assert torch.allclose(found[name], expected[name], rtol=0, atol=2e-6), name
        changed += not torch.equal(found[name], plain[name])
    assert changed == len(params)


def test_a_head_that_the_base_lacks_and_logits(tmp_path):
    def make():
        return bert_classifier().eval()

    base = tmp_path / "base"
    make().bert.save_pretrained(base)
    came = train(make, tmp_path / "came", 8, r=2, target_modules=["query"], task_type="SEQ_CLS")
    parts = read(base, came)
    assert sorted(parts["new"]) == ["classifier.bias", "classifier.weight"]
    assert parts["prefix"] == "bert."
    halved = {n: [(d, Fraction(1, 2))] for n, ((d, _),) in parts["params"].items()}
    tokens = torch.arange(10)[None]
    for params, same in ((parts["params"], True), (halved, False)):
        write_adapter(tmp_path / "out", **parts | {"params": params}, replace=True)
        logits = [
            peft.PeftModel.from_pretrained(make(), f).eval()(tokens).logits
            for f in (came, tmp_path / "out")
        ]
        assert torch.equal(*logits) == same
        assert torch.isfinite(logits[1]).all()

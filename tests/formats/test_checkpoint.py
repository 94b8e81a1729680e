"""Model folders: which files are weights, what goes along, what is refused."""

import json
import os
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from deltavc.errors import UnsafeFile, UnsupportedFormat
from deltavc.formats.checkpoint import open_checkpoint
from deltavc.formats.files import list_folder, open_regular

WEIGHTS = {
    "embed.weight": np.arange(12, dtype=np.float32).reshape(4, 3),
    "layer.bias": np.zeros(3, np.float16),
}


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def sharded(folder, shards, weight_map=None):
    folder.mkdir(exist_ok=True)
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    if weight_map is None:
        weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return folder


TWO = {
    "model-00001-of-00002.safetensors": {"a": np.ones(2)},
    "model-00002-of-00002.safetensors": {"b": np.zeros((2, 2)), "c": np.ones(1, np.int64)},
}
ONE, OTHER = TWO


def test_a_single_file(tmp_path):
    save_file(WEIGHTS, tmp_path / "anything.safetensors", {"format": "pt"})
    with open_checkpoint(tmp_path / "anything.safetensors") as found:
        assert found.total_bytes == 12 * 4 + 3 * 2
        assert found.tensor("embed.weight").to_float64().tolist() == (
            WEIGHTS["embed.weight"].tolist()
        )
        assert [w.name for w in found.layout] == ["anything.safetensors"]
        assert found.layout[0].metadata == {"format": "pt"}
        assert found.file_of("layer.bias") == tmp_path / "anything.safetensors"
        assert found.files == found.ignored == {}


def test_a_folder_and_what_goes_along(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    save_file(WEIGHTS, tmp_path / "consolidated.safetensors")
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    write_json(tmp_path / "1_Pooling/config.json", {})
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense/pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "optimizer.pt").write_bytes(b"x")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model.onnx").write_bytes(b"x")
    (tmp_path / "onnx/config.json").write_text("{}")
    (tmp_path / ".gitattributes").write_text("hidden")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/x.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "bad\nname.txt").write_text("x")
    with open_checkpoint(tmp_path) as found:
        assert sorted(found.entries) == sorted(WEIGHTS)
        assert sorted(found.files) == [
            "1_Pooling/config.json",
            "2_Dense/pytorch_model.bin",
            "config.json",
            "onnx/config.json",
            "tokenizer.json",
        ]
        assert found.config == {"model_type": "bert"}
        assert found.ignored == {
            "bad\\nname.txt": "its name",
            "consolidated.safetensors": "other weights",
            "gone.txt": "a link that leads nowhere",
            "loop": "a link to a folder",
            "onnx/model.onnx": "other weights",
            "optimizer.pt": "a pickle",
            "pipe.txt": "not a regular file",
            "pytorch_model.bin": "a pickle",
        }


def test_links_to_files_are_followed_as_hub_caches_need(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file(WEIGHTS, blobs / "1234")
    (blobs / "5678").write_text('{"model_type": "bert"}')
    (snapshot / "model.safetensors").symlink_to("../../blobs/1234")
    (snapshot / "config.json").symlink_to("../../blobs/5678")
    with open_checkpoint(snapshot) as found:
        assert sorted(found.entries) == sorted(WEIGHTS)
        assert found.config["model_type"] == "bert"


def test_a_large_companion_is_left_out(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    with (tmp_path / "corpus.txt").open("wb") as file:
        file.truncate((512 << 20) + 1)
    with open_checkpoint(tmp_path) as found:
        assert found.ignored == {"corpus.txt": "larger than 512 MiB"}


def test_one_file_of_any_name(tmp_path):
    save_file(WEIGHTS, tmp_path / "diffusion_pytorch_model.safetensors")
    with open_checkpoint(tmp_path) as found:
        assert [w.name for w in found.layout] == ["diffusion_pytorch_model.safetensors"]


def test_shards_with_an_index(tmp_path):
    with open_checkpoint(sharded(tmp_path / "m", TWO)) as found:
        assert [w.name for w in found.layout] == sorted(TWO)
        assert list(found.entries) == ["a", "c", "b"]  # wider dtypes lie first
        assert found.file_of("c").name == "model-00002-of-00002.safetensors"
        assert found.files == {}


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": ONE, "b": OTHER}, "index lacks it"),
        ({"a": OTHER, "b": OTHER, "c": OTHER}, "in no shard, the index says"),
        ({"a": OTHER, "b": ONE, "c": OTHER}, "2 tensors.*the index says"),
        ({"a": ONE, "b": OTHER, "c": OTHER, "d": OTHER}, "in no shard"),
        ({"a": "model-00003-of-00003.safetensors"}, "not there"),
        ({"a": "../model.safetensors"}, "plain file name"),
        ({"a": "/etc/passwd"}, "plain file name"),
        ({"a": "/tmp/x.safetensors"}, "plain file name"),
        ({"a": "sub/x.safetensors"}, "plain file name"),
        ({"a": "..\\x.safetensors"}, "plain file name"),
        ({"a": ".hidden.safetensors"}, "plain file name"),
        ({"a": "x\0.safetensors"}, "plain file name"),
        ({"a": "x.bin"}, "plain file name"),
        ({"a": 5}, "plain file name"),
        ({"a": None}, "plain file name"),
        ({}, "weight map"),
        ([], "weight map"),
    ],
)
def test_an_index_that_does_not_say_what_is(tmp_path, weight_map, message):
    folder = sharded(tmp_path / "m", TWO, weight_map)
    with pytest.raises(UnsafeFile, match=message):
        open_checkpoint(folder)


def test_a_tensor_in_two_shards(tmp_path):
    shards = {"x-1.safetensors": {"a": np.ones(1)}, "x-2.safetensors": {"a": np.ones(1)}}
    folder = sharded(tmp_path / "m", shards)
    write_json(
        folder / "model.safetensors.index.json",
        {"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}},
    )
    with pytest.raises(UnsafeFile):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({}, UnsupportedFormat),
        ({"a.safetensors": 1, "b.safetensors": 1}, UnsupportedFormat),
        ({"adapter_model.safetensors": 1, "adapter_config.json": 0}, UnsupportedFormat),
        ({"pytorch_model.bin": 0}, UnsafeFile),
        ({"model.pt": 0, "optimizer.pt": 0}, UnsafeFile),
        ({"config.json": 0}, UnsupportedFormat),
    ],
)
def test_folders_without_a_model(tmp_path, files, error):
    for name, weights in files.items():
        if weights:
            save_file(WEIGHTS, tmp_path / name)
        else:
            (tmp_path / name).write_text("{}")
    with pytest.raises(error):
        open_checkpoint(tmp_path)


def test_an_adapters_weights_alone(tmp_path):
    path = tmp_path / "adapter_model.safetensors"
    save_file({"base_model.model.q.lora_A.weight": np.ones((1, 1))}, path)
    with pytest.raises(UnsupportedFormat, match="adapter") as caught:
        open_checkpoint(path)
    assert "adapter_config.json" in caught.value.hint


def test_things_that_are_not_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.safetensors"))
        for name, word in [("pipe.safetensors", "pipe"), ("s.safetensors", "socket")]:
            with pytest.raises(UnsafeFile, match=word):
                open_checkpoint(tmp_path / name)
    with pytest.raises(UnsafeFile, match="device"), open_regular(Path("/dev/null")):
        pass
    for device in ("/dev/zero", "/dev/tty"):
        with pytest.raises((UnsafeFile, UnsupportedFormat)):
            open_checkpoint(Path(device))
    with pytest.raises(UnsafeFile, match="folder"), open_regular(tmp_path):
        pass
    for missing in ("none", "none/none", "pipe.safetensors/x", "x" * 300, "a\0b"):
        with pytest.raises((UnsafeFile, UnsupportedFormat)):
            open_checkpoint(tmp_path / missing)
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(UnsafeFile):
        open_checkpoint(tmp_path / "self")


def test_a_pipe_in_place_of_a_folders_weights_or_config(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedFormat, match="no model weights"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"a": NaN}')
    with pytest.raises(UnsafeFile):
        open_checkpoint(tmp_path)


def test_a_folder_of_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr("deltavc.formats.files.MAX_FILES", 5)
    for i in range(7):
        (tmp_path / str(i)).touch()
    with pytest.raises(UnsafeFile, match="more than 5 files"):
        list_folder(tmp_path)


def test_folders_nested_deep_are_not_entered(tmp_path):
    (tmp_path / "/".join("abcdefghijkl")).mkdir(parents=True)
    assert list(list_folder(tmp_path).ignored.values()) == ["nested too deep"]


def tied(tmp_path, tensors, config):
    folder = tmp_path / "tied"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    write_json(folder / "config.json", config)
    with open_checkpoint(folder) as found:
        return found.tied


EMBED = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize(
    ("tensors", "config", "expected"),
    [
        ({"model.embed_tokens.weight": EMBED}, {"tie_word_embeddings": True},
         {"lm_head.weight": "model.embed_tokens.weight"}),
        ({"wte.weight": EMBED}, {"architectures": ["GPT2LMHeadModel"]},
         {"lm_head.weight": "wte.weight"}),
        ({"model.embed_tokens.weight": EMBED}, {"tie_word_embeddings": False}, {}),
        ({"model.embed_tokens.weight": EMBED}, {"architectures": ["LlamaModel"]}, {}),
        ({"model.embed_tokens.weight": EMBED, "lm_head.weight": EMBED.copy()}, {},
         {"lm_head.weight": "model.embed_tokens.weight"}),
        ({"model.embed_tokens.weight": EMBED, "lm_head.weight": EMBED + 1}, {}, {}),
        ({"model.embed_tokens.weight": EMBED, "lm_head.weight": EMBED.copy()},
         {"tie_word_embeddings": False}, {}),
        ({"a.bias": np.zeros(3), "b.bias": np.zeros(3)}, {"tie_word_embeddings": True}, {}),
        ({"shared.weight": EMBED}, {"tie_word_embeddings": True},
         {"lm_head.weight": "shared.weight", "encoder.embed_tokens.weight": "shared.weight",
          "decoder.embed_tokens.weight": "shared.weight"}),
        ({"bert.embeddings.word_embeddings.weight": EMBED, "cls.predictions.bias": np.zeros(4)},
         {"architectures": ["BertForMaskedLM"]},
         {"lm_head.weight": "bert.embeddings.word_embeddings.weight",
          "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
          "cls.predictions.decoder.bias": "cls.predictions.bias"}),
        ({"a.embed_tokens.weight": EMBED, "b.embed_tokens.weight": EMBED + 1},
         {"tie_word_embeddings": True}, {}),
        ({"language_model.model.embed_tokens.weight": EMBED},
         {"text_config": {"tie_word_embeddings": True}},
         {"lm_head.weight": "language_model.model.embed_tokens.weight"}),
        ({"x": EMBED}, {"tie_word_embeddings": "yes", "architectures": [5, None]}, {}),
    ],
)  # fmt: skip
def test_ties(tmp_path, tensors, config, expected):
    assert tied(tmp_path, tensors, config) == expected


# pickles --------------------------------------------------------------------


def state(**extra):
    shared = torch.arange(6.0).reshape(2, 3)
    return {"w": shared, "t": shared.T, "b": torch.ones(3, dtype=torch.bfloat16), **extra}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["model.pt", "model.pth", "pytorch_model.bin", "x.ckpt"])
def test_a_pickle_is_read_only_when_allowed(tmp_path, name, zipped):
    torch.save(state(), tmp_path / name, _use_new_zipfile_serialization=zipped)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UnsafeFile) as caught:
            open_checkpoint(path)
        assert "--allow-pickle" in caught.value.hint
        with open_checkpoint(path, allow_pickle=True) as found:
            assert found.tensor("t").to_float64().tolist() == [[0, 3], [1, 4], [2, 5]]
            assert found.tensor("b").bits.tolist() == [0x3F80] * 3
            assert found.entries["w"].shape == (2, 3)


def test_pickled_shards(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-1.bin")
    torch.save({"b": torch.zeros(0, 3)}, tmp_path / "pytorch_model-2.bin")
    write_json(
        tmp_path / "pytorch_model.bin.index.json",
        {"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}},
    )
    with pytest.raises(UnsafeFile, match="pickle"):
        open_checkpoint(tmp_path)
    with open_checkpoint(tmp_path, allow_pickle=True) as found:
        assert found.tensor("b").shape == (0, 3)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch /tmp/deltavc-was-here",))


@pytest.mark.parametrize(
    "value",
    [
        Bomb(),
        {"w": Bomb()},
        [torch.ones(1)],
        {"model": {"w": torch.ones(1)}},
        {1: torch.ones(1)},
        {"w": 1.0},
        {},
        torch.ones(1),
        {"w": torch.ones(1).to_sparse()},
        {"w": torch.ones(1, dtype=torch.complex64)},
        {"w": torch.ones(1).expand(10**9)},
        {"": torch.ones(1)},
        {"a\nb": torch.ones(1)},
    ],
)
def test_anything_but_tensors_by_name_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "m.pt")
    with pytest.raises((UnsafeFile, UnsupportedFormat)):
        open_checkpoint(tmp_path / "m.pt", allow_pickle=True)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_runs_nothing(tmp_path, protocol):
    (tmp_path / "m.bin").write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(UnsafeFile):
        open_checkpoint(tmp_path / "m.bin", allow_pickle=True)
    assert not os.path.exists("/tmp/deltavc-was-here")


@pytest.mark.parametrize("damage", ["cut", "compressed", "empty", "text"])
def test_damaged_pickles(tmp_path, damage):
    import zipfile

    path = tmp_path / "m.pt"
    torch.save(state(), path)
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "compressed":
        with zipfile.ZipFile(tmp_path / "old.zip", "w") as old:
            old.writestr("archive/data.pkl", b"x")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("archive/data.pkl", b"\0" * 10_000_000)
    else:
        path.write_bytes(b"" if damage == "empty" else b"not a checkpoint")
    with pytest.raises(UnsafeFile):
        open_checkpoint(path, allow_pickle=True)


def test_an_old_torch_reads_no_pickle(tmp_path, monkeypatch):
    torch.save(state(), tmp_path / "m.pt")
    monkeypatch.setattr("deltavc.formats.pickles.SAFE_TORCH", (99, 0))
    from deltavc.errors import MissingExtra

    with pytest.raises(MissingExtra, match="safely"):
        open_checkpoint(tmp_path / "m.pt", allow_pickle=True)

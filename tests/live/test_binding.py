"""Which tensor of a module is which parameter, and modules that cannot be made live."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deltavc.delta.tensor import DTYPES
from deltavc.errors import (
    BaseMismatch,
    DeltavcError,
    MergeConflict,
    ShapeMismatch,
    UnsupportedFormat,
)
from deltavc.live.binding import bind
from deltavc.live.source import Form

from .conftest import Net, Studio, raw, state  # type: ignore[import-not-found]


def refuses(studio: Studio, net: Any, kind: type[DeltavcError], *words: str) -> None:
    before = {n: t.clone() for n, t in net.state_dict().items() if t.device.type == "cpu"}
    with pytest.raises(kind) as found:
        studio.repo.live(net)
    for word in words:
        assert word in found.value.message + found.value.hint, found.value
    assert found.value.hint
    after = net.state_dict()
    assert all(raw(after[name]) == raw(value) for name, value in before.items())


def test_a_module_of_another_dtype_than_the_base(studio: Studio) -> None:
    studio.lora()
    refuses(studio, Net(dtype=torch.float64), ShapeMismatch, "float64", "dtype=torch.float32")
    refuses(studio, Net(dtype=torch.bfloat16), ShapeMismatch, "bfloat16 in the module")


def test_a_module_without_memory(studio: Studio) -> None:
    studio.lora()
    with torch.device("meta"):
        net = Net()
    refuses(studio, net, UnsupportedFormat, "has no memory yet")


def test_a_module_of_another_shape(studio: Studio) -> None:
    studio.lora()
    net = Net()
    net.second = torch.nn.Linear(8, 9)
    refuses(studio, net, ShapeMismatch, "[9, 8]", "[8, 8]")


def test_a_module_with_tensors_that_the_version_lacks(studio: Studio) -> None:
    studio.lora()
    net = Net()
    net.adapter = torch.nn.Linear(8, 2)
    refuses(studio, net, BaseMismatch, "2 tensors", "'adapter.bias'", "'adapter.weight'")


def test_a_module_that_lacks_what_a_version_changes(studio: Studio) -> None:
    studio.checkpoint()
    one = studio.lora("first")
    two = studio.lora("second")
    net = Net()
    del net.second
    live = studio.repo.live(net, one)
    with pytest.raises(BaseMismatch) as found:
        live.switch(two)
    assert found.value.context["parameters"] == ["second.weight"]
    assert live.revision == one
    refuses(studio, net, BaseMismatch, "'second.weight'")


def test_memory_that_cannot_be_filled(studio: Studio) -> None:
    studio.lora()
    net = Net()
    net.first.weight = torch.nn.Parameter(torch.zeros(8, 8).t())
    net.first.weight.data = torch.zeros(16, 8)[::2]
    refuses(studio, net, UnsupportedFormat, "'first.weight' is not contiguous")
    net = Net()
    both = torch.zeros(100)
    net.first.weight.data = both[:64].view(8, 8)
    net.second.weight.data = both[32:96].view(8, 8)
    refuses(studio, net, UnsupportedFormat, "shares a part of its memory")


def equal_change(studio: Studio) -> str:
    """Commits a version that changes two parameters in the same way."""
    value = studio.weights["first.weight"] + 1
    return studio.checkpoint(first__weight=value, second__weight=value)


def test_inference_mode(studio: Studio) -> None:
    one, two = studio.lora(), studio.noisy()
    with torch.inference_mode():
        made = Net()
    refuses(studio, made, UnsupportedFormat, "was made in inference mode")
    net = Net()
    live = studio.repo.live(net, one)
    with torch.inference_mode():
        live.switch(two)
    net.first(torch.ones(1, 8)).sum().backward()  # an ordinary module afterwards
    assert net.first.weight.grad is not None
    assert state(net) == studio.written(two)


def test_two_names_of_one_tensor(alike: Studio) -> None:
    one, both, apart = alike.checkpoint(), equal_change(alike), alike.lora("first")
    net = Net()
    net.second.weight = net.first.weight
    live = alike.repo.live(net, one)
    live.switch(both)
    assert state(net) == alike.written(both)
    with pytest.raises(MergeConflict) as found:
        live.switch(apart)
    assert found.value.context["conflicts"] == ["first.weight", "second.weight"]
    assert live.verify().ok
    assert live.revision == both


def test_tying_what_is_not_tied_in_the_base(studio: Studio) -> None:
    studio.checkpoint()
    net = Net()
    net.second.weight = net.first.weight
    refuses(studio, net, MergeConflict, "other values in the base")


def forms(*names: str) -> dict[str, Form]:
    return {name: Form(DTYPES["F32"], (2,)) for name in names}


class Tree(torch.nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            *path, last = name.split(".")
            node: torch.nn.Module = self
            for part in path:
                if not hasattr(node, part):
                    node.add_module(part, torch.nn.Module())
                node = getattr(node, part)
            node.register_parameter(last, torch.nn.Parameter(torch.zeros(2)))


@pytest.mark.parametrize(
    ("module", "version"),
    [
        (["a.x", "b.x"], ["a.x", "b.x"]),
        (["model.a.x", "model.b.x"], ["a.x", "b.x"]),
        (["a.x", "b.x"], ["model.a.x", "model.b.x", "model.c.x"]),
        (["bert.a.x", "head.x"], ["a.x", "head.x"]),
        (["a.x", "b.x"], ["p.q.a.x", "p.q.b.x"]),
    ],
)
def test_one_prefix_for_all_names(module: list[str], version: list[str]) -> None:
    slots = bind(Tree(*module), forms(*version), {})
    found = {slot.names[0]: slot.params[0] for slot in slots}
    assert found.keys() == set(module)
    assert all(a.endswith(b) or b.endswith(a) for a, b in found.items())
    assert len(set(found.values())) == len(module)


def test_a_head_that_the_file_leaves_out_is_the_embedding() -> None:
    tree = Tree("emb.x", "head.x")
    slots = bind(tree, forms("emb.x"), {"head.x": "emb.x"})
    assert sorted(slot.params[0] for slot in slots) == ["emb.x", "emb.x"]
    tree.head.x = tree.emb.x
    (slot,) = bind(tree, forms("emb.x"), {})
    assert slot.names == ("emb.x", "head.x")


def test_tensors_tied_by_hand_move_together(alike: Studio) -> None:
    one, rev = alike.checkpoint(), equal_change(alike)
    net = Net()
    net.second.weight.data = net.first.weight.data  # two parameters on one memory
    live = alike.repo.live(net, one)
    live.switch(rev)
    assert net.second.weight.data_ptr() == net.first.weight.data_ptr()
    assert state(net) == alike.written(rev)
    assert live.verify().ok


def test_a_scalar_and_an_empty_tensor() -> None:
    net = torch.nn.Module()
    net.register_buffer("one", torch.tensor(3.0))
    net.register_buffer("none", torch.zeros(0, 4))
    wanted = {"one": Form(DTYPES["F32"], ()), "none": Form(DTYPES["F32"], (0, 4))}
    assert {slot.names[0] for slot in bind(net, wanted, {})} == {"one", "none"}

"""Evidence by the name of its kind, and all of it for a pack."""

from __future__ import annotations

import json
import sys

import pytest

from deltavc.attest.evidence import KINDS, Request, for_pack, make
from deltavc.errors import UsageError
from deltavc.repo.card import model_card

from .conftest import Desk  # type: ignore[import-not-found]


@pytest.fixture
def shipped(desk: Desk) -> list[str]:
    """Two versions; gates were asked about the second."""
    first, second = desk.commit(message="first"), desk.commit(message="second")
    desk.define()
    desk.api.measure(second, {"acc": 0.9, "acc[rare]": 0.8}, samples=1000)
    desk.api.define_environment("staging", gates=["release"])
    desk.api.deploy(second, "staging")
    return [first, second]


def test_a_pack_carries_what_there_is(desk: Desk, shipped: list[str]) -> None:
    first, second = shipped
    found = for_pack(desk.repo, ["HEAD", first, second])
    assert sorted(found) == sorted(
        [
            f"evidence/{first}/bom.cdx.json",
            f"evidence/{first}/card.md",
            f"evidence/{second}/bom.cdx.json",
            f"evidence/{second}/card.md",
            f"evidence/{second}/test-result.intoto.json",
        ]
    )
    assert found[f"evidence/{first}/card.md"] == model_card(desk.repo, first)
    for kind, file in (("cyclonedx", "bom.cdx.json"), ("in-toto", "test-result.intoto.json")):
        document = found[f"evidence/{second}/{file}"]
        assert document == make(desk.repo, kind, Request("HEAD"))
        assert second in json.dumps(json.loads(document))
    assert for_pack(desk.reopen(), [second, first]) == found


def test_without_the_extra_it_carries_the_cards(
    desk: Desk, shipped: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx.validation.json", None)
    monkeypatch.setitem(sys.modules, "in_toto_attestation.v1.statement", None)
    found = for_pack(desk.repo, shipped)
    assert sorted(found) == sorted(f"evidence/{rev}/card.md" for rev in shipped)


def test_what_a_kind_needs_is_told(desk: Desk, shipped: list[str]) -> None:
    assert list(KINDS) == ["oms", "in-toto", "cyclonedx", "card"]
    with pytest.raises(UsageError, match="is not a kind of evidence") as caught:
        make(desk.repo, "spdx", Request("HEAD"))
    assert caught.value.hint == "kinds: oms, in-toto, cyclonedx, card"
    with pytest.raises(UsageError, match="needs the files that it signs, and a key"):
        make(desk.repo, "oms", Request("HEAD", folder=desk.out("HEAD")))

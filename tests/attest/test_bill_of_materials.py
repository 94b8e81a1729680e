"""The bill of materials: the standard's schema takes it, and it says what is recorded."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deltavc.attest import bom
from deltavc.attest.bom import bill_of_materials
from deltavc.errors import MissingExtra, UsageError, WorkspaceDirty

from .conftest import DATA, Desk  # type: ignore[import-not-found]

HOSTILE = [
    'a "quoted" \\ message\nwith <script>alert(1)</script>',
    "\u202edesrever \u0000 \x1b[31m\n\n# heading",
    "💥 日本語 \ufeff",
    "urn:cdx:not-a-link",
    "x" * 5000,
]


def read(document: bytes, spec: str = "1.6") -> Any:
    """Reads a document that the standard's schema takes."""
    validator = JsonStrictValidator(SchemaVersion.from_version(spec))
    assert validator.validate_str(document.decode()) is None
    return json.loads(document)


def told(found: list[dict[str, str]]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in found}


@pytest.fixture
def second(desk: Desk) -> str:
    """The second of two versions, with data, labels and measurements."""
    desk.commit(message="first")
    rev = desk.commit(
        desk.models.checkpoint(), message="second\n\nwith more data",
        labels={"license": "Apache-2.0", "team": "support"},
        data=[desk.root / "train.csv"], run="mlflow:8c",
    )  # fmt: skip
    desk.define()
    desk.api.measure(rev, {"acc": 0.9, "acc[rare]": 0.75}, samples=1000, dataset="tickets")
    desk.api.measure(rev, {"loss": float("nan")}, tool="lm-eval 0.4", seed=7)
    return rev


def test_it_says_what_is_recorded(desk: Desk, second: str) -> None:
    found = read(bill_of_materials(desk.repo, second))
    model = found["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "tiny-adapted")
    assert (model["version"], model["description"]) == (second, "second")
    assert model["authors"] == [{"name": "Ada", "email": "ada@example.org"}]
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    properties = told(model["properties"])
    assert properties["deltavc:label:team"] == "support"
    assert properties["deltavc:run"] == "mlflow:8c"
    assert properties["deltavc:exact"] == "true"
    assert properties["deltavc:kind:exact"] == "1"
    called = read(bill_of_materials(desk.repo, second, name="org/tickets-router"))
    assert called["metadata"]["component"]["name"] == "org/tickets-router"


def test_where_it_comes_from(desk: Desk, second: str) -> None:
    pedigree = read(bill_of_materials(desk.repo, second))["metadata"]["component"]["pedigree"]
    base, parent = pedigree["ancestors"]
    first = desk.api.resolve("HEAD~1")
    assert (base["name"], base["version"]) == ("tiny", "0123abcd")
    assert base["purl"] == "pkg:huggingface/org/tiny-llama@0123abcd"
    assert told(base["properties"])["deltavc:base"] == desk.api.bases()[0].fingerprint
    assert (parent["version"], parent["description"]) == (first, "first")
    commits = pedigree["commits"]
    assert [one["uid"] for one in commits] == [second, first]
    assert commits[0]["message"] == "second\n\nwith more data"
    assert commits[0]["author"]["email"] == "ada@example.org"
    assert "notes" not in pedigree


def test_what_was_measured_and_on_what(desk: Desk, second: str) -> None:
    found = read(bill_of_materials(desk.repo, second))
    card = found["metadata"]["component"]["modelCard"]
    rows = {(row.kpi, row.slice): row for row in desk.api.measurements(second)}
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    assert {(one["type"], one.get("slice")) for one in metrics} == set(rows)
    for one in metrics:
        row = rows[one["type"], one.get("slice")]
        if row.kpi == "loss":
            assert (one["value"], "confidenceInterval" in one) == ("NaN", False)
            continue
        interval = one["confidenceInterval"]
        assert float(one["value"]) == row.value
        assert float(interval["lowerBound"]) == row.low < row.value
        assert float(interval["upperBound"]) == row.high > row.value
    more = json.loads(told(card["properties"])["deltavc:measurement:acc[rare]"])
    assert more["id"] == rows["acc", "rare"].id
    assert (more["samples"], more["dataset"], more["interval"]) == (1000, "tickets", "wilson")
    digest = hashlib.sha256(DATA).hexdigest()
    sets = {one["bom-ref"]: one for one in found["components"]}
    assert [one["ref"] for one in card["modelParameters"]["datasets"]] == sorted(sets)
    assert sets[f"data-{digest}"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    uses = {one["name"]: one["data"][0]["description"] for one in sets.values()}
    assert uses == {"train.csv": f"training data, {len(DATA)} bytes", "tickets": "evaluation data"}


def test_the_librarys_own_reader_finds_the_same(desk: Desk, second: str) -> None:
    document = json.loads(bill_of_materials(desk.repo, second))
    read_back = Bom.from_json(document)  # type: ignore[attr-defined]
    assert str(read_back.serial_number) == document["serialNumber"].removeprefix("urn:uuid:")
    model = read_back.metadata.component
    assert (model.version, len(model.pedigree.ancestors), len(model.pedigree.commits)) == (
        second, 2, 2,
    )  # fmt: skip
    assert {one.type.value for one in read_back.components} == {"data"}


@pytest.mark.parametrize("spec", ["1.6", "1.7"])
def test_equal_states_give_equal_bytes(desk: Desk, second: str, spec: str) -> None:
    once = bill_of_materials(desk.repo, second, spec=spec)
    assert bill_of_materials(desk.reopen(), second[:12], spec=spec) == once
    before = read(once, spec)
    desk.api.measure("HEAD~1", {"acc": 0.1})  # of another version
    assert bill_of_materials(desk.repo, second, spec=spec) == once
    desk.repo.rebuild_catalog()
    assert bill_of_materials(desk.repo, second, spec=spec) == once
    desk.api.measure(second, {"acc": 0.91}, samples=1000)
    after = read(bill_of_materials(desk.repo, second, spec=spec), spec)
    assert after["serialNumber"] == before["serialNumber"]
    assert after["version"] == before["version"] + 1
    assert after["metadata"]["timestamp"] > before["metadata"]["timestamp"]
    other = read(bill_of_materials(desk.repo, "HEAD~1", spec=spec), spec)
    assert other["serialNumber"] != before["serialNumber"]


def test_a_corrected_value_does_not_stand(desk: Desk, second: str) -> None:
    wrong = next(row for row in desk.api.measurements(second) if row.slice == "rare")
    desk.api.measure(
        second, {"acc[rare]": 0.7}, samples=1000, supersedes=wrong.id, reason="other split"
    )
    document = bill_of_materials(desk.repo, second)
    assert (b'"0.7"' in document, b'"0.75"' in document) == (True, False)


@pytest.mark.parametrize("text", HOSTILE)
def test_other_peoples_texts_stay_texts(desk: Desk, text: str) -> None:
    plain = text.replace("\0", "").strip()[:60].replace("\n", " ")
    rev = desk.commit(message=text.replace("\0", ""), labels={"license": plain, "x": plain})
    desk.api.measure(rev, {"acc": 0.5}, dataset=plain, dataset_sha256=plain[:8])
    found = read(bill_of_materials(desk.repo, rev, name=plain))
    model = found["metadata"]["component"]
    assert model["name"] == plain
    assert model["licenses"] == [{"license": {"name": plain}}]
    assert model["pedigree"]["commits"][0]["message"] == desk.api.log()[0].message
    assert [one["name"] for one in found["components"]] == [plain]


def test_an_approximation_is_a_limitation(desk: Desk) -> None:
    rev = desk.commit(message="lossy", max_rank=1)
    model = read(bill_of_materials(desk.repo, rev))["metadata"]["component"]
    (limit,) = model["modelCard"]["considerations"]["technicalLimitations"]
    assert limit.startswith("2 parameters are approximated")
    assert told(model["properties"])["deltavc:exact"] == "false"


def test_a_long_history_is_cut_and_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bom, "TRAIL", 3)
    revs = [desk.commit(message=f"{number}") for number in range(4)]
    for rev, cut in ((revs[2], False), (revs[3], True)):
        pedigree = read(bill_of_materials(desk.repo, rev))["metadata"]["component"]["pedigree"]
        assert len(pedigree["commits"]) == 3
        assert ("notes" in pedigree) == cut


@pytest.mark.parametrize("form", ["full", "peft"])
def test_the_files_of_a_checkout(desk: Desk, form: str) -> None:
    rev = desk.commit()
    folder = desk.out(rev, form=form)
    found = read(bill_of_materials(desk.repo, rev, folder=folder))
    files = {one["name"]: one["hashes"][0]["content"] for one in found["components"]}
    assert files == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }
    assert found["serialNumber"] != read(bill_of_materials(desk.repo, rev))["serialNumber"]
    other = desk.commit()
    with pytest.raises(WorkspaceDirty, match="holds revision"):
        bill_of_materials(desk.repo, other, folder=folder)
    (folder / "config.json").unlink(missing_ok=True)
    (folder / "more.txt").write_text("more")
    with pytest.raises(WorkspaceDirty, match="is not as a checkout writes it"):
        bill_of_materials(desk.repo, rev, folder=folder)


def test_what_cannot_be_done_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    rev = desk.commit()
    with pytest.raises(UsageError, match=r"'1\.2' is not a version of CycloneDX"):
        bill_of_materials(desk.repo, rev, spec="1.2")
    monkeypatch.setitem(sys.modules, "cyclonedx.validation.json", None)
    with pytest.raises(MissingExtra, match="'cyclonedx', which is not installed") as caught:
        bill_of_materials(desk.repo, rev)
    assert (caught.value.exit_code, caught.value.hint) == (60, 'pip install "deltavc[attest]"')

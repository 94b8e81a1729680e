"""The model card: what is recorded of a revision, and nothing that a stranger's text could add."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deltavc.errors import UsageError


def card(lab: Any, rev: str = "HEAD", **options: Any) -> str:
    folder = lab.folder()
    lab.repo.checkout(rev, to=folder, card=True, **options)
    return (folder / "README.md").read_text()


def cells(text: str) -> dict[str, str]:
    """Returns the rows of the tables: first cell to the second."""
    rows = re.findall(r"^\| (.*?) \| (.*?) \|", text, re.MULTILINE)
    return {key.strip(): value.strip() for key, value in rows}


def test_it_tells_what_is_recorded(lab: Any) -> None:
    first = lab.commit(lab.lora(), "support tickets")
    rev = lab.commit(
        lab.lora(), "epoch 4\n\nlower learning rate", labels={"dataset": "t-10"},
        kpis={"accuracy": 0.879, "f1": float("nan")}, run="mlflow:8c",
    )  # fmt: skip
    lab.repo.tag("v1")
    text = card(lab)
    found = cells(text)
    assert found["revision"] == f"`{rev}`"
    assert found["accuracy"] == "0.879"
    assert found["f1"] == "NaN"
    assert found["label dataset"] == "t-10"
    assert found["training run"] == "mlflow:8c"
    assert found["tags"] == "v1"
    assert found["exact"] == "yes, bit for bit"
    assert text.index("# epoch 4") < text.index("lower learning rate")
    assert re.findall(r"^- `(\w+)` [\d-]+ (.*)$", text, re.MULTILINE) == [
        (rev[:10], "epoch 4"),
        (first[:10], "support tickets"),
    ]
    assert f"deltavc checkout {rev} --to DIR" in text
    assert card(lab) == text


def test_every_form_has_one(lab: Any) -> None:
    lab.commit(lab.lora("layers.0.q"), "a")
    for form, library in (("full", "transformers"), ("peft", "peft"), ("vllm", "peft")):
        options = {} if form == "full" else {"base_name": 'org/"x"'}
        text = card(lab, form=form, **options)
        front = text.split("---\n")[1]
        assert f"library_name: {library}\n" in front
        if options:
            assert f"base_model: {json.dumps(options['base_name'])}\n" in front


def test_it_takes_the_place_of_the_bases_and_goes_again(lab: Any) -> None:
    lab.commit(lab.checkpoint(dict.copy, **{"README.md": "the base's own words"}), "a")
    folder = lab.folder()
    lab.repo.checkout("HEAD", to=folder, card=True)
    assert "the base's own words" not in (folder / "README.md").read_text()
    lab.repo.checkout("HEAD", to=folder)  # deltavc wrote it, so it is not in the way
    assert (folder / "README.md").read_text() == "the base's own words"


def test_an_approximation_is_told(lab: Any) -> None:
    lab.commit(lab.lora("layers.0.q", rank=4), "a", max_rank=2)
    text = card(lab)
    assert "no, approximated on request" in text
    (error,) = re.findall(r"^\| `layers.0.q.weight` \| (\S+) \|$", text, re.MULTILINE)
    assert 0 < float(error) < 1
    assert "bit for bit" not in text


HOSTILE = "# title | <script>alert(1)</script> [x](http://y) `code` ![i](z)\x1b[31m"


def test_texts_of_others_stay_text(lab: Any) -> None:
    lab.commit(
        lab.lora(), f"{HOSTILE}\n\n````\n---\n# another page\n````\n", labels={"a|b": HOSTILE}
    )
    text = card(lab)
    assert "\x1b" not in text
    outside = re.sub(r"^(`{5,})text\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "another page" in text
    assert "another page" not in outside
    assert "<script" not in outside
    assert [line for line in outside.splitlines() if line.startswith("# ")] == [
        next(line for line in outside.splitlines() if line.startswith("# "))
    ]
    for row in re.findall(r"^\|.*\|$", outside, re.MULTILINE):
        assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert not re.search(r"(?<!\\)[\[\]]", outside)


def test_the_workspace_gets_none(lab: Any) -> None:
    lab.commit(lab.lora(), "a")
    with pytest.raises(UsageError):
        lab.repo.checkout("HEAD", card=True)
    assert not Path(lab.repo.path / "model").exists()

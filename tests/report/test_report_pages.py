"""The page itself: one file, whole, readable without seeing it, and deaf to hostile text."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise

import pytest

from deltavc.errors import UsageError
from deltavc.report import show
from deltavc.report.data import Lineage, Report, Scope, Source, Version
from deltavc.report.render import SECTIONS, render
from deltavc.report.texts import LANGUAGES, Texts

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[int] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def all(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module", params=LANGUAGES)
def page(request, report):
    return Page(render(report, language=request.param))


def test_nothing_is_loaded_and_nothing_runs(page):
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base"}
    assert page.all("src") == page.all("srcset") == page.all("action") == []
    links = page.all("href") + page.all("xlink:href")
    assert links
    assert all(link.startswith("#") for link in links)
    handlers = [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
    assert handlers == []


def test_styles_load_nothing(report):
    text = render(report)
    assert re.findall(r"url\((?!#)", text) == []
    assert "@import" not in text
    assert "http:" not in re.sub(r'xmlns(:xlink)?="http://www.w3.org/[^"]+"', "", text)


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    named = {name for value in page.all("aria-labelledby") for name in value.split()}
    assert named <= set(ids)
    targets = {link[1:] for link in page.all("href") + page.all("xlink:href")}
    assert targets <= set(ids)


def test_headings_do_not_skip_a_level(page):
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert max(after - before for before, after in pairwise(page.headings)) == 1


def test_tables_say_what_their_cells_are(page):
    headers = [attrs for tag, attrs in page.tags if tag == "th"]
    assert headers
    assert {attrs["scope"] for attrs in headers} == {"col", "row"}


def test_pictures_have_words(page):
    charts = [attrs for tag, attrs in page.tags if tag == "svg" and attrs["class"] == "chart"]
    assert len(charts) == 2
    assert all(attrs["role"] == "img" and attrs["aria-labelledby"] for attrs in charts)
    drawings = [attrs for tag, attrs in page.tags if tag == "svg" and attrs["class"] == "graph"]
    assert drawings
    assert all(attrs["aria-hidden"] == "true" for attrs in drawings)


def test_sections_are_in_order(page):
    found = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert tuple(found) == SECTIONS


def test_hostile_text_stays_text(page, hostile):
    shown = hostile.replace("\u202e", "\\u202e")
    assert page.text.count(shown) >= 4
    assert "\u202e" not in page.text


def test_page_tells_what_is_to_be_told(report):
    text = Page(render(report, title="Q3 review")).text
    for told in (
        "Q3 review",
        "canary serves d-000090: the gate release was overridden by",
        "The served folder of staging does not hold what the record says.",
        "What staging serves has no measurement of toxicity",
        "The event log has 1 fault",
        "A clock was set back 2 times, at events 40, 41",
        "2 of 2: Linus, Olga",
        "does not count: given by who asked or who made the version",
        "marked as bad",
        "recorded later",
        "signed as ada@example.org",
        "… 12 revisions",
        "layers.*.self_attn.q_proj.weight",
        "not told apart",
        "5eed" * 16,
        "deltavc audit verify --anchor head.txt",
        "deltavc report -o again.html --title 'Q3 review'",
    ):
        assert told in text, told


def test_problems_come_first_and_the_worst_before_others(report):
    levels = [problem.level for problem in report.problems]
    assert levels == sorted(levels, key=["serious", "warning", "note"].index)
    text = render(report)
    assert text.index('id="problems"') < text.index('id="serving"')


def test_same_report_gives_the_same_bytes(report, report_with):
    assert render(report) == render(report_with())
    assert render(report, language="ja") != render(report)


def test_an_empty_repository_has_a_report_too():

    nothing = Report(
        Source("", 0, "0" * 64, 0, "deltavc"), Scope(), (), (), (), (), Lineage((), 0), (), ()
    )
    page = Page(render(nothing))
    assert "Nothing has been deployed yet." in page.text
    assert "No open problem was found." in page.text


def test_scope_is_told(report_with):

    text = Page(
        render(report_with(scope=Scope(("production",), "v1.0..main", 1_788_000_000_000)))
    ).text
    assert (
        "limited to the environments production, to the revisions v1.0..main, "
        "to what was live on or after 2026-08-29 10:40 UTC."
    ) in text
    assert "--env production --range v1.0..main --since 2026-08-29T10:40:00Z" in text


def test_times_beyond_the_calendar_are_shown_as_numbers(report, report_with):
    source = replace(report.source, time=1 << 62)
    assert f"{1 << 62} ms" in Page(render(report_with(source=source))).text


def test_many_deployments_stay_small(report, report_with):
    one = report.deployments[0]
    many = tuple(replace(one, number=n, serving=n == 600) for n in range(600, 100, -1))
    text = render(report_with(deployments=many))
    assert len(text.encode()) < 3_000_000
    page = Page(text)
    assert sum(tag == "details" for tag, _ in page.tags) > 500
    assert len([i for i in page.all("id") if i.startswith("d-")]) == 500


def test_unknown_language_is_refused():
    with pytest.raises(UsageError, match="no report in the language 'tlh'"):
        Texts("tlh")


# texts


def _flat(language: str) -> dict[str, object]:
    file = resources.files("deltavc.report").joinpath("locale", f"{language}.toml")
    found: dict[str, object] = {}
    for section, table in tomllib.loads(file.read_text(encoding="utf-8")).items():
        for name, text in table.items():
            forms = text.values() if isinstance(text, dict) else [str(text)]
            holes = set(re.findall(r"{(\w+)}", " ".join(forms)))
            found[f"{section}.{name}"] = len(text) if isinstance(text, list) else holes
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_catalogues_have_the_same_keys_and_placeholders(language):
    assert _flat(language) == _flat("en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_catalogues_have_no_empty_text(language):
    texts = Texts(language).catalogue
    values = [text for table in texts.values() for text in table.values()]
    assert all(values)


def test_japanese_is_japanese():
    texts = Texts("ja").catalogue
    latin = [
        f"{section}.{name}"
        for section, table in texts.items()
        for name, text in table.items()
        if isinstance(text, str) and not re.search(r"[\u3040-\u30ff\u4e00-\u9fff、。—]", text)
    ]
    assert latin == ["tiles.kpis", "serving.kpi", "lineage.head", "changes.kpi"]


def test_every_text_is_used():
    root = resources.files("deltavc.report")
    code = "".join(
        file.read_text(encoding="utf-8")
        for folder in (root, root.joinpath("templates"))
        for file in folder.iterdir()
        if file.name.endswith((".py", ".html"))
    )
    made = ("level.", "action.", "verdict.", "judged.", "problem.", "verify.step_")
    unused = [
        key
        for key in _flat("en")
        if f'"{key}"' not in code
        and f"'{key}'" not in code
        and not key.startswith(made)
        and not key.endswith(".heading")
        and not key.startswith(("deployments.void_", "kpis.higher", "kpis.lower", "kpis.no_dir"))
    ]
    assert unused == []


# values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\tc", "a\\x0ab\\x09c"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("a\u200bb", "a\\u200bb"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("日本語", "日本語"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("x" * 500, "x" * 400 + "…"),
    ],
)
def test_what_would_act_is_made_visible(text, shown):
    assert show.visible(text) == shown


def test_markup_of_foreign_text_is_escaped():
    assert show.foreign("<b>&\"'") == "<bdi>&lt;b&gt;&amp;&#34;&#39;</bdi>"
    assert str(show.ident('"><script>')).count("<") == 2


def test_numbers_and_people_read_well():
    assert show.number(0.879) == "0.879"
    assert show.number(-5.0, "ms", sign=True) == "\u22125 ms"
    assert show.number(None) == "\u2013"
    assert show.name_of("Ada <ada@example.org>") == "<bdi>Ada</bdi>"
    assert show.mail("Ada <ada@example.org>") == "<bdi>ada@example.org</bdi>"
    assert show.name_of("root") == "<bdi>root</bdi>"
    assert show.day(0) == "1970-01-01"


def test_versions_without_a_subject_are_shown(report_with):
    bare = Version("f" * 64, "", "", 0)
    line = Lineage((replace(report_with().lineage.nodes[-1], version=bare),), 1)
    assert "f" * 10 in Page(render(report_with(lineage=line))).text

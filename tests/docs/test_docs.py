"""The documentation names what there is, and nothing else."""

from __future__ import annotations

import importlib
import inspect
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

import deltavc
from deltavc.api import Repository
from deltavc.cli import reference
from deltavc.cli.root import ROOT
from deltavc.cli.settings import SETTINGS
from deltavc.cli.verb import VerbGroup
from deltavc.cli.verbs import VERBS
from deltavc.records import model, receipt, ship

ROOT_FOLDER = Path(__file__).parents[2]
DOCS = ROOT_FOLDER / "docs"
SOURCE = ROOT_FOLDER / "deltavc"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
NAMES = [str(path.relative_to(DOCS)) for path in PAGES]
# Options of other programs, where a page shows them.
FOREIGN_OPTIONS = {
    "--upgrade", "--enable-lora", "--lora-modules", "--max-lora-rank", "--signature", "--public",
    "--metadata", "--quiet"
}  # fmt: skip


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def table(text: str, heading: str | None = None) -> dict[str, list[str]]:
    """Returns the rows of the tables under a heading by their first cell, without backquotes."""
    if heading is not None:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            for name in re.findall(r"`([^`]+)`", cells[0]):
                rows[name] = cells[1:]
    return rows


def verbs() -> Iterator[tuple[str, click.Command]]:
    for name in VERBS:
        command = ROOT.get_command(click.Context(ROOT), name)
        assert command is not None
        if isinstance(command, VerbGroup):
            yield from ((f"{name} {inner}", verb) for inner, verb in command.verbs())
        else:
            yield name, command


def options(command: click.Command) -> set[str]:
    return {
        name
        for option in command.get_params(click.Context(command))
        for name in (*option.opts, *option.secondary_opts)
    }


# generated pages, verbs, errors -------------------------------------------------


def test_generated_pages_are_up_to_date() -> None:
    assert reference.main(["--check", str(DOCS / "reference")]) == 0


def test_each_verb_has_a_page() -> None:
    index = read("reference/cli/index.md")
    for path, _ in verbs():
        assert f"deltavc {path}" in read(f"reference/cli/{path.split()[0]}.md")
        assert f"({path.split()[0]}.md)" in index


def test_each_error_is_listed_with_its_code() -> None:
    errors, codes = read("reference/errors.md"), read("reference/exit-codes.md")
    kinds = [k for k in reference.error_classes() if not k.slug.endswith("-error")]
    assert len(kinds) > 20
    for kind in kinds:
        assert f"\n## {kind.slug}\n" in errors
        assert f"| {kind.exit_code} | `{kind.slug}` |" in codes


def test_exit_codes_that_pages_name_exist() -> None:
    known = {kind.exit_code: kind.slug for kind in reference.error_classes()}
    for name in NAMES:
        for code, slug in re.findall(r"\b(\d\d) `([a-z]+-[a-z-]+)`", read(name)):
            assert known[int(code)] == slug or slug in read("reference/errors.md"), name


# settings, environment, views -----------------------------------------------------


def test_settings_are_documented() -> None:
    rows = table(read("reference/config.md"), "Settings")
    assert rows.keys() == {*(SETTINGS.keys() - {"hints"}), "hints.NAME"}
    for key, setting in SETTINGS.items():
        takes, default, _ = rows["hints.NAME" if key == "hints" else key]
        if setting.choices:
            assert takes.split(", ") == list(setting.choices)
        if setting.kind == "bool":
            assert takes == "true, false"
        if setting.default is not None:
            words = {True: "true", False: "false"}
            assert default == f"`{words.get(setting.default, setting.default)}`"
        assert ("user's file only" in rows.get(key, ["", "", ""])[2]) == setting.user_only


def test_environment_variables_are_documented() -> None:
    code = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))
    used = set(re.findall(r"[\"'`](DELTAVC_[A-Z_]+)[\"'`]", code))
    used |= {str(setting.environ) for setting in SETTINGS.values() if setting.environ}
    rows = table(read("reference/config.md"), "Environment variables").keys()
    topic = (SOURCE / "cli" / "topics" / "environment.md").read_text()
    assert {name for name in rows if name.startswith("DELTAVC_")} == used
    for name in rows - used:
        assert re.search(rf"[\"'`]{name}[\"'`]|click\.edit", code), name
    for name in used:
        assert name in topic


def test_sql_views_are_documented(tmp_path: Path) -> None:
    deltavc.init(tmp_path).branches()
    deltavc.open(tmp_path)._repo.reader()
    catalog = sqlite3.connect(tmp_path / ".deltavc" / "catalog.db")
    views = [row[0] for row in catalog.execute("select name from sqlite_master where type='view'")]
    page = read("reference/sql-views.md")
    assert set(views) == set(re.findall(r"^## `(\w+)`$", page, re.MULTILINE))
    for view in views:
        columns = [row[1] for row in catalog.execute(f"pragma table_info({view})")]
        assert list(table(page, f"`{view}`")) == columns
    catalog.close()


def test_topics_and_pages_know_the_same_words() -> None:
    topic = (SOURCE / "cli" / "topics" / "glossary.md").read_text()
    words = set(re.findall(r"^(\S+(?: \S+)*)  +\S", topic, re.MULTILINE))
    page = re.findall(r"^\| ([^|]+) \|", read("reference/glossary.md"), re.MULTILINE)
    assert len(words) > 20
    assert words <= set(page)
    assert sorted(page[2:], key=str.lower) == page[2:]
    revisions = (SOURCE / "cli" / "topics" / "revisions.md").read_text()
    for form in re.findall(r"^  ([A-Z@a-z][^ ,]*)(?:, (\S+))?  +\S", revisions, re.MULTILINE):
        for part in filter(None, form):
            assert f"`{part}`" in read("reference/revisions.md"), part


# records ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "heading", "kind"),
    [
        ("commit.md", "commit", model.Commit),
        ("commit.md", "recipe", model.Recipe),
        ("commit.md", "tag", model.Tag),
        ("commit.md", "measurement", model.Measurement),
        ("commit.md", "kpi", model.Kpi),
        ("commit.md", "gate", model.Gate),
        ("base.md", "basesource", model.BaseSource),
        ("manifest.md", None, model.Manifest),
        ("signature.md", "signature", ship.Signature),
        ("event-log.md", "Lines", model.Event),
        ("receipt.md", None, receipt.Receipt),
    ],
)
def test_records_are_documented(page: str, heading: str | None, kind: type) -> None:
    text = read(f"reference/format/{page}")
    if heading is None:
        text = text.partition("\n## ")[0]
    rows = table(text, heading)
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    assert rows.keys() == fields.keys()
    for name, (_, *rest) in rows.items():
        field = fields[name]
        if len(rest) < 2:
            assert field.required
        elif field.required:
            assert rest[0] == ""
        else:
            default = field.default
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            written = msgspec.json.encode(default).decode()
            assert rest[0] == f"`{written}`", name


# names, links, options ------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["architecture.md", "trace-of-a-commit.md", "trace-of-a-rollback.md"]
)
def test_names_of_the_code_exist(name: str) -> None:
    found = re.findall(r"`(deltavc(?:\.\w+)+)`", read(f"explanation/{name}"))
    assert len(found) > 20
    for dotted in found:
        words = dotted.split(".")
        for at in range(len(words), 0, -1):
            try:
                thing: object = importlib.import_module(".".join(words[:at]))
            except ModuleNotFoundError:
                continue
            for word in words[at:]:
                thing = getattr(thing, word)
            break
        else:
            raise AssertionError(dotted)


def slugs(text: str) -> set[str]:
    """Returns the anchors of a page: its headings as MyST names them, and its own targets."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)
    found = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
    return found | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    text = re.sub(r"^```.*?^```$", "", read(name), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        page = (DOCS / name).parent / path if path else DOCS / name
        assert page.is_file(), target
        if anchor:
            assert anchor in slugs(page.read_text()), target


def test_every_page_is_reached_from_the_index() -> None:
    seen, todo = set(), [DOCS / "index.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        for block in re.findall(
            r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE
        ):
            for line in block.splitlines():
                if line and not line.startswith(":"):
                    found = list(page.parent.glob(f"{line}.md"))
                    assert found, f"{page}: {line}"
                    todo += found
    assert seen == set(PAGES)


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith(("reference/cli/", "adr/"))])
def test_options_that_pages_mention_exist(name: str) -> None:
    known = FOREIGN_OPTIONS.union(options(ROOT), *(options(command) for _, command in verbs()))
    for option in re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", read(name)):
        assert option in known, option


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith(("reference/cli/", "adr/"))])
def test_commands_that_pages_show_exist(name: str) -> None:
    table_of = dict(verbs())
    for line in re.findall(r"(?:^\$ |`)deltavc ([^`\n]+)", read(name), re.MULTILINE):
        words = [word for word in line.split() if not word.startswith("-")]
        words = [word for word in words if word not in ("OPERATION", "VERB")]
        if not words:
            continue
        paths = (" ".join(words[:n]) for n in (3, 2, 1))
        path = next((path for path in paths if path in table_of), words[0])
        assert path in table_of or words[0] in ("VERB", *VERBS), line
        if path in table_of:
            mentioned = re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", line.partition('"')[0])
            assert set(mentioned) <= options(table_of[path]), line


# the Python API -------------------------------------------------------------------


def test_the_api_page_tells_of_each_method() -> None:
    page = read("reference/python-api.md")
    assert ".. automodule:: deltavc.api" in page
    methods = [m for n, m in inspect.getmembers(Repository) if not n.startswith("_")]
    assert len(methods) > 20
    for method in methods:
        assert inspect.getdoc(method)


def test_the_changelog_names_this_version() -> None:
    text = (ROOT_FOLDER / "CHANGELOG.md").read_text()
    assert f"## {deltavc.__version__.split('.dev')[0]}" in text
    for name in VERBS:
        assert f"`{name}" in text or f"{name}`" in text, name

"""Other people's SQL: what it may do, what it may not, and how long."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

import deltavc
from deltavc.catalog.queries import names, saved
from deltavc.catalog.query import Limits, run
from deltavc.catalog.views import views
from deltavc.errors import UsageError

from .conftest import Ask, Story

REFUSED = (
    "delete from events",
    "update events set actor = 'Eve'",
    "insert into labels values (1, 'a', 'b')",
    "drop table events",
    "create table t (a)",
    "create temp table t (a)",
    "alter table events add column x",
    "attach database ':memory:' as other",
    "detach database main",
    "vacuum into '/tmp/never'",
    "pragma query_only = off",
    "pragma user_version",
    "select * from pragma_table_info('events')",
    "select * from pragma_database_list",
    "select * from sqlite_temp_master",
    "select load_extension('x')",
    "select writefile('x', 'y')",
    "select readfile('/etc/passwd')",
    "select edit('x')",
    "select fts3_tokenizer('simple')",
    "select randomblob(1000000000)",
    "select zeroblob(1000000000)",
    "select printf('%.*c', 2000000000, 'x')",
    "select format('%1000000000d', 1)",
    "begin",
    "commit",
    "savepoint s",
    "reindex",
    "analyze",
    "select 1; select 2",
    "select 1; drop table events",
    "with t as (select 1) delete from events",
    "select * from nothing",
    "select nothing from v_events",
    "selct",
    "",
    "   -- only a comment",
    "select :missing",
    "select * from v_events where number = ?",
    "select 1\0; drop table events",
    "select '\ud800'",
    "select cast(x'ff' as text)",
    "select like('" + "%" * 300 + "', 'a')",
    "select abs(-9223372036854775808)",
    "select " + "(" * 400 + "1" + ")" * 400,
    "select " + ",".join("1" * 1 for _ in range(3000)),
)


@pytest.fixture(scope="module")
def catalog(told: Story) -> Path:
    repo = deltavc.open(told.folder)
    repo.query("select 1")
    return told.folder / ".deltavc" / "catalog.db"


@pytest.mark.parametrize("sql", REFUSED, ids=lambda sql: sql[:40] or "empty")
def test_what_is_not_plain_reading_is_refused_and_changes_nothing(catalog: Path, sql: str) -> None:
    before = catalog.read_bytes()
    with pytest.raises(UsageError) as refused:
        run(catalog, sql)
    assert refused.value.hint
    assert catalog.read_bytes() == before


@pytest.mark.parametrize(
    "sql",
    [
        "with recursive t(x) as (select 1 union all select x + 1 from t) select count(*) from t",
        "with recursive t(x) as (select 1 union all select x + 1 from t) select max(x) from t",
        "select count(*) from v_events a, v_events b, v_events c, v_events d, v_events e, v_events",
    ],
)
def test_what_runs_for_ever_is_stopped(catalog: Path, sql: str) -> None:
    with pytest.raises(UsageError, match=r"longer than 0\.2 s"):
        run(catalog, sql, limits=Limits(seconds=0.2))


@pytest.mark.parametrize(
    "sql",
    [
        "with recursive t(x) as (select 'aa' union all select x || x from t) select max(x) from t",
        (
            "with recursive t(x, y) as (select 1, hex(12345) union select x + 1, y || x from t)"
            " select count(*) from t"
        ),
    ],
)
def test_what_eats_memory_is_stopped(catalog: Path, sql: str) -> None:
    with pytest.raises(UsageError, match=r"memory|longer than"):
        run(catalog, sql, limits=Limits(seconds=5, memory=32 << 20))


def test_functions_of_long_texts_take_no_hours(catalog: Path) -> None:
    long = "replace(hex(hash || hash || hash), '3', '" + "a" * 4000 + "')"
    sql = f"select instr({long}, {long} || 'b'), length(trim({long}, 'a')) from v_events limit 1"
    assert run(catalog, sql, limits=Limits(seconds=5)).rows[0][0] == 0
    with pytest.raises(UsageError):
        run(catalog, f"select replace({long}, 'a', {long}) from v_events limit 1")


def test_the_answer_is_cut_and_says_so(catalog: Path, ask: Ask) -> None:
    endless = "with recursive t(x) as (select 1 union all select x + 1 from t) select x from t"
    answer = run(catalog, endless, limits=Limits(rows=100))
    assert (len(answer.rows), answer.cut) == (100, True)
    assert not run(catalog, endless + " limit 100", limits=Limits(rows=100)).cut
    assert run(catalog, "select hash from v_events", limits=Limits(bytes=200)).cut
    told = ask("audit", "query", endless, "-l", "3", "--format", "csv")
    assert told.out == "x\n1\n2\n3\n"
    assert "cut after 3 rows" in told.err


def test_values_are_bound_and_never_read_as_sql(ask: Ask) -> None:
    evil = "x' or '1'='1"
    found = ask(
        "audit", "query", "select count(*) as n from v_events where actor = :who",
        "--param", f"who={evil}", "--json",
    )  # fmt: skip
    assert found.data == [{"n": 0}]
    found = ask("audit", "query", "--saved", "changes-by", "--param", f"actor={evil}", "--json")
    assert found.data == []


def test_plain_questions_are_answered(catalog: Path) -> None:
    (row,) = run(catalog, "select count(*) from v_events").rows
    assert row[0] == 30
    sql = (
        "select e.command, count(*) filter (where r.value ->> 'name' like 'branch:%'),"
        " group_concat(distinct substr(e.actor, 1, 3))"
        " from v_events e left join json_each(e.refs) r group by 1 order by 1"
    )
    assert len(run(catalog, sql).rows) > 5
    assert run(catalog, "select replace(' a b', ' ', '-'), trim('  x '), instr('abc', 'c'),"
                        " ltrim('xxa', 'x'), rtrim('axx', 'x'), replace(NULL, 'a', 'b')").rows == [
        ("-a-b", "x", 3, "a", "a", None)
    ]  # fmt: skip
    assert run(catalog, "select name from sqlite_master where type = 'view'").rows
    assert run(catalog, "explain query plan select * from v_commits").rows


def test_a_damaged_catalog_is_not_the_users_fault(copy: Path, run: Ask) -> None:
    catalog = copy / ".deltavc" / "catalog.db"
    data = bytearray(catalog.read_bytes())
    for at in range(8192, len(data), 4096):
        data[at : at + 64] = b"\xff" * 64
    catalog.write_bytes(data)
    asked = run("audit", "query", "select * from v_events", "--json")
    assert asked.code in (0, 40)
    catalog.unlink()
    assert run("audit", "query", "select 1 as one", "--json").data == [{"one": 1}]


# saved queries -------------------------------------------------------------------


def test_saved_queries_are_well_written(ask: Ask) -> None:
    listed = ask("audit", "query", "--saved", "--json").data
    assert [row["name"] for row in listed] == list(names())
    assert len(listed) >= 20
    for name in names():
        found = saved(name)
        assert found.title
        assert found.question.startswith("Q")
        for param in found.params:
            assert f":{param.name}" in found.sql
            assert param.about
        assert name in ask("audit", "query", "--saved").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--saved", "live-et"], "did you mean 'live-at'"),
        (["--saved", "live-at"], "--param at=TIME"),
        (["--saved", "live-at", "--param", "at=yesterday-ish"], "is not a time"),
        (["--saved", "live-at", "--param", "at=now", "--param", "x=1"], "no parameter 'x'"),
        (["--saved", "made-by", "--param", "rev=nope"], "nope"),
        (["select 1", "--saved", "live-at"], "is one of"),
        ([], "is one of"),
        (["select 1", "--param", "novalue"], "KEY=VALUE"),
        (["select 1", "--timeout", "0"], "timeout"),
        (["--at-op", "1234", "select 1"], "1234"),
    ],
)
def test_wrong_questions_are_told_what_is_wrong(ask: Ask, words: list[str], message: str) -> None:
    asked = ask("audit", "query", *words)
    assert asked.code in (2, 20)
    assert message in asked.err
    assert asked.out == ""


def test_views_are_described_as_they_are(ask: Ask, catalog: Path) -> None:
    connection = sqlite3.connect(catalog)
    shown = {}
    for row in ask("audit", "query", "--views", "--json").data:
        assert row["meaning"]
        shown.setdefault(row["view"], []).append(row["column"])
    real = connection.execute("select name from sqlite_master where type = 'view'").fetchall()
    assert set(shown) == {name for (name,) in real}
    for name, columns in shown.items():
        assert columns == [r[1] for r in connection.execute(f"pragma table_info({name})")]
    connection.close()
    page = (Path(__file__).parents[2] / "docs" / "reference" / "sql-views.md").read_text()
    for name, view in views().items():
        section = page.partition(f"\n## `{name}`\n")[2].partition("\n## ")[0]
        assert view.about in section.replace("\n", " ")
        for column, meaning in view.columns.items():
            assert f"| `{column}` | {meaning} |" in section

"""`rulepatch sweep report`, `export` and `failures` on a sweep made by hand."""

import csv
import json
import sqlite3
import sys

import pytest

from rulepatch.sweeps.export import export_records, rows_of
from rulepatch.sweeps.store import Store, read_records


@pytest.fixture
def small(sweep_record, tmp_path):
    """A store of two cases and two sites, of which one job failed."""
    with Store(tmp_path / "small.sqlite") as store:
        for style in ("snow", "sand"):
            for site in ("features.3", "features.10"):
                store.put(sweep_record(style=style, site=site))
        store.put(sweep_record(settings={"rank": 3}, site="features.3", status="failed"))
    return tmp_path / "small.sqlite"


@pytest.mark.slow
def test_a_report_is_written_and_told(run, small, tmp_path):
    swept, before = small, small.read_bytes()
    found = run("sweep", "report", swept, "--out", tmp_path / "out", "--json").json()
    assert found["report"].endswith("report.html") and found["jobs"] == 5 and found["failed"] == 1
    assert json.loads((tmp_path / "out" / "summary.json").read_text("utf-8")).items() <= found.items()
    told = run("sweep", "report", swept, "--out", tmp_path / "out", "--least", "3", "--site", "features.10").out
    assert "at least 3 errors" in told and told.endswith("report.html\n")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert summary["studies"][0]["sites"] == ["features.10", "features.3"]
    assert swept.read_bytes() == before


def text_of(value):
    return "" if value is None else str(value)


def test_parquet_and_csv_hold_the_same_rows(run, swept, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run("sweep", "export", swept, "--out", tmp_path / "t.parquet", "--json").json()["records"] == 360
    assert "360 records" in run("sweep", "export", swept, "--out", tmp_path / "t.csv").out
    rows = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        plain = list(csv.DictReader(file))
    assert [{name: text_of(value) for name, value in row.items()} for row in rows] == plain
    assert rows == rows_of(read_records(swept))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("t")) == ["t.csv", "t.parquet"]


def test_the_table_holds_what_the_records_hold(swept):
    records = read_records(swept)
    rows = rows_of(records)
    for record, row in zip(records, rows, strict=True):
        assert row["key"] == record.key and json.loads(row["job.settings"]) == record.job["settings"]
        assert row["job.case.concept"] == "road" and row["job.members"] is None and row["attempts"] == record.attempts
        assert "result.chosen" not in row and "result" not in row
        name = "result.cells.other, train style.left"
        if record.result is None:
            assert row[name] is None and row["status"] == "failed" and "memory" in row["error"]
        else:
            assert row[name] == record.result["cells"]["other, train style"]["left"]
            chosen = record.result["chosen"]
            assert row["result.chosen.strength"] == (None if chosen is None else chosen["strength"])


def test_fractions_anywhere_are_fractions_everywhere(tmp_path, sweep_record):
    parquet = pytest.importorskip("pyarrow.parquet")
    half = sweep_record(settings={"rank": 2})
    half.result["chosen"]["strength"] = 0.5
    with Store(tmp_path / "s.sqlite") as store:
        for each in (sweep_record(), half):
            store.put(each)
    export_records(tmp_path / "s.sqlite", tmp_path / "t.parquet")
    column = parquet.read_table(tmp_path / "t.parquet")["result.chosen.strength"]
    assert sorted(column.to_pylist()) == [0.5, 1.0] and str(column.type) == "double"


def test_parquet_without_its_library_names_the_extra(run, swept, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = run("sweep", "export", swept, "--out", tmp_path / "t.parquet")
    assert done.code == 2 and "rulepatch[tables]" in done.err and not (tmp_path / "t.parquet").exists()
    assert run("sweep", "export", swept, "--out", tmp_path / "t.csv").code == 0


def test_failures_are_listed(run, swept):
    assert "8 of 360 jobs failed" in run("sweep", "failures", swept).out
    found = run("sweep", "failures", swept, "--json").json()
    assert len(found["failed"]) == 8 and found["failed"][0]["attempts"] == 3


@pytest.mark.parametrize("command", ["report", "export", "failures"])
@pytest.mark.parametrize("kind", ["missing", "empty", "text", "foreign", "nothing", "other"])
def test_bad_stores_are_one_sentence_and_nothing_is_written(run, tmp_path, command, kind, sweep_record):
    store, inside = tmp_path / f"{kind}.sqlite", tmp_path / "inside"
    inside.mkdir()
    if kind == "empty":
        store.touch()
    elif kind == "text":
        store.write_text("no database, but long enough to look at " * 40)
    elif kind == "foreign":
        with sqlite3.connect(store) as file:
            file.execute("CREATE TABLE theirs (x)")
        file.close()
    elif kind != "missing":
        with Store(store) as made:
            if kind == "other":
                record = sweep_record()
                made.put(type(record)({"seed": 0}, "done", {"x": 1}))
    out = {"report": ["--out", inside / "out"], "export": ["--out", inside / "t.csv"], "failures": []}[command]
    before = sorted(tmp_path.iterdir())
    done = run("sweep", command, store, *out)
    if command == "export" and kind == "other":
        assert done.code == 0  # a table of whatever records there are
        return
    assert done.code == 2 and done.err.startswith("rulepatch: expected ") and done.err.count("\n") == 1 and not done.out
    assert sorted(tmp_path.iterdir()) == before and not list(inside.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--out", "t.xlsx"], ".parquet or .csv"),
        (["export", "--out", "nowhere/t.csv"], "nowhere"),
        (["report", "--out", "sweep.sqlite"], "is a file"),
        (["report", "--out", "sweep.sqlite/below/it"], "is a file"),
        (["report", "--out", "new", "--least", "0"], "at least 1"),
        (["report"], "--out"),
    ],
)
def test_bad_arguments_are_one_sentence_and_nothing_is_written(run, swept, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    done = run("sweep", arguments[0], swept, *arguments[1:])
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1 and not done.out
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_a_plan_needs_no_command_and_commands_are_commands(run, monkeypatch):
    """What is no command is the plan of a run."""
    from rulepatch.cli import sweep_commands

    group = sweep_commands._RunByDefault(name="sweep")
    taken = []
    monkeypatch.setattr(sweep_commands.TyperGroup, "parse_args", lambda self, ctx, args: taken.append(args) or args)
    group.commands = {"run": None, "report": None}

    class Context:
        help_option_names = ("--help",)

    for given in (
        ["plan.yaml"],
        ["run", "plan.yaml"],
        ["report", "s"],
        ["--help"],
        [],
        ["--workers", "2", "plan.yaml"],
    ):
        group.parse_args(Context(), given)
    assert taken == [
        ["run", "plan.yaml"], ["run", "plan.yaml"], ["report", "s"], ["--help"], ["--help"],
        ["run", "--workers", "2", "plan.yaml"],
    ]  # fmt: skip


def test_help_names_the_commands(run):
    told = run("sweep", "--help")
    assert told.code == 0 and all(name in told.out for name in ("run", "report", "export", "failures"))
    assert run("sweep").out == told.out

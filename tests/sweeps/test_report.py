"""The report of a sweep: its numbers are those of the results, its figures are there, its files are whole."""

import csv
import io
import json
import random
import re
import xml.etree.ElementTree as ET

import pytest
from matplotlib.figure import Figure
from pytest import approx

from rulepatch.concepts.cases import CELLS
from rulepatch.errors import OutputError, SettingError
from rulepatch.experiments.grids import METHODS
from rulepatch.sweeps.analysis import SweepReport
from rulepatch.sweeps.failures import Failures
from rulepatch.sweeps.figures import LOOKS, draw_cells
from rulepatch.sweeps.report import drawings_of, page_of, write_report
from rulepatch.sweeps.results import base_of, order_of_sites
from rulepatch.sweeps.store import Store

KINDS = {"cells", "sites", "ablations", "ablations-by-site", "damage"}


@pytest.fixture(scope="module")
def report(swept_records):
    return SweepReport("sweep.sqlite", swept_records)


@pytest.fixture(scope="module")
def written(report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    return folder, write_report(report, folder)


def names(records, **settings):
    return {each.name for own in drawings_of(SweepReport("s", records, **settings)).values() for each in own}


@pytest.mark.slow
def test_all_files_are_there_and_nothing_else(written):
    folder, files = written
    assert files[0] == folder / "report.html" and sorted(folder.iterdir()) == sorted(files)
    stems = {path.stem for path in files if path.suffix == ".svg"}
    assert stems == {f"small-net-{kind}-{count}" for kind in KINDS for count in (3, 10)} | {"small-net-exemplars"}


@pytest.mark.slow
def test_figures_are_well_formed_and_hold_something(written):
    _, files = written
    for path in files:
        if path.suffix == ".svg":
            root = ET.fromstring(path.read_text("utf-8"))
            assert root.tag.endswith("svg") and len(list(root.iter())) > 200, path


@pytest.mark.slow
def test_the_same_records_give_the_same_files_to_the_byte_in_any_order(written, swept_records, tmp_path):
    folder, _ = written
    again = SweepReport("sweep.sqlite", random.Random(1).sample(swept_records, len(swept_records)))
    for path in write_report(again, tmp_path):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_the_page_needs_nothing_else_and_says_what_was_swept(written, report):
    page = (written[0] / "report.html").read_text("utf-8")
    assert not re.search(r"(?:src|href)=\"(?!data:)", page) and page.count("data:image/svg+xml") == 11
    for words in ("360 jobs", "8 failed", "6</b>with 6 targets", "0.25 points", "seed 0", "torch 2", "finetune-global*",
                  "<code>features.3</code>", "8 jobs of finetune-global", "at least 5 errors",
                  "rewrite − last-layer", "rewrite: 10 − 3 exemplars"):  # fmt: skip
        assert words in page, words
    for drawn in next(iter(drawings_of(report).values())):
        assert drawn.heading in page and drawn.reading[:40] in page


def test_names_are_escaped(sweep_record):
    report = SweepReport("<b>s", [sweep_record(style="<script>x", name="net<i>"), sweep_record(style="b")])
    page = page_of(report, drawings_of(report))
    assert "<script>" not in page and "net<i>" not in page and "<b>s" not in page


def test_numbers_by_hand(sweep_record):
    records = [
        sweep_record("rewrite", style, corrected=8, caused=1, lost=2) for style in ("a", "b", "c")
    ] + [sweep_record("dense", style, corrected=value, gained=gained) for style, value, gained in
         (("a", 5, 9), ("b", 3, 9), ("c", 9, 0))]  # fmt: skip
    (study,) = SweepReport("s", records).to_json()["studies"]
    (part,) = study["results"]
    rows = {each["method"]: each for each in part["methods"]}
    assert rows["rewrite"]["cells"][CELLS[2]]["corrected"] == {
        "mean": approx(0.8),
        "interval": approx((0.8, 0.8)),
        "cases": 3,
    }
    assert rows["rewrite"]["cells"][CELLS[2]]["net"]["mean"] == approx(0.7)
    assert rows["dense"]["cells"][CELLS[2]]["corrected"]["mean"] == approx(0.8 / 3)  # the last has no edit
    assert rows["dense"]["without_edit"] == 1 and rows["dense"]["points_lost"]["mean"] == approx(2 / 3 / 400)
    (row,) = [
        each for each in part["comparisons"] if each["cell"] == CELLS[0] and each["measure"] == "corrected"
    ]  # fmt: skip
    assert (row["first"], row["second"], row["wins"], row["losses"], row["p"]) == ("rewrite", "dense", 3, 0, 0.25)
    assert row["mean"] == approx((0.3 + 0.5 + 0.8) / 3)


def test_the_table_of_results_holds_the_means_of_the_summary(report):
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert len(rows) == 6 * 2 * (7 * 2 + 1)
    (study,) = report.to_json()["studies"]
    cell = CELLS[3]
    for part in study["results"]:
        for method in part["methods"]:
            own = [
                1 - int(row[f"cells.{cell}.left"]) / int(row[f"cells.{cell}.errors"])
                for row in rows
                if row["best_site"] == "True" and row["method"] == method["method"]
                and int(row["exemplars"]) == part["exemplars"]
            ]  # fmt: skip
            assert len(own) == 6 and sum(own) / 6 == approx(method["cells"][cell]["corrected"]["mean"])


def test_more_exemplars_are_compared_with_fewer(report):
    (study,) = report.to_json()["studies"]
    (row,) = [
        each for each in study["by_exemplars"]
        if (each["method"], each["cell"], each["measure"]) == ("rewrite", CELLS[1], "corrected")
    ]  # fmt: skip
    assert (row["first"], row["second"], row["cases"], row["losses"]) == (10, 3, 6, 0) and row["mean"] > 0


def test_what_is_missing_leaves_figures_out(sweep_record):
    """One site, no ablation, one number of exemplars; then no errors at all."""
    styles = ("a", "b")
    assert names([sweep_record(style=style) for style in styles]) == {"small-net-cells-3", "small-net-damage-3"}
    assert names([sweep_record(style=style, errors=2, corrected=1) for style in styles]) == set()
    assert len(names([sweep_record(style=style, errors=2, corrected=1) for style in styles], least=2)) == 2
    last = [sweep_record("last-layer", style, site=None) for style in styles]
    assert names(last) == {"small-net-cells-3", "small-net-damage-3"}
    alone = [sweep_record("rewrite-mask", style) for style in styles]  # an ablation of nothing that is there
    assert "small-net-ablations-3" not in names(alone)


@pytest.mark.slow
def test_each_model_budget_and_version_has_a_page_of_its_own(sweep_record, tmp_path):
    records = [
        sweep_record(),
        sweep_record(model="f" * 16),
        sweep_record(max_drop=0.01),
        sweep_record(model="e" * 16, name="small-net"),
    ]
    report = SweepReport("s", records)
    assert set(report.titles.values()) == {
        "small net, model 01234567, budget 0.25 %", "small net, model 01234567, budget 1 %",
        "small net, model ffffffff, budget 0.25 %", "small-net",
    }  # fmt: skip
    assert len({path.name for path in write_report(report, tmp_path)}) == len(list(tmp_path.iterdir())) == 4 + 4 * 2


def test_file_names_of_models_alike_differ(sweep_record):
    records = [sweep_record(model=letter * 16, name=name) for letter, name in (("a", "net/1"), ("b", "net 1"))]
    assert len(names(records)) == 4


def test_the_order_of_sites_is_the_given_one_then_by_number():
    sites = ["conv_head", "blocks.10.a", "blocks.9.a", "conv_stem", "blocks.9.b"]
    assert order_of_sites(sites)[:3] == ["blocks.9.a", "blocks.9.b", "blocks.10.a"]
    assert order_of_sites(sites, ["conv_stem", "gone"])[0] == "conv_stem"
    assert order_of_sites(["7", "a", "10"]) == ["7", "10", "a"]


def test_every_method_has_a_colour_of_its_own_and_ablations_that_of_what_they_ablate():
    assert {base_of(method) for method in METHODS} == set(LOOKS)
    assert len({colour for colour, _ in LOOKS.values()}) == len({mark for _, mark in LOOKS.values()}) == len(LOOKS)
    assert [each for each in METHODS if base_of(each) != each] == [
        "rewrite-mask", "projected-adam-mask", "projected-adam-proj", "finetune-local+proj", "finetune-global+proj",
    ]  # fmt: skip


def test_a_method_unknown_to_this_version_is_shown_too(sweep_record):
    report = SweepReport("s", [sweep_record("later"), sweep_record("rewrite")])
    assert "later" in report.to_text() and isinstance(draw_cells(report.best, title="t"), Figure)


def test_text_and_markdown_tell_every_method(report):
    for told in (report.to_text(), report.to_markdown()):
        assert told.count("rewrite-mask") == 2 and "3 exemplars" in told and "10 exemplars" in told


def test_an_errors_caused_without_bound_do_not_break_the_axes(sweep_record):
    report = SweepReport("s", [sweep_record(style=style, caused=500, corrected=1) for style in ("a", "b")])
    figure = draw_cells(report.best, title="t")
    assert figure.axes[0].get_xlim()[0] >= -110
    assert report.to_json()["studies"][0]["results"][0]["methods"][0]["cells"][CELLS[0]]["net"]["mean"] < -40


@pytest.mark.parametrize("where", ["taken", "taken/below/it"])
def test_nothing_is_written_where_a_file_is(report, tmp_path, where):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError, match="taken is a file"):
        write_report(report, tmp_path / where)
    assert (tmp_path / "taken").read_text() == "mine"


def test_what_cannot_be_reported_is_refused(tmp_path, sweep_record):
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        store.put(sweep_record(status="failed"))
    with pytest.raises(SettingError, match="all 1 failed"):
        SweepReport.read(path)
    with pytest.raises(SettingError, match="at least 1"):
        SweepReport.read(path, least=0)


def test_failures_are_told_by_error_and_all_in_the_json(swept):
    found = Failures.read(swept)
    assert len(found.failed) == 8 and found.jobs == 360 and len(found.to_json()["failed"]) == 8
    told = found.to_text()
    assert "8 jobs:\n  ValueError: no memory\n" in told and "- and 5 more" in told
    assert "finetune-global (rank 3) at features.10 of small net: road in ice, 10 exemplars of van, seed 0" in told
    assert json.dumps(found.to_json())


def test_no_failures_are_good_news(tmp_path, sweep_record):
    with Store(tmp_path / "s.sqlite") as store:
        store.put(sweep_record())
    assert Failures.read(tmp_path / "s.sqlite").to_text() == "none of 1 job failed"

"""One list of hostile names, sent through every way out: terminals, figures, Markdown, CSV, HTML and JSON."""

import csv
import io
import json
import re
import warnings
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image

from rulepatch.cli import main
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.discovery.concept_effects import ConceptEffect
from rulepatch.discovery.report import draw_heat_maps
from rulepatch.escaping import for_csv, for_figure, for_html, for_markdown, for_terminal, json_text, one_line
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.evaluation.figures import draw_rocs
from rulepatch.evaluation.predict import predict
from rulepatch.evaluation.report import render_report
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import training_images
from rulepatch.progress import Bar
from rulepatch.sweeps.analysis import SweepReport
from rulepatch.sweeps.export import export_records
from rulepatch.sweeps.report import write_report
from rulepatch.sweeps.store import Store
from rulepatch.text import Table

NAMES = [
    r"$\alpha$ and $x^{",
    "$$",
    "a $5 van and a $6 car",
    r"\$ \\$",
    "=HYPERLINK(\"http://evil.example\")",
    "@SUM(1)",
    "+2+3",
    "-2+3+cmd|' /C calc'!A0",
    "\t=1",
    "<script>alert(1)</script>",
    "\"><img src=http://evil.example/x onerror=alert(1)>",
    "![x](http://evil.example/x)",
    "[x](javascript:alert(1))",
    "a | b",
    "**bold** _em_ `code` ~~gone~~",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b[2J\x1b[31mred",
    "\x9b31m",
    "\u202egnp.exe",
    "\u2066hidden\u2069",
    "\udcff",
    "_hidden",
    "two\nlines\rthree",
    "\x00",
    "%s {0} {{ 7 * 7 }} {% raw %}",
    "--out=/etc/passwd",
    "~root",
    "🚗 雪",
    "x" * 5000,
]  # fmt: skip


def with_names(names):
    """A test for each of some names, which go by number: not every terminal and library takes them."""
    return pytest.mark.parametrize("name", names, ids=[str(NAMES.index(each)) for each in names])


CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.attributes = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        self.attributes += [name for name, _ in attrs]


@pytest.fixture(scope="module")
def model():
    plain = load_model("playground")
    names = [NAMES[i % len(NAMES)] + f" {i}" for i in range(len(plain.classes))]
    return Classifier(plain.module, plain.preprocess, names, name=NAMES[0] + NAMES[9])


@pytest.fixture(scope="module")
def images():
    some = training_images(30, seed=5)
    return ImageSet(tuple(Picture(each.read(), i % 12) for i, each in enumerate(some.pictures)), NAMES[9])


def drawn(figure: Figure) -> str:
    """The figure as SVG, drawn without a warning."""
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Glyph|constrained_layout")
        figure.savefig(text, format="svg", metadata={"Date": None})
    ElementTree.fromstring(text.getvalue())
    return text.getvalue()


@with_names(NAMES)
def test_terminals(name):
    assert not CONTROLS.search(for_terminal(name)) and for_terminal(for_terminal(name)) == for_terminal(name)
    assert "\n" not in one_line(name) and not CONTROLS.search(one_line(name))
    assert len(Table([name], [[name], [name]]).to_text().split("\n")) == 3


@with_names(NAMES)
def test_figures(name):
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], label=for_figure(name))
    axes.set(title=for_figure(name))
    axes.set_xticks([0, 1], [for_figure(name), "a"])
    assert len(axes.legend().get_texts()) == 1, "every name has its line in a legend"
    drawn(figure)
    shown = axes.title.get_text().replace(r"\$", "$").strip()
    assert shown[:20] == one_line(name).strip()[:20]


@with_names(NAMES)
def test_markdown(name):
    table = Table(["name", "n"], [[name, 1]]).to_markdown().split("\n")
    assert len(table) == 3 and len(re.findall(r"(?<!\\)\|", table[2])) == 3
    plain = for_markdown(name)
    assert not re.search(r"(?<!\\)[\[\]`*<>]", plain), "no link, image, emphasis, code or element"


@with_names(NAMES)
def test_tables(name):
    ((_, cell),) = list(csv.reader(io.StringIO(Table(["a", "b"], [[1, name]]).to_csv())))[1:]
    assert not re.match(r"[=+\-@\t\r]", cell) and not CONTROLS.search(cell.replace("\r", ""))
    assert for_csv("-0.4") == "-0.4" and for_csv("+2.5 %") == "+2.5 %" and for_csv("1e-3") == "1e-3"


@with_names(NAMES)
def test_html_and_json(name):
    assert Tags(f'<p title="{for_html(name)}">{for_html(name)}</p>').found == ["p"]
    found = json_text({name: name})
    found.encode()
    assert json.loads(found) == {name: name} and not CONTROLS.search(found)
    assert json.loads(json_text([float("nan"), float("inf"), {"a": (1.0, -float("inf"))}])) == [
        None,
        None,
        {"a": [1, None]},
    ]


def test_progress(capsys):
    for name in NAMES[:-1]:
        with Bar(2, name, shown=True) as bar:
            bar.update(2)
    assert not CONTROLS.search(capsys.readouterr().err.replace("\r", ""))


def test_predictions_and_their_page(model, images):
    answers = predict(model, images, progress=False)
    for_terminal(answers.to_text())
    rows = list(csv.reader(io.StringIO(answers.to_csv())))
    assert not [cell for row in rows for cell in row if re.match(r"[=@\t]", cell)]
    json.loads(json_text(answers.to_json()))


def test_evaluations_and_their_page(model, images, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels mean nothing here
        found = evaluate(model, None, tests=images, reference=images, progress=False)
    page = render_report(found)
    assert "onerror" not in Tags(page).attributes and "<script>alert" not in page
    page.encode()
    json.loads(json_text(found.to_json()))


def test_figures_of_reports():
    rows = [
        ConceptEffect(name, name, other, 9, 1.0, 0.5, 0.5, (0.1, 0.9), 5, 0, 0.1, (0.0, 0.2), 0.01, 0.01, 0.01, {})
        for name in NAMES
        for other in (NAMES[0], NAMES[4])
    ]
    drawn(draw_heat_maps([(NAMES[0], rows, rows[:1])], [NAMES[0], NAMES[1], NAMES[16]]))
    drawn(draw_rocs(dict.fromkeys(NAMES[:4], (None, None))))


def test_sweeps(sweep_record, tmp_path):
    records = [sweep_record(style=name, name=name, concept=name, target=name, site=name) for name in NAMES]
    report = SweepReport("sweep", records)
    for path in write_report(report, tmp_path / "report"):
        text = path.read_text("utf-8")
        if path.suffix == ".svg":
            ElementTree.fromstring(text)
    assert "<script>" not in (tmp_path / "report" / "report.html").read_text("utf-8")
    told = (tmp_path / "report" / "summary.md").read_text("utf-8")
    assert "<script>" not in told and "![x](" not in told
    json.loads((tmp_path / "report" / "summary.json").read_text("utf-8"))
    for_terminal(report.to_text()).encode()


def test_exports(sweep_record, tmp_path):
    with Store(tmp_path / "sweep.sqlite") as store:
        for name in NAMES:
            store.put(sweep_record(style=name, name=name))
    for suffix in ("csv", "parquet"):
        assert export_records(tmp_path / "sweep.sqlite", tmp_path / f"all.{suffix}") == len(NAMES)


@with_names([each for each in NAMES if "\x00" not in each and len(each) < 99 and "/" not in each])
def test_commands(name, tmp_path, capsys):
    """Files and folders with hostile names, and names that do not exist, in what a command says."""
    folder = tmp_path / name
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
    for arguments in (
        ["predict", "playground", str(folder)],
        ["predict", "playground", str(folder), "--json"],
        ["predict", "playground", str(folder), "--csv", "-"],
        ["predict", str(tmp_path / name / "none"), str(folder)],
        ["show", str(folder / f"{name}.png")],
        [
            "edit",
            "--model",
            "playground",
            "--exemplar",
            str(folder),
            "--reference",
            str(folder),
            "-o",
            name,
            "--site",
            name,
        ],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        told = capsys.readouterr()
        assert ended.value.code in {0, 2}, told.err
        (told.out + told.err).encode()
        assert not CONTROLS.search(told.out + told.err)
        assert "Traceback" not in told.err

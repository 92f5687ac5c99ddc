"""What the README and the docs say is true: snippets run, links lead somewhere, tables are those that were measured."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def demo_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    (folder / "told.txt").write_text(run(["rulepatch", "demo"], folder), "utf-8")
    return folder


@pytest.fixture
def demo(demo_once, tmp_path):
    """A folder in which the demo was run, as the README tells the reader to, and nothing else."""
    return shutil.copytree(demo_once, tmp_path / "reader")


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_commands_of_the_readme_run(demo):
    commands = [
        line
        for block in blocks(ROOT / "README.md", "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("rulepatch ")
    ]
    assert len(commands) >= 4
    for command in commands:
        run(command.split(), demo)
    assert (demo / "report.html").stat().st_size > 50_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page, "python") and page.name != "CONTRIBUTING.md"],
    ids=lambda page: page.name,
)
def test_the_python_of_the_docs_runs(page, demo):
    for number, block in enumerate(blocks(page, "python")):
        (demo / f"snippet_{number}.py").write_text(block)
        run([sys.executable, f"snippet_{number}.py"], demo)


@pytest.mark.slow
def test_what_the_demo_tells_to_try_next_runs(demo):
    told = (demo / "told.txt").read_text("utf-8").replace("\\\n", " ")
    commands = re.findall(r"^.*?(rulepatch (?:show|sites|edit|evaluate) .*)$", told, flags=re.MULTILINE)
    assert {command.split()[1] for command in commands} == {"show", "sites", "edit", "evaluate"}
    for command in commands:
        run(command.split(), demo)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_sketch_of_a_new_editor_names_what_there_is():
    """The snippet of CONTRIBUTING.md is a sketch of a file, not a program: it parses, and its names exist."""
    from rulepatch import methods
    from rulepatch.core import linalg, moments, site_activations
    from rulepatch.editors import registry, subspace

    (sketch,) = (block for block in blocks(ROOT / "CONTRIBUTING.md", "python") if "@editor" in block)
    calls = [node.func for node in ast.walk(ast.parse(sketch)) if isinstance(node, ast.Call)]
    called = {call.id if isinstance(call, ast.Name) else call.attr for call in calls} - {"append"}
    assert called == {"Field", "editor", "concept_keys", "whitening", "directions", "low_rank_change"}
    homes = (methods, linalg, moments.KeyStatistics, site_activations.SiteActivations, registry, subspace)
    assert all(any(hasattr(home, name) for home in homes) for name in {*called, "Method", "FLOOR", "check_rank"})


def test_the_sketch_of_a_new_segmenter_names_what_there_is():
    import inspect

    from rulepatch.concepts import segment
    from rulepatch.concepts.segmenters.bases import SingleNetwork

    (sketch,) = (block for block in blocks(ROOT / "CONTRIBUTING.md", "python") if "@segmenter" in block)
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(sketch)) if isinstance(node, ast.Call)]
    assert calls == ["segmenter", "MySegmenter.of"]
    assert hasattr(segment, "segmenter") and {"default"} <= set(inspect.signature(SingleNetwork.of).parameters)


def test_the_page_on_plugins_shows_the_example():
    page, example = ROOT / "docs" / "plugins.md", ROOT / "examples" / "rulepatch_plugin"
    shown = blocks(page, "python")
    for name in ("segmenter", "editor"):
        assert (example / "rulepatch_example" / f"{name}.py").read_text("utf-8") in shown
    (table,) = blocks(page, "toml")
    points = tomllib.loads((example / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    assert tomllib.loads(table)["project"]["entry-points"] == points


def test_the_tables_are_what_was_recorded():
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.tables import BLOCK, PAGES, VIEWS, filled
    finally:
        sys.path.remove(str(ROOT))
    shown = set()
    for page in PAGES:
        text = page.read_text("utf-8")
        assert filled(text) == text, f"{page.name} is not what was recorded; run python -m benchmarks.tables"
        shown |= {name for name, _ in BLOCK.findall(text)}
    assert shown == set(VIEWS)


def test_the_tables_of_settings_are_made_of_their_fields():
    page = ROOT / "docs" / "methods.md"
    filled = runpy.run_path(str(ROOT / "docs" / "make_methods.py"))["filled"]
    assert filled(page.read_text("utf-8")) == page.read_text("utf-8"), "run python docs/make_methods.py"


def test_the_symbols_are_where_the_notation_says():
    text = (ROOT / "docs" / "notation.md").read_text("utf-8")
    names = re.findall(r"`((?:\w+\.)+\w+)(?:\(\))?`(?=[^|]*\|[^|]*\|[^|]*\|$)", text, flags=re.MULTILINE)
    assert len(names) > 10
    for name in names:
        assert resolve_name(f"rulepatch.{name}"), name


def test_pages_and_examples_use_public_names_alone():
    described = re.findall(r"^::: (\S+)", (ROOT / "docs" / "reference.md").read_text("utf-8"), flags=re.MULTILINE)
    public = {f"{name}.{each}" for name in described for each in getattr(resolve_name(name), "__all__", [])}
    programs = [block for page in PAGES if page.name != "CONTRIBUTING.md" for block in blocks(page, "python")]
    programs += [path.read_text("utf-8") for path in sorted((ROOT / "examples").rglob("*.py"))]
    used = set()
    for node in (node for program in programs for node in ast.walk(ast.parse(program))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rulepatch"):
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rp":
            used.add(f"rulepatch.{node.attr}")
    assert len(used) > 30 and used - public - {*described} == set()


def test_no_page_or_file_names_a_machine_or_a_registry():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in tracked or [str(path.relative_to(ROOT)) for path in PAGES]:
        path = ROOT / name
        if path.suffix in {".jpg", ".png", ".safetensors"} or path == Path(__file__) or not path.exists():
            continue
        text = path.read_text("utf-8")
        assert not re.search(r"/(?:work|root|home)/\w|py[p]i\.org|python[h]osted|/tmp/\w", text), name

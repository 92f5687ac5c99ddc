"""Benchmarks and examples call what there is: they run too long to be run here."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = [
    path
    for folder in ("benchmarks", "examples", "tools", "docs")
    for path in sorted((ROOT / folder).glob("*.py"))
    if path.name != "__main__.py"
]


def missing(program):
    """Names that a program takes of modules of this project, and which these do not have."""
    tree, modules, found = ast.parse(program), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {each.asname: importlib.import_module(each.name) for each in node.names if each.asname == "rp"}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"rulepatch", "benchmarks"}:
            for each in node.names:
                try:
                    value = getattr(importlib.import_module(node.module), each.name, None)
                    value = value or importlib.import_module(f"{node.module}.{each.name}")
                except ImportError:
                    found.append(f"{node.module}.{each.name}")
                else:
                    if isinstance(value, ModuleType):
                        modules[each.asname or each.name] = value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            name = f"{node.value.id}.{node.attr}"
            found += [] if hasattr(modules[node.value.id], node.attr) else [name]
    return found


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_a_program_calls_is_there(path):
    assert not missing(path.read_text("utf-8"))


@pytest.mark.parametrize("name", [path.stem for path in PROGRAMS if path.parent.name == "benchmarks"])
def test_a_benchmark_can_be_imported(name):
    importlib.import_module(f"benchmarks.{name}" if name != "__init__" else "benchmarks")


def test_what_is_gone_would_be_told():
    gone = "import rulepatch as rp\nfrom rulepatch.core import linalg\nfrom rulepatch.editors.problem import pose\n"
    assert missing(f"{gone}linalg.damage, linalg.solve, rp.load_model, rp.rewrite_posed") == [
        "rulepatch.editors.problem.pose", "linalg.solve", "rp.rewrite_posed",
    ]  # fmt: skip

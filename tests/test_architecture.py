"""The package is as docs/architecture.md says: who may import whom, what is loaded when, where hooks are made."""

import ast
import dataclasses
import functools
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rulepatch

SOURCE = Path(rulepatch.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# From the lowest layer up. Packages of one layer do not import each other.
LAYERS = [
    {
        *("errors", "chance", "collectives", "colours", "digests", "escaping", "files", "forms", "forward", "images"),
        *("interrupts", "lazy", "mask_values", "masks"),
        *("memory", "methods", "notebook", "pixels", "progress", "reading", "registry", "settings", "tensors", "text"),
        *("thumbnails", "timing", "trust", "unfinished", "wrappers"),
    },
    {"tracing", "models", "records"},
    {"core"},
    {"data"},
    {"editors", "parallel", "playground"},
    {"concepts"},
    {"evaluation"},
    {"discovery", "experiments", "inverse", "new_classes", "site_search"},
    {"sweeps", "workflows"},
    {"web"},
    {"cli"},
    {"__init__", "__main__"},
]
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
# Within `core`, too, there is an up and a down.
CORE = [
    "linalg", "moments", "exemplars",
    "site_activations",
    "changes", "patched_model", "edit",
]  # fmt: skip


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Modules of rulepatch that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rulepatch"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("rulepatch")}
    return found


def lower(importer: str, imported: str) -> bool:
    return importer == imported or LAYER_OF[imported] < LAYER_OF[importer]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_packages_import_only_from_layers_below(path):
    package = package_of(path)
    assert package in LAYER_OF, f"{package} has no layer yet"
    for name in imports_of(path):
        parts = name.split(".")
        if len(parts) > 1 and parts[1] in LAYER_OF and not (LAYER_OF[package] == 0 and LAYER_OF[parts[1]] == 0):
            assert lower(package, parts[1]), f"{package} imports {name}"


def graph_of_files() -> dict[str, set[str]]:
    """The files that each file imports, anywhere in it, by their dotted names within the package."""
    names = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in FILES}
    graph = {}
    for name, path in names.items():
        parts = [imported.removeprefix("rulepatch.") for imported in imports_of(path)]
        graph[name] = ({*parts, *(part.rpartition(".")[0] for part in parts)} & names.keys()) - {name}
    return graph


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Names that lead back to where they began; none if there is no circle."""
    done: set[str] = set()

    def follow(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        circle = [] if name in done else next(filter(None, (follow(e, [*way, name]) for e in sorted(graph[name]))), [])
        done.add(name)
        return circle

    return next(filter(None, (follow(name, []) for name in sorted(graph))), [])


@pytest.mark.slow
def test_no_files_import_each_other_in_a_circle():
    """Results do not render, renderers import results: not even lazily or for the sake of types the other way round."""
    graph = graph_of_files()
    assert not circle_in(graph), " → ".join(circle_in(graph))


def test_a_circle_would_be_found():
    assert circle_in({"a": {"b", "c"}, "b": set(), "c": {"d"}, "d": {"c"}}) == ["c", "d", "c"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_law_would_be_broken_by_an_import_upwards():
    assert not lower("core", "data") and not lower("models", "core") and lower("editors", "core")


@pytest.mark.parametrize("name", CORE)
def test_core_is_built_from_the_ground_up(name):
    for imported in imports_of(SOURCE / "core" / f"{name}.py"):
        for other in CORE[CORE.index(name) + 1 :]:
            assert not imported.startswith(f"rulepatch.core.{other}"), imported


def test_only_one_file_makes_hooks():
    makers = {
        path.name for path in FILES if re.search(r"register_\w*hook|\.forward = |\[.forward.\]", path.read_text())
    }
    assert makers == {"capture.py"}


def test_no_file_loads_pickles():
    for path in FILES:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not re.search(r"import pickle|pickle\.load|joblib\.load|allow_pickle=True", line), path
            assert "torch.load(" not in line or "weights_only=True" in line, path


DOORS = {
    "json.load": {"reading.py"},
    "json.loads": {"reading.py"},
    "tomllib": {"reading.py"},
    "yaml": {"reading.py"},
    "safetensors.torch.load": set(),
    "safetensors.torch.load_file": set(),
    "safetensors.safe_open": {"activations.py"},  # of a temporary file of its own
    "torch.load": {"checkpoints.py"},
    "sqlite3.connect": {"store.py"},
    "PIL.Image.open": {"images.py", "picture_files.py"},
    "pandas": set(),
    "pickle": set(),
    "numpy.load": {"masks.py"},  # arrays of pixels
}
"""What reads files or texts of others, and the files that may use it."""


def used_names(path: Path) -> set[str]:
    """Dotted names of what a file uses of other libraries, and of what they are in, however it imports them."""
    tree, called, found = tree_of(path), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            called |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names if alias.asname}
            called |= {alias.name.partition(".")[0]: alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            called |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts, node = [node.attr, *parts], node.value
        if isinstance(node, ast.Name) and node.id in called:
            names = [called[node.id], *parts]
            found |= {".".join(names[: i + 1]) for i in range(len(names))}
    return found


def test_what_others_wrote_comes_in_through_the_doors():
    for path in FILES:
        past = {name for name in used_names(path) & DOORS.keys() if path.name not in DOORS[name]}
        assert not past, f"{path.name} uses {', '.join(past)}; see reading.py, tensors.py and images.py"


def test_a_way_around_the_doors_would_be_found(tmp_path):
    texts = {
        "json.loads": "import json as j\nj.loads('1')",
        "json.load": "from json import load as read\nread(0)",
        "tomllib": "def f():\n    import tomllib\n    tomllib.loads('')",
        "PIL.Image.open": "from PIL import Image\nImage.open('a')",
        "torch.load": "import torch\nx = torch.load",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
        assert name in used_names(tmp_path / f"{name}.py"), name
    (tmp_path / "fine.py").write_text("import json, torch\njson.dumps(torch.ones(1).tolist())")
    assert not used_names(tmp_path / "fine.py") & DOORS.keys()


def exporting_packages():
    """Names of the packages that export what their `__all__` lists, each loaded when it is first used."""
    return [
        ".".join(("rulepatch", *path.relative_to(SOURCE).parent.parts))
        for path in FILES
        if path.name == "__init__.py" and "exports(__name__)" in path.read_text("utf-8")
    ]


def test_the_public_face_is_small():
    assert len(rulepatch.__all__) <= 32
    with pytest.raises(AttributeError, match="'rulepatch' has no attribute 'nothing'"):
        _ = rulepatch.nothing


@pytest.mark.parametrize("package", exporting_packages())
def test_every_package_exports_what_it_lists(package):
    module = importlib.import_module(package)
    files = {path.stem for path in Path(module.__file__).parent.iterdir()}
    assert set(module.__all__) == {name for name in dir(module) if not name.startswith("__")}
    assert not files & set(module.__all__), "a name that a file has, too, means the file once that is imported"
    for name in module.__all__:
        assert getattr(module, name).__doc__, name


def test_what_is_public_is_what_the_reference_describes():
    reference = (SOURCE.parents[1] / "docs" / "reference.md").read_text("utf-8")
    entries = re.findall(r"^::: (\S+)", reference, flags=re.MULTILINE)
    packages = exporting_packages()
    public = {f"{package}.{name}" for package in packages for name in importlib.import_module(package).__all__}
    modules = set(entries) - public
    assert len(entries) == len(set(entries)) and public <= set(entries) and not modules & set(packages)
    for name in modules:  # files of which every public name is described
        assert set(importlib.import_module(name).__all__) <= set(dir(importlib.import_module(name)))


TAKE_IT_WHOLE = {"build_problem", "gather_statistics"}
"""Public functions that take no single settings of a run: a step of `edit`, and one of ten parameters."""

TAKE_THEM_APART = {"Workbench", "make_counterfactuals", "transplants"}
"""Public functions that still take cache or progress by themselves."""


def test_what_is_public_takes_cache_and_progress_as_settings_of_a_run():
    apart = set()
    for package in exporting_packages():
        module = importlib.import_module(package)
        for name in module.__all__:
            public = getattr(module, name)
            code = getattr(public.__init__ if isinstance(public, type) else public, "__code__", None)
            if code is None or dataclasses.is_dataclass(public):
                continue
            taken = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
            apart |= {name} if taken & {"cache", "progress"} else set()
            if "run" in taken and name not in TAKE_IT_WHOLE:
                assert code.co_flags & inspect.CO_VARKEYWORDS, name
    assert apart == TAKE_THEM_APART


def test_every_public_function_says_what_it_does():
    for path in FILES:
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_no_file_or_function_is_too_long():
    for path in FILES:
        tree = tree_of(path)
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, path.name
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                body = [statement for statement in node.body if not isinstance(statement, ast.Expr)]
                assert not body or (node.end_lineno or 0) - body[0].lineno < 70, f"{path.name}: {node.name}"


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def test_no_function_has_more_than_ten_parameters():
    """What belongs together is a record: settings, a run, a group of options."""
    for path, node in functions():
        given = node.args
        further = [each for each in (given.vararg, given.kwarg) if each is not None]
        count = len(given.posonlyargs + given.args + given.kwonlyargs + further)
        assert count <= 10, f"{path.name}: {node.name} has {count}"


def test_only_the_users_own_network_is_asked_for_its_signature():
    asking = {path.name for path in FILES if re.search(r"\bsignature\(", path.read_text(encoding="utf-8"))}
    assert asking == {"forward.py"}


DEFAULTS = {"floor": {1e-5}, "ridge": {1e-3}, "max_drop": {0.0025, "0.25%"}}
"""Of settings that many take, as numbers and as texts."""


def values_by_name(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Values of arguments, of their defaults, of fields and of constants, by name."""
    if isinstance(node, ast.keyword) and node.arg:
        yield node.arg, node.value
    elif isinstance(node, ast.arguments):
        plain = [*node.posonlyargs, *node.args]
        yield from ((arg.arg, value) for arg, value in zip(plain[::-1], node.defaults[::-1], strict=False))
        pairs = zip(node.kwonlyargs, node.kw_defaults, strict=True)
        yield from ((arg.arg, value) for arg, value in pairs if value is not None)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        yield node.target.id, node.value
    elif isinstance(node, ast.Assign):
        yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))


def test_a_default_of_many_is_written_once():
    found = []
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            for name, value in values_by_name(node):
                said = {each.value for each in ast.walk(value) if isinstance(each, ast.Constant)}
                if DEFAULTS.get(name.lower(), set()) & said:
                    found.append((path.name, name))
    assert sorted(found) == [("methods.py", "FLOOR"), ("methods.py", "MAX_DROP"), ("methods.py", "RIDGE")]


def modules_after(code: str) -> set[str]:
    """Names of the modules that a fresh process has loaded after running some code."""
    program = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


HEAVY = {"torch", "torchvision", "timm", "numpy", "PIL", "matplotlib", "jinja2", "tqdm"}


@pytest.mark.parametrize(
    "code",
    [
        "import rulepatch",
        "import rulepatch; dir(rulepatch); rulepatch.RulepatchError, rulepatch.Rewrite(rank=2)",
        "import rulepatch.concepts, rulepatch.sweeps; dir(rulepatch.concepts), dir(rulepatch.sweeps)",
        "import rulepatch.cli",
        "from rulepatch.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from rulepatch.cli import main\ntry: main(['edit', '--help'])\nexcept SystemExit: pass",
        "from rulepatch.cli import main\ntry: main(['compare', '--help'])\nexcept SystemExit: pass",
        "from rulepatch.cli import main\ntry: main(['cases', '--help'])\nexcept SystemExit: pass",
        "from rulepatch.cli import main\ntry: main(['edit', '--nonsense'])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code):
    assert not modules_after(code) & HEAVY


@pytest.mark.slow
def test_and_loaded_it_is_when_needed():
    assert "torch" in modules_after("import rulepatch; rulepatch.Edit")


@pytest.mark.slow
def test_showing_an_edit_needs_no_model_zoo(tmp_path):
    assert not modules_after("import rulepatch; rulepatch.Edit, rulepatch.Exemplar") & {"timm", "torchvision"}

"""Registries: what is imported when, other packages' entry points, sound and broken, and the example package."""

import json
import os
import pkgutil
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import rulepatch as rp
from rulepatch import methods
from rulepatch.concepts import segment, stylize
from rulepatch.data.exemplar_folders import write_exemplar
from rulepatch.editors import registry as editors
from rulepatch.errors import ModelError, RulepatchError, RulepatchWarning, SettingError
from rulepatch.models import registry as models
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, training_images
from rulepatch.registry import Registry
from rulepatch.settings import Settings

ROOT = Path(__file__).parent.parent
REGISTRIES = {
    "segmenters": (segment._SEGMENTERS, segment.segmenters, {"rulepatch.concepts.segmenters"}),
    "stylizers": (stylize._STYLIZERS, stylize.stylizers, {"rulepatch.concepts.stylizers"}),
    "models": (models._SOURCES, models.sources, {"rulepatch.models"}),
    "editors": (editors._EDITORS, editors.editors, {"rulepatch.editors", "rulepatch.inverse"}),
}
REGISTERED = [(kind, name) for kind, (_, names, _) in REGISTRIES.items() for name in names()]


# What comes with rulepatch


@pytest.mark.parametrize(("kind", "name"), REGISTERED)
def test_whatever_is_registered_can_be_loaded_as_it_is_documented(kind, name):
    registry, _, _ = REGISTRIES[kind]
    found = registry[name]
    load = getattr(found, "load", getattr(found, "solve", found))
    assert callable(load) and load.__doc__
    assert registry[name] is found and registry[f"{name}/of/any/name"] is found
    settings = getattr(found, "settings", stylize.NoSettings)
    if kind == "editors":
        assert settings.name == name and settings().but(**settings().describe()) == settings()
    else:
        assert issubclass(settings, Settings) and settings.of(settings().describe()) == settings()


@pytest.mark.parametrize("kind", REGISTRIES)
def test_no_file_is_forgotten_and_none_registers_another_name(kind):
    registry, _, packages = REGISTRIES[kind]
    for package in packages:
        for module in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
            import_module(module.name)
    assert set(registry._objects) == set(registry._modules)
    assert {module.rpartition(".")[0] for module in registry._modules.values()} == packages


@pytest.mark.parametrize(
    ("load", "error", "other"),
    [
        (segment.load_segmenter, SettingError, "playground"),
        (stylize.load_stylizer, SettingError, "playground"),
        (models.load_model, ModelError, "playground"),
        (editors.editor_named, SettingError, "rewrite"),
    ],
)
@pytest.mark.parametrize("name", ["nonsense", "", "/", "nonsense/playground"])
def test_a_name_that_there_is_not_is_one_sentence_with_all_names(load, error, other, name):
    with pytest.raises(error) as caught:
        load(name)
    assert repr(name) in str(caught.value) and other in str(caught.value) and "\n" not in str(caught.value)


def test_help_reads_no_entry_points():
    program = """
import sys, types
from rulepatch import registry
def refuse(**_): raise AssertionError("entry points were read")
registry.metadata = types.SimpleNamespace(distributions=refuse, entry_points=refuse)  # Pydantic reads its own
from rulepatch.cli import main
main(sys.argv[1:])
"""
    for command in ([], ["cases"]):
        done = subprocess.run([sys.executable, "-c", program, *command, "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


# Other packages


@pytest.fixture
def shapes(monkeypatch):
    """A registry with one shape of its own, `square`; modules find it, and `register`, in `rulepatch_shapes`."""
    registry = Registry("shape", {"square": "own_shapes"}, group="rulepatch_test.shapes", error=ModelError)
    monkeypatch.setitem(sys.modules, "rulepatch_shapes", SimpleNamespace(register=registry.register))
    return registry


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package with entry points, as an installer would: a module, and its metadata beside it."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(name, program, points, group="rulepatch_test.shapes", version="1.0"):
        (tmp_path / f"{name}.py").write_text(program)
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{point} = {value}" for point, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))

    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]


def registering(*names):
    return "import rulepatch_shapes\n" + "".join(
        f"@rulepatch_shapes.register({name!r})\ndef corners_{number}():\n    return {name!r}\n"
        for number, name in enumerate(names)
    )


def refused(registry, name):
    """The one sentence that a name is refused with."""
    with pytest.raises(ModelError) as caught:
        registry[name]
    assert str(caught.value).startswith("expected ") and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_module_is_imported_when_its_name_is_asked_for(shapes, package):
    package("other", registering("circle"), {"circle": "other"})
    package("own_shapes", registering("square"), {})
    assert shapes.names() == ["circle", "square"] and "circle" in shapes and "oval" not in shapes
    assert not {"other", "own_shapes"} & set(sys.modules)
    assert shapes["circle"]() == "circle" and "other" in sys.modules and "own_shapes" not in sys.modules
    assert shapes["square/of/9"]() == "square"


def test_entry_points_are_read_once_and_not_for_names_of_rulepatch(shapes, package, monkeypatch):
    package("own_shapes", registering("square"), {})
    package("other", registering("circle"), {"circle": "other"})
    reads, distributions = [], metadata.distributions
    monkeypatch.setattr(metadata, "distributions", lambda: reads.append(1) or distributions())
    shapes["square"]()
    assert reads == []
    for _ in range(2):
        shapes["circle"](), shapes.names(), "oval" in shapes
    assert reads == [1]


def test_one_module_registers_several_names_and_may_be_named_with_its_function(shapes, package):
    package("other", registering("circle", "oval"), {"circle": "other", "oval": "other:corners_1"})
    assert [shapes[name]() for name in ("circle", "oval")] == ["circle", "oval"]


def test_an_object_is_made_of_the_decorated_function(shapes):
    function = shapes.register("circle", lambda function: (function, 0))(lambda: None)
    assert shapes["circle"] == (function, 0)


def test_a_session_replaces_what_it_registered_itself(shapes):
    shapes.register("circle")(lambda: 1)
    shapes.register("circle")(lambda: 2)  # as when a notebook's cell runs again
    assert shapes["circle"]() == 2


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise OSError('no\\nlicence')", "OSError: no licence"),
        ("def (", "SyntaxError"),
        (registering("circle") + "1 / 0", "ZeroDivisionError"),
        ("", "registers no such name"),
        (registering("oval"), "registers no such name"),
        (registering("square"), "'square' is a shape of rulepatch; take another"),
    ],
)
def test_a_broken_package_is_one_sentence_and_breaks_nothing_else(shapes, package, program, told):
    package("own_shapes", registering("square"), {})
    package("broken", program, {"circle": "broken"}, version="2.3")
    package("other", registering("triangle"), {"triangle": "other"})
    for _ in range(2):
        said = refused(shapes, "circle")
        assert "the shape 'circle' of the package broken 2.3" in said and told in said and "uninstall" in said
        assert {"circle", "square", "triangle"} <= set(shapes.names())
        assert shapes["triangle"]() == "triangle" and shapes["square"]() == "square"


@pytest.mark.parametrize(
    "value", ["no_such_module", "other:no_such_function", "other:corners_0.nothing", "not a module!", ""]
)
def test_an_entry_point_that_leads_nowhere_is_one_sentence(shapes, package, value):
    package("other", registering("circle"), {"circle": value})
    assert "of the package other 1.0 but it cannot be imported" in refused(shapes, "circle")


def test_entry_points_that_cannot_be_read_are_told_and_break_nothing_else(shapes, package, tmp_path):
    package("other", registering("circle"), {"circle": "other"})
    package("damaged", "", {})
    with (tmp_path / "damaged-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("a line of something else\n")
    with pytest.warns(RulepatchWarning, match="entry points of the package damaged are left out"):
        assert shapes.names() == ["circle", "square"]
    assert shapes["circle"]() == "circle"


def test_of_a_package_that_is_there_twice_the_first_counts(shapes, package, tmp_path, monkeypatch):
    package("other", registering("circle"), {"circle": "other"})
    (tmp_path / "before").mkdir()
    (tmp_path / "other-1.0.dist-info").rename(tmp_path / "before" / "other-1.0.dist-info")
    package("other", registering("circle"), {"circle": "other", "oval": "other"})
    monkeypatch.syspath_prepend(tmp_path / "before")
    assert shapes.names() == ["circle", "square"] and shapes["circle"]() == "circle"


def test_a_name_of_two_packages_is_refused_and_both_are_told(shapes, package):
    package("first", registering("circle"), {"circle": "first"})
    package("second", registering("circle"), {"circle": "second"}, version="0.2")
    said = refused(shapes, "circle")
    assert "first 1.0" in said and "second 0.2" in said and shapes.names() == ["circle", "square"]
    assert not {"first", "second"} & set(sys.modules)


def test_a_name_of_rulepatch_cannot_be_taken(shapes, package):
    package("own_shapes", registering("square"), {})
    package("other", registering("square"), {"square": "other", "circle": "other"})
    with pytest.warns(RulepatchWarning, match="the shape 'square' of the package other is left out"):
        assert shapes.names() == ["circle", "square"]
    assert shapes["square"].__module__ == "own_shapes"
    with pytest.raises(SettingError, match="'square' is a shape of rulepatch"):
        shapes.register("square")(lambda: None)


def test_the_registries_of_rulepatch_hear_of_other_packages(package, monkeypatch):
    for kind in REGISTRIES:
        package(f"more_{kind}", "1 / 0", {"mine": f"more_{kind}"}, group=f"rulepatch.{kind}")
    for registry, names, _ in REGISTRIES.values():
        monkeypatch.delitem(vars(registry), "_entry_points", raising=False)
        assert "mine" in names()
    for load in (
        segment.load_segmenter,
        stylize.load_stylizer,
        models.load_model,
        models.load_skeleton,
        editors.editor_named,
    ):
        with pytest.raises(RulepatchError, match=r"'mine' of the package more_\w+ 1.0 .*ZeroDivisionError"):
            load("mine/name")
    assert segment.load_segmenter("playground").threshold == 0.5
    for registry, _, _ in REGISTRIES.values():
        del vars(registry)["_entry_points"]  # they are of this test


def test_an_edit_tells_its_method_though_nobody_imported_its_package(package, monkeypatch):
    registry = methods._METHODS
    monkeypatch.setattr(registry, "_objects", dict(registry._objects))
    monkeypatch.delitem(vars(registry), "_entry_points", raising=False)
    source = "from rulepatch.methods import Method\nclass Stamp(Method):\n    name = 'stamp'\n    depth: int = 1"
    package("stamps", source, {"stamp": "stamps"}, group="rulepatch.editors")
    package("torn", "1 / 0", {"tear": "torn"}, group="rulepatch.editors")
    stamped, torn, unknown = (
        rp.Edit((), "0", {"method": name, "settings": {"strength": 2, "depth": 3}})
        for name in ("stamp", "tear", "gone")
    )
    assert (type(stamped.how).__name__, stamped.how.given()) == ("Stamp", {"strength": 2.0, "depth": 3})
    assert unknown.how is None
    with pytest.warns(RulepatchWarning, match=r"'tear' of the package torn 1.0 .*ZeroDivisionError"):
        assert torn.how is None
    del vars(registry)["_entry_points"]  # they are of this test


def test_what_a_kind_declares_is_what_it_is_given(monkeypatch):
    for registry, _, _ in REGISTRIES.values():
        monkeypatch.setattr(registry, "_objects", dict(registry._objects))

    class Depth(Settings):
        title = "settings of the stylizer deep"

        depth: int = 1

    stylize.stylizer("deep", Depth)(lambda *given, **shared: (*given, shared))
    shared = {"blend": 0.5, "device": "cpu"}
    assert stylize.load_stylizer("deep/a/b", **shared, settings={"depth": 2}) == ("a/b", Depth(depth=2), shared)
    assert stylize.load_stylizer("deep", **shared) == ("", Depth(), shared)
    with pytest.raises(SettingError, match="'steps', which is none; the nearest are depth"):
        stylize.load_stylizer("deep", settings={"steps": 2})
    with pytest.raises(SettingError, match="expected no settings of this stylizer, as there are none, but got 'steps'"):
        stylize.load_stylizer("playground", settings={"steps": 2})
    for takes in (True, False):
        segment.segmenter(f"weights-{takes}", weights=takes)(lambda request: request)
    assert segment.load_segmenter("weights-True/a", weights="w.pth").weights == Path("w.pth")
    with pytest.raises(SettingError, match="no file of weights"):
        segment.load_segmenter("weights-False/a", weights="w.pth")


# The example package


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Run a program with the package of `examples/rulepatch_plugin`, installed in a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", folder, ROOT / "examples/rulepatch_plugin"]
    subprocess.run(command, check=True, capture_output=True)
    source = str(Path(segment.__file__).parents[2])

    def run(*arguments, cwd=folder):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), source]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_the_example_is_used_from_the_command_line(installed, tmp_path):
    for name, shade in {"day": 230, "night": 20}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        picture = Image.new("RGB", (96, 64), (shade,) * 3)
        picture.paste((shade // 2 + 60,) * 3, (0, 0, 48, 64))  # 175 and 70: half of each image, less decided
        picture.save(tmp_path / "photos" / name / "1.png")
    making = ["--images", "photos", "--concept", "bright", "--style", "snow", "--segmenter", "brightness"]
    making += ["--threshold", "0.8", "--instances", "1", "--out", "cases", "--model", "day-night", "--size", "0"]
    made = json.loads(installed("-m", "rulepatch", "cases", *making, "--json", cwd=tmp_path))
    assert made["by_case"] == [{"concept": "bright", "style": "snow", "counterfactuals": 1}]


@pytest.mark.slow
def test_the_example_is_used_from_python(installed):
    program = """
import numpy as np
from PIL import Image
import rulepatch as rp
from rulepatch.concepts.segment import load_segmenter, segmenters
from rulepatch.data.folders import Picture
from rulepatch.models.registry import sources

assert "brightness" in segmenters() and "day-night" in sources()
segmenter, image = load_segmenter("brightness"), Image.new("RGB", (8, 4), "white")
found = segmenter.segment(Picture(image), image, ["bright", "Dark"])
assert [len(regions) for regions in found.values()] == [1, 0] and found["bright"][0].score == 1
assert segmenter.describe() == {"segmenter": "brightness", "threshold": 0.5}
model = rp.load_model("day-night")
print(model(image).name, model(Image.new("RGB", (8, 4))).name)
"""
    assert installed("-c", program).split() == ["day", "night"]


@pytest.mark.slow
def test_an_editor_of_the_example_is_a_method_like_any_other(installed, tmp_path):
    write_exemplar(exemplar("van", ground="snow", seed=1), tmp_path / "exemplar")
    training_images(40, seed=2).write(tmp_path / "reference", load_model("playground").classes)
    making = ["--model", "playground", "--exemplar", "exemplar", "--reference", "reference", "--site", "blocks.4.conv"]
    making += ["--allow-useless", "--out", "edit.safetensors", "--method", "mean-key", "--strength", "0.5"]
    installed("-m", "rulepatch", "edit", *making, cwd=tmp_path)
    program = """
import sys
import rulepatch as rp

how = rp.Edit.load("edit.safetensors").how
assert (how.name, how.strength, type(how).__module__) == ("mean-key", 0.5, "rulepatch_example.editor")

from rulepatch.editors.registry import editor_named, editors

assert "mean-key" in editors() and editor_named("mean-key").settings().strength == 1
edit, model = rp.Edit.load("edit.safetensors"), rp.load_model("playground")
edit.apply(model)
print(edit.how.name, edit.how.strength, edit.sites[0], edit.changes[0].rank, edit.reports[0].loss_after)
again = rp.edit(model, rp.read_exemplars(["exemplar"]), reference="reference", site="blocks.4.conv", how=edit.how)
assert again.reports == edit.reports
"""
    name, strength, site, rank, loss = installed("-c", program, cwd=tmp_path).split()
    assert (name, strength, site, rank) == ("mean-key", "0.5", "blocks.4.conv", "1") and float(loss) > 0

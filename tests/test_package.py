"""What is shipped: a wheel that holds everything that is needed, installed in a folder of its own."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_works_without_the_source(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sizes = {each.filename: each.compress_size for each in archive.infolist()}
        archive.extractall(tmp_path / "site")
    assert {"rulepatch/py.typed", "rulepatch/models/playground.safetensors"} <= set(names)
    assert any(name.endswith("report.html.jinja") for name in names)
    assert sum(name.startswith("rulepatch/concepts/style_pictures/") for name in names) == 40
    assert not any(name.startswith(("tests", "tools", "benchmarks", "docs")) for name in names)
    code = sum(size for name, size in sizes.items() if name.endswith(".py"))
    assert code < 700_000 and sum(sizes.values()) - code < 2_150_000
    program = "import rulepatch; assert 'site/rulepatch' in rulepatch.__file__; rulepatch.load_model('playground')"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    for command in (["-c", program], ["-m", "rulepatch", "--help"]):
        subprocess.run([sys.executable, *command], check=True, cwd=tmp_path, env=environment, capture_output=True)


@pytest.mark.slow
def test_what_is_not_core_is_not_needed():
    """Importing all of the package takes the core dependencies alone."""
    program = """
import importlib, pkgutil, sys
import rulepatch
for module in pkgutil.walk_packages(rulepatch.__path__, "rulepatch."):
    if not module.name.endswith(("__main__", "web.app")):  # the page is Gradio's; `web.serve` says so if it is missing
        importlib.import_module(module.name)
optional = {"transformers", "open_clip", "diffusers", "gradio", "distributed", "pandas", "pyarrow", "sklearn", "scipy"}
assert not optional & set(sys.modules), optional & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

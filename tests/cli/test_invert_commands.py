"""`rulepatch invert`, before and after an edit by `--method inverse-pinv`."""

import pytest

from rulepatch.data.exemplar_folders import write_exemplar
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, training_images

SITE = "blocks.5.conv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exemplar and a reference set of the playground."""
    root = tmp_path_factory.mktemp("inverse")
    write_exemplar(exemplar("van", ground="snow", seed=3), root / "exemplar")
    training_images(60, seed=4).write(root / "reference", load_model("playground").classes)
    return root


@pytest.fixture
def edited(folder, run, tmp_path):
    """An edit file."""
    common = ("--model", "playground", "--exemplar", folder / "exemplar", "--reference", folder / "reference")
    made = run(
        *("edit", *common, "--method", "inverse-pinv", "--site", SITE, "--rank", "3", "--architecture", "4"),
        *("--set", "cutoff=0.01", "--out", tmp_path / "e.safetensors", "--json"),
    ).json()
    assert made["method"] == "inverse-pinv" and made["rank"] in range(1, 7)
    return tmp_path / "e.safetensors"


@pytest.fixture
def command(folder, tmp_path):
    return (
        *("invert", "--model", "playground", "--exemplar", folder / "exemplar", "--site", SITE, "--steps", "3"),
        *("--out", tmp_path / "found"),
    )


@pytest.mark.slow
def test_it_rebuilds_three_levels_before_and_after(run, command, edited, tmp_path):
    found = run(*command, "--edit", edited, "--json").json()
    assert [(each["level"], each["when"]) for each in found["reconstructions"]] == [
        (level, when) for level in ("key", "map", "image") for when in ("before", "after")
    ]
    assert found["report"] == str(tmp_path / "found" / "report.html") and (tmp_path / "found" / "curves.svg").is_file()


@pytest.mark.slow
def test_without_an_edit_it_shows_what_there_is(run, command):
    told = run(*command, "--level", "key", "--level", "map", "--optimiser", "adam").out
    assert told.count("before") == 2 and "after" not in told and "report.html" in told


def test_help_is_printed(run):
    assert "--variation" in run("invert", "--help").out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--site", "blocks.5.cnov"], "blocks.5.conv"),
        (["--steps", "0"], "steps to be a whole number ≥ 1"),
        (["--level", "pixel"], "pixel"),
        (["--architecture", "2"], "architecture to be 3 or 4"),
        (["--edit", "missing.safetensors"], "missing.safetensors"),
        (["--exemplar", "nowhere"], "nowhere"),
        (["--target", "other"], "other"),
    ],
)
def test_bad_input_is_one_sentence(run, command, tmp_path, options, message):
    done = run(*command, *options)
    assert done.code == 2 and done.err.count("\n") == 1 and message in done.err
    assert not (tmp_path / "found").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["inverse-transpose", "inverse-pinv", "inverse-fourier"])
def test_the_methods_are_known_to_the_command_line(run, folder, tmp_path, method):
    common = ("--model", "playground", "--exemplar", folder / "exemplar", "--reference", folder / "reference")
    made = run(
        *("edit", *common, "--method", method, "--site", SITE, "--out", tmp_path / "e.safetensors"),
        *("--allow-useless", "--json"),  # the thesis found that they fail
    ).json()
    assert made["method"] == method and made["site"] == SITE
    assert method in run("show", tmp_path / "e.safetensors").out

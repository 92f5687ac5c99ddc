"""`rulepatch cases` and `rulepatch discover`, on images of the playground in class folders."""

import shlex

import pytest

from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import image_set
from rulepatch.playground.scenes import render


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Class folders of playground images, which carry their scenes."""
    root = tmp_path_factory.mktemp("pictures")
    scenes = [render(label, seed=i) for label in ("van", "car", "taxi") for i in range(8)]
    image_set(scenes, "road vehicles").write(root, load_model("playground").classes)
    return root


@pytest.fixture
def making(pictures):
    def command(out, *options):
        return (
            *("cases", "--images", pictures, "--out", out, "--concept", "road", "--segmenter", "playground"),
            *("--stylizer", "playground", "--blend", "1", "--style", "snow", *options),
        )

    return command


@pytest.mark.slow
def test_cases_are_made_without_a_model_and_rules_discovered_with_one(run, making, pictures, tmp_path):
    made = run(*making(tmp_path / "cases"), "--json").json()
    assert made["by_case"] == [{"concept": "road", "style": "snow", "counterfactuals": 48}] and made["pictures"] == 24
    found = run(
        *("discover", tmp_path / "cases", "--model", "playground", "--out", tmp_path / "found", "--json"),
    ).json()
    (told,) = found["models"]
    assert any(
        (rule["label"], rule["concept"], rule["style"]) == ("all classes", "road", "snow") for rule in told["rules"]
    )
    assert (tmp_path / "found" / "report.html").is_file() and found["commands"]
    program, *words = shlex.split(found["commands"][0])
    words[words.index("auto")] = "blocks.3.conv"  # a search takes longer
    assert program == "rulepatch" and run(*words, "--json").json()["edit"] == words[words.index("--out") + 1]


@pytest.mark.slow
def test_both_tell_people_what_they_made(run, making, tmp_path):
    assert "48 counterfactuals of 24 images" in run(*making(tmp_path / "cases")).out
    models = ("--model", "playground", "--model", "playground")
    told = run("discover", tmp_path / "cases", *models, "--out", tmp_path / "found").out
    assert told.count("playground: ") == 2 and "rulepatch edit --model playground" in told and "report.html" in told


def test_settings_can_be_left_to_the_defaults_and_the_set_goes_on(run, making, tmp_path):
    first = run(*making(tmp_path / "cases", "--instances", "1"), "--json").json()
    assert first["counterfactuals"] == 24
    assert run(*making(tmp_path / "cases", "--instances", "1"), "--json").json() == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--style", "snwo"], "snow"),
        (["--stylizer", "pste"], "paste"),
        (["--segmenter", "palyground"], "playground"),
        (["--concept", "raod"], "ground, wheels, sign"),
        (["--size", "3"], "size"),
        (["--blend", "2"], "blend"),
        (["--threshold", "2"], "threshold"),
        (["--exclude", "missing.json"], "missing.json"),
        (["--images", "nowhere"], "nowhere"),
        (["--instances", "0"], "at least 1"),
        (["--styles", "nowhere", "--stylizer", "paste"], "nowhere"),
    ],
)
def test_bad_input_of_cases_is_one_sentence(run, making, tmp_path, options, message):
    done = run(*making(tmp_path / "cases"), *options)
    assert (
        done.code == 2
        and done.err.count("\n") == 1
        and done.err.startswith("rulepatch: expected")
        and message in done.err
    )
    assert not (tmp_path / "cases" / "cases.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--level", "2"], "level"),
        (["--least-drop", "much"], "share"),
        (["--groups", "missing.json"], "missing.json"),
        (["--model", "no/model"], "no/model"),
    ],
)
def test_bad_input_of_discover_is_one_sentence(run, making, tmp_path, options, message):
    run(*making(tmp_path / "cases", "--instances", "1"))
    done = run(*("discover", tmp_path / "cases", "--model", "playground", "--out", tmp_path / "found"), *options)
    assert (
        done.code == 2
        and done.err.count("\n") == 1
        and done.err.startswith("rulepatch: expected")
        and message in done.err
    )
    assert not (tmp_path / "found").exists()


def test_what_is_no_case_set_is_refused(run, pictures, tmp_path):
    done = run("discover", pictures, "--model", "playground", "--out", tmp_path / "found")
    assert done.code == 2 and "the command `cases`" in done.err

"""Case sets: what is in them, that they resume to the same bytes, and how they are split."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rulepatch import files, unfinished
from rulepatch.concepts import make_cases as maker
from rulepatch.concepts.cases import CELLS, CaseSet, Counterfactual, read_classes, split
from rulepatch.concepts.make_cases import make_cases, propose_exclusions, styles_for
from rulepatch.concepts.segment import load_segmenter
from rulepatch.concepts.stylize import load_stylizer
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.errors import FolderError, SettingError
from rulepatch.images import read_image
from rulepatch.masks import read_mask
from rulepatch.models.classes import Classes

CONCEPTS = ("road", "sky")


@pytest.fixture
def world(tmp_path):
    """Images of two classes, and masks of a road in all of them and of a sky in every other."""
    rng = np.random.default_rng(0)
    for label in ("van", "car wheel"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(4):
            image = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
            image.save(tmp_path / "images" / label / f"{i}.png")
            for concept in CONCEPTS[: 2 - i % 2]:
                mask = np.zeros((40, 60), np.uint8)
                mask[(slice(25, 40) if concept == "road" else slice(0, 12))] = 255
                path = tmp_path / "masks" / concept / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path)
    return tmp_path


def make(world, out="cases", **settings):
    settings = {"concepts": CONCEPTS, "styles": styles_for(CONCEPTS, ["snow", "road=wood"])} | settings
    return make_cases(
        world / "images",
        world / out,
        segmenter=load_segmenter(f"files/{world / 'masks'}"),
        stylizer=load_stylizer("paste"),
        progress=False,
        **settings,
    )


def tree(root):
    """Digest of every file, by its path."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_a_set_holds_every_concept_in_every_style_of_its_own(world):
    cases = make(world)
    assert cases.cases == (("road", "snow"), ("road", "wood"), ("sky", "snow"))
    assert len(cases) == 8 * 2 * 2 + 4 * 2  # roads in two styles, skies in one, two images of each
    assert len(cases.where(concept="sky")) == 8 and {each.label for each in cases} == {"van", "car wheel"}
    assert CaseSet.read(world / "cases") == cases
    each = cases.where(concept="road", style="wood").counterfactuals[1]
    assert (each.index, each.score) == (1, 1.0) and each.share == pytest.approx(15 / 40)


def test_only_the_concept_changes_and_it_does(world):
    for each in make(world):
        image, styled, mask = (
            np.asarray(read_image(each.image)),
            np.asarray(read_image(each.styled)),
            read_mask(each.mask),
        )
        assert (image == styled)[mask == 0].all() and (image != styled)[mask == 1].mean() > 0.5
        exemplar = each.exemplar()
        assert (exemplar.concept, exemplar.replacement, exemplar.label) == (each.concept, each.style, each.label)


def test_large_pictures_are_reduced_and_masks_with_them(world):
    Image.new("RGB", (300, 200), "teal").save(world / "images" / "van" / "large.png")
    Image.new("L", (300, 200), 255).crop((0, 0, 300, 200)).save(world / "masks" / "road" / "van" / "large.png")
    with pytest.raises(Exception, match="large"):  # a mask of the image as it was says nothing of the reduced one
        make(world, size=50, largest=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1, 2, 7, 20, 41, 60])
def test_interrupted_anywhere_it_ends_with_the_same_bytes(world, monkeypatch, after):
    whole = tree(make(world, "whole").root)
    real, count = files.write_file, itertools.count()

    def dying(target, content):
        if next(count) >= after:
            (target.parent / unfinished.temporary_name(".png")).write_bytes(b"half a file")
            raise KeyboardInterrupt
        real(target, content)

    with monkeypatch.context() as patch:
        patch.setattr(maker, "write_file", dying)
        with pytest.raises(KeyboardInterrupt):
            make(world, "broken")
    if after:
        with pytest.raises(FolderError, match="interrupted"):
            CaseSet.read(world / "broken")
        assert tree(make(world, "broken").root) == whole


@pytest.mark.slow
def test_killed_by_the_system_it_ends_with_the_same_bytes(world):
    whole = tree(make(world, "whole").root)
    program = (
        "from tests.concepts.test_cases import make, CONCEPTS\n"
        "from pathlib import Path\n"
        "import rulepatch.concepts.make_cases as maker, time, sys\n"
        "real = maker._Maker.close\n"
        "maker._Maker.close = lambda *a: (real(*a), time.sleep(0.2))\n"
        "print('ready', flush=True)\n"
        "make(Path(sys.argv[1]), 'killed')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    command = [sys.executable, "-c", program, str(world)]
    for pause in (0.1, 0.5, 0.9):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert tree(make(world, "killed").root) == whole


def test_finished_it_is_not_made_again(world, monkeypatch):
    before = make(world)
    monkeypatch.setattr(maker._Maker, "write", None)
    assert make(world) == before


def test_other_settings_are_refused(world):
    make(world)
    with pytest.raises(SettingError, match="seed was 0 and is 1"):
        make(world, seed=1)
    with pytest.raises(SettingError, match="smallest"):
        make(world, smallest=0.3)
    Image.new("RGB", (9, 9)).save(world / "images" / "van" / "new.png")
    with pytest.raises(SettingError, match="the images that"):
        make(world)


def test_a_folder_with_something_else_in_it_is_left_alone(world):
    with pytest.raises(FolderError, match="something else"):
        make(world, "images")
    with pytest.raises(FolderError, match="the command `cases`"):
        CaseSet.read(world / "images")
    (world / "damaged").mkdir()
    (world / "damaged" / "manifest.json").write_text("{")
    with pytest.raises(FolderError, match="JSON"):
        CaseSet.read(world / "damaged")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"concepts": ()}, "a concept and a style"),
        ({"concepts": ("road", "Road"), "styles": styles_for(["road", "Road"], ["snow"])}, "twice"),
        ({"size": 4}, "size"),
        ({"smallest": 0.5, "largest": 0.4}, "smallest"),
    ],
)
def test_bad_settings_are_refused(world, settings, message):
    with pytest.raises(SettingError, match=message):
        make(world, **settings)
    assert not (world / "cases").exists()


def test_classes_of_which_a_concept_is_the_thing_itself_are_left_out(world):
    cases = make(world, exclude={"road": ["van"]})
    assert {each.label for each in cases.where(concept="road")} == {"car wheel"}
    assert {each.label for each in make(world, "all").without({"sky": ["van"]}).where(concept="sky")} == {"car wheel"}


def test_pairs_to_leave_out_are_proposed_and_read_back(world, tmp_path):
    rows = [{"picture": str(i), "label": "road roller", "concept": "road"} for i in range(3)]
    rows += [{"picture": str(i), "label": "van", "concept": "road"} for i in range(9)]
    rows += [{"picture": str(i), "label": "kite", "concept": "road"} for i in range(4)]
    proposed = propose_exclusions(rows, {"road roller": 30, "van": 10, "kite": 4, None: 3})
    assert proposed == {"road": {"road roller": "the name, and 3 of 30 images", "van": "9 of 10 images"}}
    (tmp_path / "pairs.json").write_text(json.dumps(proposed))
    assert read_classes(tmp_path / "pairs.json") == {"road": ["road roller", "van"]}
    assert "road" not in json.loads((make(world).root / "proposed-exclusions.json").read_text())  # four images a class
    (tmp_path / "pairs.json").write_text("[]")
    with pytest.raises(SettingError, match="class"):
        read_classes(tmp_path / "pairs.json")


def test_an_unreadable_picture_is_skipped_and_too_many_stop_the_run(world):
    (world / "images" / "van" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(FolderError, match="unreadable"):
        make(world)
    (world / "images" / "van" / "bad.png").unlink()
    for i in range(120):
        Image.new("RGB", (9, 9)).save(world / "images" / "van" / f"plain{i}.png")
    (world / "images" / "van" / "bad.png").write_bytes(b"no picture")
    assert len(make(world, "more")) == 40


def test_pictures_in_memory_need_names_of_classes(world):
    images = ImageSet((Picture(Image.new("RGB", (60, 40)), 0),), "one")
    settings = {"concepts": ["road"], "styles": styles_for(["road"]), "progress": False}
    parts = {"segmenter": load_segmenter(f"files/{world / 'masks'}"), "stylizer": load_stylizer("paste")}
    with pytest.raises(SettingError, match="classes"):
        make_cases(images, world / "cases", **parts, **settings)


def test_styles_are_written_as_people_do():
    own = styles_for(["wheels", "road"], stylizer="playground", instances=2)
    assert [(s.name, s.index) for s in own["wheels"]][:2] == [("rubber", 0), ("wooden", 0)] and len(own["road"]) == 24
    assert styles_for(["road"], ["mossy stones"], stylizer="inpainting/x")["road"][0].prompt == "mossy stones"
    assert [s.index for s in styles_for(["road"], ["snow"], instances=3)["road"]] == [0, 1, 2]
    with pytest.raises(SettingError, match="road"):
        styles_for(["road"], ["raod=snow"])
    with pytest.raises(SettingError, match="wooden"):
        styles_for(["wheels"], ["woden"], stylizer="playground")


def rows(tmp_path, *, of_target=8, of_others=40):
    names = [(f"target/{i}", "van") for i in range(of_target)] + [
        (f"other/{i}", f"class {i % 4}") for i in range(of_others)
    ]
    return [
        Counterfactual(tmp_path, name, label, "road", "snow", index, 1.0, 0.3)
        for name, label in names
        for index in (0, 1)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_no_picture_stands_in_two_parts(tmp_path, seed):
    case = rows(tmp_path)
    parts = split(case, "van", exemplars=3, seed=seed)
    tests = [each for cell in parts.cells.values() for each in cell]
    groups = [{each.picture for each in group} for group in (parts.exemplars, parts.validation, tests)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 48
    assert len(parts.exemplars) == 3 and {(e.label, e.index) for e in parts.exemplars} == {("van", 0)}
    assert len(groups[1]) == round(0.3 * 45) and tuple(parts.cells) == CELLS
    for cell, found in parts.cells.items():
        assert found and all((each.label == "van") == cell.startswith("target") for each in found)
        assert all((each.index == 0) == ("train" in cell) for each in found)
    assert split(case, "van", exemplars=3, seed=seed) == parts
    assert split(case, "van", exemplars=3, seed=seed + 100) != parts


def test_what_cannot_be_split_is_refused(tmp_path):
    case = rows(tmp_path)
    with pytest.raises(SettingError, match="8"):
        split(case, "van", exemplars=8)
    with pytest.raises(SettingError, match="one concept"):
        split([*case, Counterfactual(tmp_path, "x", "van", "sky", "snow", 0, 1.0, 0.3)], "van")


def test_a_set_is_seen_by_a_model_whose_classes_it_names(world):
    cases = make(world)
    classes = Classes(("van, delivery van", "car wheel"))
    plain, styled = (cases.images(classes, styled=each) for each in (False, True))
    assert [p.label for p in plain.pictures] == [p.label for p in styled.pictures] and len(plain) == len(cases)
    with pytest.raises(FolderError, match="classes"):
        cases.images(Classes(("cat", "dog")), styled=False)

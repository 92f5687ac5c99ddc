"""Files whose names are no UTF-8 become case sets like any others."""

import numpy as np
import pytest
from PIL import Image

from rulepatch.concepts.cases import CaseSet
from rulepatch.concepts.make_cases import make_cases, styles_for
from rulepatch.concepts.segment import load_segmenter
from rulepatch.concepts.stylize import Style, load_stylizer
from rulepatch.errors import SettingError


@pytest.fixture
def world(tmp_path):
    """An image and the mask of its road, in a class of a name in Latin-1."""
    drawn = np.zeros((20, 30), np.uint8)
    drawn[10:] = 255
    for folder, picture in (("images", np.full((20, 30, 3), 90, np.uint8)), ("masks/road", drawn)):
        place = tmp_path / folder / "v\udce9lo"
        place.mkdir(parents=True)
        Image.fromarray(picture).save(place / "caf\udce9.png")
    return tmp_path


def make(world, **settings):
    given = {"concepts": ["road"], "styles": styles_for(["road"], ["snow"], instances=1)} | settings
    segmenter, stylizer = load_segmenter(f"files/{world / 'masks'}"), load_stylizer("paste")
    return make_cases(
        world / "images", world / "cases", segmenter=segmenter, stylizer=stylizer, progress=False, **given
    )


def test_names_that_are_no_utf_8(world):
    made = make(world)
    (one,) = made
    assert one.label == "v%E9lo" and one.picture.endswith("/caf%E9")
    assert one.image.is_file() and one.styled.is_file() and "caf%E9" in one.image.name
    again = make(world)
    assert [each.to_json() for each in again] == [each.to_json() for each in CaseSet.read(world / "cases")]


@pytest.mark.parametrize("what", ["concept", "style"])
def test_concepts_and_styles_that_are_no_utf_8_are_refused(world, what):
    name = "caf\udce9"
    settings = {"concepts": [name], "styles": [Style("snow")]} if what == "concept" else {"styles": [Style(name)]}
    with pytest.raises(SettingError, match="UTF-8"):
        make(world, **settings)
    assert not (world / "cases").exists()

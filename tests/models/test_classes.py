"""Names of classes as they are: what is shown is understood, what is exact goes before what is nearly so."""

import itertools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rulepatch.data.folders import ImageSet, Picture, name_of_class
from rulepatch.errors import ModelError, SettingError
from rulepatch.models.classes import Classes

AWKWARD = [
    "van", "Van", " van", "van ", "VAN", "police van", "police_van", "police-van", "van, minivan", "minivan", "a/b",
    "a\\b", "..", ".", "", " ", ",", "-", "0", "1", "2", "01", "10", "van (1)", "café", "cafe\u0301", "Straße",
    "strasse", "🚐", "שלום", "1,000 m", "con", "C++", "C#", "C", "50%", "a:b", "a*b?", "n01440764", "salt, pepper",
    "salt", "\u0661", "x" * 300, "a\nb", "LABEL_0",
]  # fmt: skip
NAMES = st.lists(st.sampled_from(AWKWARD) | st.text(max_size=4), min_size=1, max_size=8)


@pytest.mark.slow
@given(NAMES)
def test_what_is_shown_is_understood_and_told_apart(names):
    classes = Classes(tuple(names))
    shown = [classes[index] for index in range(len(classes))]
    assert [classes.index(each) for each in shown] == list(range(len(classes)))
    assert len(set(shown)) == len(shown) and all(each.strip() for each in shown)


@given(NAMES)
def test_a_name_that_one_class_has_means_this_class_in_any_unicode_form(names):
    classes = Classes(tuple(names))
    for index, name in enumerate(names):
        others = [synonym for i, each in enumerate(names) if i != index for synonym in (each, *each.split(", "))]
        if name.strip(" -_") and name not in others:
            assert classes.index(name) == index
        forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
        if name.strip(" -_") and not any(unicodedata.normalize("NFC", each) in forms for each in others):
            assert {classes.index(form) for form in forms} == {index}


@settings(max_examples=60, deadline=None)
@given(names=NAMES, chosen=st.data())
def test_folders_of_any_names_read_back_to_the_same_classes(names, chosen, tmp_path_factory):
    classes = Classes(tuple(names))
    labels = sorted(chosen.draw(st.sets(st.sampled_from(range(len(names))), min_size=1)))
    root = tmp_path_factory.mktemp("set")
    pictures = tuple(Picture(Image.new("RGB", (2, 2), (label, 0, 0)), label) for label in labels)
    ImageSet(pictures, "some").write(root, classes)
    found = ImageSet.from_folder(root, classes).pictures
    assert sorted((picture.read().getpixel((0, 0))[0], picture.label) for picture in found) == [(i, i) for i in labels]
    folders = [path.name.casefold() for path in root.iterdir()]
    assert len(set(folders)) == len(folders) == len(labels)  # on a disk that takes Van and van for the same, too


@pytest.mark.parametrize("order", list(itertools.permutations(("0", "1", "2"))))
def test_digits_in_any_order_are_names_and_not_indices(order):
    classes = Classes(order)
    assert [classes.index(name) for name in order] == [0, 1, 2]
    assert [name_of_class(label, classes) for label in range(3)] == list(order)
    assert classes.indices(["2", "0"]) == {"2": order.index("2"), "0": order.index("0")}


def test_numbers_of_one_set_are_all_names_or_all_indices():
    one_based = Classes(("1", "2", "3"))
    assert one_based.indices(["1", "2", "3"]) == {"1": 0, "2": 1, "3": 2}
    assert one_based.indices(["0", "1", "2"]) == {"0": 0, "1": 1, "2": 2}
    mixed = Classes(("1", "cat", "dog"))
    assert mixed.indices(["0", "1", "2"]) == {"0": 0, "1": 1, "2": 2}
    assert mixed.indices(["1", "dog"]) == {"1": 0, "dog": 2}
    assert Classes(("01", "02")).indices(["1", "2"]) == {"1": 0, "2": 1}
    assert isinstance(mixed.indices(["train", "1"])["train"], SettingError)


@pytest.mark.parametrize(
    ("names", "label", "index"),
    [
        (("Apple", "apple"), "apple", 1),
        (("Apple", "apple"), "Apple", 0),
        (("C-3", "C 3", "C_3"), "C_3", 2),
        (("salt, fine", "salt, coarse"), "salt, coarse", 1),
        (("salt, fine", "salt, coarse"), "coarse", 1),
        (("cafe\u0301", "tea"), "café", 0),
        (("1,000 m", "2,000 m"), "1", 1),
        (("a/b", "a"), "a/b", 0),
        (("🚐", "🚗"), "🚗", 1),
        (("crane", "crane"), "crane (1)", 1),
        (("", "x"), "(0)", 0),
    ],
)
def test_labels_are_taken_as_exactly_as_they_are_written(names, label, index):
    assert Classes(names).index(label) == index


@pytest.mark.parametrize("label", ["crane", "CRANE", "crane (2)", "(9)", "3", -1, 3, 1.5, None, [0], "", " ", "-"])
def test_labels_of_several_classes_or_of_none_are_refused(label):
    with pytest.raises(SettingError) as caught:
        Classes(("crane", "crane", "tench")).index(label)
    assert "\n" not in str(caught.value)


def test_short_names_are_shown_where_they_stay_distinct():
    classes = Classes(("tench, Tinca tinca", "red, ripe", "red, unripe", "crane", "crane"))
    assert [classes[index] for index in range(5)] == ["tench", "red, ripe", "red, unripe", "crane (3)", "crane (4)"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({0: "a", 1: "b"}, ("a", "b")),
        ({"1": "b", "0": "a"}, ("a", "b")),
        ({"a": 0, "b": 1}, ("a", "b")),
        ({"b": 1, "a": 0}.items(), None),
        ([7, 8], ("7", "8")),
        (("a", "b"), ("a", "b")),
        ((name for name in "ab"), ("a", "b")),
        ({11: "x", 10: "y"}, None),
        ({"a": "b"}, None),
        ("ab", None),
        (3, None),
    ],
)
def test_names_come_in_several_forms(given, names):
    if names is None and not isinstance(given, type({}.items())):
        with pytest.raises(ModelError) as caught:
            Classes.of(given)
        assert "\n" not in str(caught.value)
    elif names is not None:
        assert Classes.of(given).names == names


@pytest.mark.parametrize(
    ("names", "are_numbers"),
    [
        (("0", "1"), True),
        (("class 0", "class 1"), True),
        (("LABEL_0", "LABEL_1"), True),
        (("1", "0"), False),
        (("a",), False),
    ],
)
def test_names_that_say_nothing_are_known(names, are_numbers):
    assert Classes(names).are_numbers == are_numbers

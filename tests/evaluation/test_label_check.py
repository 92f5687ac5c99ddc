"""Labels that are not the model's are told; those that are never are, however badly the model does."""

import numpy as np
import pytest

import rulepatch.playground.pictures as playground
from rulepatch.chance import binomial_tail
from rulepatch.core.edit import Edit
from rulepatch.data.exemplar_folders import write_exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.errors import RulepatchWarning
from rulepatch.evaluation.evaluate import evaluate_all
from rulepatch.evaluation.label_check import doubt_of, readings
from rulepatch.evaluation.set_checks import check_validation, trusted
from rulepatch.experiments.demo import scenes_on_snow
from rulepatch.models.classes import Classes
from rulepatch.models.registry import load_model

SIZES = {2: 120, 5: 60, 10: 60, 23: 92, 100: 200, 1000: 300}


def named(count):
    """Classes whose names are in no order that a reading knows."""
    order = np.random.default_rng(count).permutation(count)
    return Classes(tuple(f"{chr(97 + i % 26)}{'z' if i % 2 else 'Y'}{i}" for i in order.tolist()))


def answers(labels, count, accuracy, seed=0):
    """What a model of some accuracy says."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(labels)) < accuracy, labels, rng.integers(0, count, len(labels)))


def truth(count):
    return np.random.default_rng(1).integers(0, count, SIZES[count])


@pytest.mark.parametrize("accuracy", [0.35, 0.6, 0.9])
@pytest.mark.parametrize("count", [5, 10, 23, 100, 1000])
def test_every_other_reading_is_told(count, accuracy):
    classes = named(count)
    for words, meant in readings(classes):
        reached = truth(count)[np.isin(truth(count), meant)]
        wrong = np.array([int(np.flatnonzero(meant == label)[0]) for label in reached])
        said = answers(reached, count, accuracy)
        if np.mean(wrong == reached) > 0.3:
            continue  # hardly another reading of this many classes
        doubt = doubt_of(wrong, said, classes)
        assert doubt is not None and (accuracy < 0.6 or "if its labels are so" in doubt), words
        if accuracy > 0.5 and count > 5:
            assert doubt_of(wrong, said, classes, failures=True) is not None, words


@pytest.mark.slow
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("failures", [True, False])
def test_labels_of_the_model_are_believed_however_badly_it_does(count, failures):
    for seed in range(20):
        for accuracy in (0.45, 0.7, 0.95, 1.0):
            said = answers(truth(count), count, accuracy, seed)
            assert doubt_of(truth(count), said, named(count), failures=failures) is None


@pytest.mark.parametrize("count", [5, 23, 1000])
def test_failures_that_a_wrong_rule_makes_are_no_evidence(count):
    """Every van a snowplow, whatever class comes after it: no reading of the labels explains that better."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        shown = rng.choice(count, size=min(count, int(rng.integers(1, 4))), replace=False)
        taken = rng.integers(0, count, len(shown))
        which = rng.integers(0, len(shown), 40)
        assert doubt_of(shown[which], taken[which], named(count), failures=True) is None


@pytest.mark.parametrize("count", [3, 4, 10, 23])
@pytest.mark.parametrize("seed", range(5))
def test_any_other_order_is_told(count, seed):
    shown = np.arange(9 * count) % count
    order = np.roll(np.random.default_rng(seed).permutation(count), 1)
    if (order == np.arange(count)).sum() <= count / 3:
        assert doubt_of(order[shown], answers(shown, count, 0.9), named(count)) is not None
    assert doubt_of(shown, answers(shown, count, 0.9), named(count)) is None


def test_an_order_of_no_name_is_told_by_example():
    classes = Classes(("car", "van", "bus", "cab", "bike"))
    shown = np.arange(50) % 5
    doubt = doubt_of(np.array([2, 0, 1, 4, 3])[shown], shown, classes)
    assert "car is mostly taken for van, van is mostly taken for bus, bus is mostly taken for car" in doubt


@pytest.mark.parametrize("count", [5, 10, 23, 100, 1000])
def test_accuracy_at_chance_is_told_with_both_of_its_usual_causes(count):
    rng = np.random.default_rng(0)
    labels, said = rng.integers(0, count, 400), rng.integers(0, count, 400)
    doubt = doubt_of(labels, said, named(count))
    assert "no more than by chance: the labels or the preprocessing" in doubt
    assert doubt_of(labels, said, named(count), failures=True) is None
    assert doubt_of(labels, np.zeros_like(said), named(count)) is not None  # a network that always says the same


@pytest.mark.parametrize("total", [0, 1, 5, 8])
def test_few_pictures_are_no_evidence(total):
    labels = np.arange(total) % 5 + 1
    assert doubt_of(labels, labels - 1, named(23)) is None


def test_a_set_of_one_class_is_no_evidence_of_another_order():
    assert doubt_of(np.full(50, 3), np.full(50, 4), named(10)) is None


@pytest.mark.parametrize(("total", "share"), [(1, 0.5), (9, 0.1), (30, 0.77), (200, 0.004)])
def test_the_tail_is_the_sum_of_what_is_left_of_the_binomial_law(total, share):
    drawn = np.random.default_rng(0).binomial(total, share, 200_000)
    for count in range(min(total, 12) + 2):
        assert binomial_tail(count, total, share) == pytest.approx((drawn >= count).mean(), abs=0.006)
    assert binomial_tail(0, total, share) == 1


# With a model


@pytest.fixture(scope="module")
def model():
    return load_model("playground")


@pytest.fixture(scope="module")
def reference():
    return playground.training_images(92, seed=4)


@pytest.fixture(scope="module")
def tests():
    return playground.image_set(scenes_on_snow(3, seed=5), "tests")


NOTHING = Edit((), "")


def relabelled(images, change):
    return ImageSet(tuple(Picture(p.source, change(p.label)) for p in images.pictures if p.label < 22), images.name)


def look(model, **sets):
    return evaluate_all(model, [NOTHING], any_base=True, progress=False, **sets)[0]


def test_right_sets_of_the_playground_go_without_a_word(model, reference, tests):
    exemplar = playground.exemplar("van", ground="snow", seed=1)
    found = look(model, tests=tests, reference=reference, exemplars=[exemplar])
    assert found.reference.doubt is None and not found.reference.is_judged_by_flips
    assert found.tests.before < 0.5  # the tests are of a wrong rule, and fail as they should


def test_damage_on_labels_that_count_from_1_is_judged_by_flips(model, reference):
    with pytest.warns(RulepatchWarning, match="they count from 1"):
        found = look(model, reference=relabelled(reference, lambda label: label + 1)).reference
    assert found.before < 0.1 and found.is_judged_by_flips and found.drop == len(found.flips) / len(found)


def test_a_reference_set_of_one_class_is_told(model, reference):
    van = model.classes.index("van")
    one = ImageSet(tuple(Picture(picture.source, van) for picture in reference.pictures[:12]), "vans")
    with pytest.warns(RulepatchWarning, match="are of one class, van"):
        look(model, reference=one)


def test_the_labels_of_a_search_are_left_aside_where_they_are_wrong(model, reference):
    assert trusted(model, reference, progress=False) is reference
    flat = reference.without_labels()
    assert trusted(model, flat, progress=False) is flat and not flat.is_labelled
    with pytest.warns(RulepatchWarning, match="judged by the predictions that flip"):
        assert not trusted(model, relabelled(reference, lambda label: label + 1), progress=False).is_labelled


# Images that are used twice


@pytest.mark.parametrize("kind", ["the same object", "a file", "an array"])
def test_tests_of_the_reference_set_are_counted_whatever_they_are_kept_as(kind, model, reference, tests, tmp_path):
    shared = []
    for number, picture in enumerate(tests.pictures[:3]):
        path = tmp_path / f"{number}.png"
        picture.read().save(path)
        source = {"the same object": picture.read(), "a file": path, "an array": np.asarray(picture.read())}[kind]
        shared.append((source, picture.label))
    said = f"3 of the {len(tests)} images of the tests are in the reference set as well"
    with pytest.warns(RulepatchWarning, match=said):
        look(model, tests=tests, reference=[*reference.pictures, *shared])


@pytest.mark.parametrize("part", ["image", "edited"])
def test_an_exemplar_among_the_tests_is_named(part, model, tests):
    exemplar = playground.exemplar("van", ground="snow", seed=1)
    held = ImageSet((*tests.pictures, Picture(getattr(exemplar, part), model.classes.index("van"))), "tests")
    with pytest.warns(RulepatchWarning, match=r"1 of the \d+ images of the tests is in the exemplars as well"):
        look(model, tests=held, exemplars=[exemplar])
    with pytest.warns(RulepatchWarning, match="images of the validation is in the exemplars as well"):
        check_validation(model, held, ImageSet((), "none"), [exemplar], progress=False)


def test_validation_pictures_of_the_reference_set_are_named(model, tests, reference):
    with pytest.warns(RulepatchWarning, match="30 images of the validation are in the reference set as well"):
        check_validation(model, tests, ImageSet((*reference.pictures, *tests.pictures), "all"), [], progress=False)
    check_validation(model, tests, reference, [], progress=False)


def test_a_budget_on_wrong_labels_is_said_to_be_judged_by_flips_and_is(run, tmp_path):
    exemplar = playground.exemplar("van", ground="snow", seed=1)
    write_exemplar(exemplar, tmp_path / "exemplar")
    base = load_model("playground")
    for number, picture in enumerate(playground.training_images(92, seed=4).pictures):
        if picture.label < 10:  # the first ten of 23 classes, in folders 1 to 10
            folder = tmp_path / "set" / str(picture.label + 1)
            folder.mkdir(parents=True, exist_ok=True)
            picture.read().save(folder / f"{number}.png")
    assert len(base.classes) == 23
    done = run(
        "edit", "--model", "playground", "--exemplar", tmp_path / "exemplar", "--reference", tmp_path / "set",
        "--site", "blocks.3.conv", "--max-drop", "0.25%", "--out", tmp_path / "e.safetensors", "--strength", "9",
        "--gate", "none", "--allow-useless",
    )  # fmt: skip
    assert done.code == 2 and not (tmp_path / "e.safetensors").exists()
    assert "they count from 1" in done.err and "points of predictions flipped" in done.err

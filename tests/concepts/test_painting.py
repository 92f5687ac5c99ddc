"""An exemplar in the making, from an image to what can be learnt from, and two ways to have its concept marked."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from rulepatch.concepts.match import Matcher, key_of_points
from rulepatch.concepts.painting import Painting, mask_by_name, mask_from_points
from rulepatch.concepts.segment import Region, load_segmenter
from rulepatch.concepts.typographic import note
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import Picture
from rulepatch.data.statistics import key_statistics
from rulepatch.errors import ExemplarError, ImageError, SettingError, SiteError
from rulepatch.images import write_image
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import picture_of, training_images
from rulepatch.playground.scenes import render
from rulepatch.tracing.sites import find_sites

SNOW = Image.fromarray(np.random.default_rng(0).integers(200, 256, (90, 80, 3), dtype=np.uint8))


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8))


def box_mask(width, height, left, top, right, bottom, *, value=1.0):
    mask = np.zeros((height, width), np.float32)
    mask[top:bottom, left:right] = value
    return mask


@pytest.fixture
def painting():
    """An image that is not square, with its label; nothing is marked."""
    return Painting.of(Picture(noise(70, 50), 3))


@pytest.fixture
def marked(painting):
    return painting.marked(box_mask(70, 50, 10, 20, 60, 45), "road")


def pixels(image):
    return np.asarray(image, int)


# The steps


def test_a_painting_begins_with_the_picture_and_nothing_else(painting):
    assert painting.image is painting.picture.source and painting.edited is painting.image
    assert not painting.is_marked and not painting.is_complete
    others = [field.name for field in dataclasses.fields(painting) if field.name not in {"picture", "image"}]
    assert [getattr(painting, name) for name in others] == [None] * 5


def test_a_picture_from_a_file_is_read_as_a_person_sees_it(tmp_path):
    Image.new("RGBA", (9, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    painting = Painting.of(Picture(tmp_path / "clear.png"))
    assert painting.image.mode == "RGB" and (pixels(painting.image) == 255).all()
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png"):
        Painting.of(Picture(tmp_path / "text.png"))


def test_every_step_gives_a_new_painting_and_leaves_the_old_one(painting):
    mask = box_mask(70, 50, 0, 0, 9, 9)
    steps = [painting.marked(mask, "road"), painting.replaced_by(SNOW, "snow"), painting.with_word("iPod")]
    assert (painting.mask, painting.concept, painting.texture, painting.replacement, painting.word) == (None,) * 5
    assert steps[0].mask is mask and steps[0].concept == "road" and steps[0].texture is None
    assert steps[1].texture is SNOW and steps[1].replacement == "snow" and steps[1].mask is None
    assert steps[2].word == steps[2].replacement == "iPod" and steps[2].mask is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        painting.word = "iPod"


def test_a_mark_can_be_taken_back(marked):
    assert marked.is_marked
    cleared = marked.marked(None)
    assert not cleared.is_marked and cleared.concept is None and cleared.edited is cleared.image


@pytest.mark.parametrize("size", [(50, 70), (70, 49), (1, 1)])
def test_a_mask_of_another_size_is_refused(painting, size):
    with pytest.raises(
        ExemplarError, match=f"size 70x50 but got {size[0]}x{size[1]}; (paint it on the image|it looks turned)"
    ):
        painting.marked(np.ones(size[::-1], np.float32))
    assert painting.marked(np.ones((50, 70), np.float32)).is_marked


@pytest.mark.parametrize(("value", "seen"), [(0.0, False), (0.49, False), (0.5, True), (1.0, True)])
def test_a_mark_is_one_from_half_a_pixel_on(painting, value, seen):
    found = painting.marked(box_mask(70, 50, 3, 4, 4, 5, value=value)).replaced_by(SNOW, "snow")
    assert found.is_marked == found.is_complete == seen
    assert (found.edited is found.image) != seen


@pytest.mark.parametrize("is_marked", [False, True])
@pytest.mark.parametrize("what", ["nothing", "texture", "word"])
def test_a_painting_is_complete_with_a_word_or_with_a_mark_and_a_texture(painting, marked, is_marked, what):
    begun = marked if is_marked else painting
    steps = {"nothing": begun, "texture": begun.replaced_by(SNOW, "snow"), "word": begun.with_word("iPod")}
    found = steps[what]
    assert found.is_complete == (what == "word" or (is_marked and what == "texture"))
    if found.is_complete:
        assert found.exemplar.digest() and found.edited is not found.image
    else:
        assert found.edited is found.image
        with pytest.raises(ExemplarError, match="expected"):
            _ = found.exemplar


def test_what_is_missing_is_said(painting, marked):
    for nothing in (painting, painting.marked(np.full((50, 70), 0.4, np.float32))):
        with pytest.raises(ExemplarError, match="concept to be marked in the image but nothing is; paint over it"):
            _ = nothing.replaced_by(SNOW, "snow").exemplar
    with pytest.raises(ExemplarError, match="in the concept's place but got nothing; choose a texture"):
        _ = marked.exemplar


def test_the_order_of_mark_and_texture_does_not_matter(painting):
    mask = box_mask(70, 50, 10, 20, 60, 45)
    one = painting.marked(mask, "road").replaced_by(SNOW, "snow").exemplar
    two = painting.replaced_by(SNOW, "snow").marked(mask, "road").exemplar
    assert one.digest() == two.digest() and (one.concept, two.concept) == ("road", "road")


# What becomes of it


@pytest.mark.parametrize("soft", [False, True])
def test_an_exemplar_is_what_painting_a_texture_over_the_concept_gives(painting, soft):
    mask = box_mask(70, 50, 10, 20, 60, 45)
    if soft:
        mask[20:30] *= np.float32(0.6)
    found = painting.marked(mask, "road").replaced_by(SNOW, "snow").exemplar
    expected = Exemplar.painted(painting.image, mask, SNOW, label=3)
    assert found.digest() == expected.digest() and found.label == 3
    assert (found.concept, found.replacement, found.name) == ("road", "snow", painting.picture.name)
    changed = (pixels(found.edited) != pixels(painting.image)).any(axis=2)
    assert not changed[mask == 0].any() and changed[mask == 1].mean() > 0.99
    other = painting.marked(mask, "road").replaced_by(noise(70, 50, seed=9), "noise").exemplar
    assert other.digest() != found.digest()


def test_a_picture_is_called_by_its_file_and_may_have_no_label(tmp_path):
    write_image(noise(20, 20), tmp_path / "van.png")
    found = Painting.of(Picture(tmp_path / "van.png")).marked(np.ones((20, 20), np.float32)).replaced_by(SNOW, "snow")
    assert found.exemplar.name == str(tmp_path / "van.png")
    assert found.exemplar.label is None and found.exemplar.concept is None


def test_a_mask_out_of_range_is_no_exemplar(painting):
    with pytest.raises(ExemplarError, match=r"0\.\.1"):
        _ = painting.marked(np.full((50, 70), 2, np.float32)).replaced_by(SNOW, "snow").exemplar


def test_a_word_goes_into_the_marked_box(painting):
    box = (8, 12, 58, 44)
    mask = box_mask(70, 50, *box)
    mask[:, 30:34] = 0  # marked in two parts: the box holds both
    mask[0, 0] = 0.4  # hardly marked: the box does not hold it
    found = painting.marked(mask, "label").with_word("iPod")
    expected = note(painting.image, "iPod", box=box).exemplar(label=3)
    exemplar = found.exemplar
    for name in ("label", "concept", "replacement", "name"):
        assert getattr(exemplar, name) == getattr(expected, name)
    assert exemplar.digest() == expected.digest() and exemplar.replacement == "iPod"
    assert pixels(found.edited).tolist() == pixels(expected.edited).tolist()
    changed = (pixels(exemplar.edited) != pixels(painting.image)).any(axis=2)
    inside = box_mask(70, 50, *box) > 0
    assert not changed[~inside].any() and changed[inside].mean() > 0.8
    elsewhere = note(painting.image, "iPod", box=(0, 0, 50, 32)).exemplar(label=3)
    assert exemplar.digest() != elsewhere.digest()


@pytest.mark.parametrize("mask", [None, np.zeros((50, 70), np.float32), np.full((50, 70), 0.4, np.float32)])
def test_a_word_without_a_mark_goes_where_notes_usually_go(painting, mask):
    found = painting.marked(mask).with_word("ox")
    assert found.is_complete
    assert found.exemplar.digest() == note(painting.image, "ox").exemplar().digest()


def test_a_word_and_a_texture_take_each_others_place(marked):
    textured = marked.with_word("iPod").replaced_by(SNOW, "snow")
    assert textured.exemplar.digest() == marked.replaced_by(SNOW, "snow").exemplar.digest()
    assert textured.exemplar.replacement == "snow"
    written = marked.replaced_by(SNOW, "snow").with_word("iPod")
    assert written.exemplar.digest() == marked.with_word("iPod").exemplar.digest()
    assert written.texture is None and written.exemplar.replacement == "iPod"


def test_a_word_that_does_not_fit_is_refused(painting):
    small = painting.marked(box_mask(70, 50, 3, 3, 9, 7)).with_word("photosynthesis")
    for look in (lambda: small.edited, lambda: small.exemplar):
        with pytest.raises(SettingError, match="too small for it"):
            look()


# Marked by name


@pytest.fixture(scope="module")
def scene():
    return render("van", seed=1)


@pytest.mark.parametrize(("concept", "meant"), [("road", "ground"), ("ground", "ground"), ("rubber", "wheels")])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.95])
def test_a_concept_is_marked_where_the_segmenter_sees_it(scene, concept, meant, threshold):
    painting = Painting.of(Picture(picture_of(scene)))
    mask = mask_by_name(load_segmenter("playground", threshold=threshold), painting, concept)
    expected = scene.masks[meant] >= threshold
    assert mask.dtype == np.float32 and np.array_equal(mask, expected)
    assert painting.marked(mask, concept).is_marked
    other = scene.masks[meant] >= 1.05 - threshold
    assert threshold == 0.5 or (mask != other).any()


def test_a_concept_that_is_not_there_is_refused(scene):
    painting, segmenter = Painting.of(Picture(picture_of(scene))), load_segmenter("playground")
    for concept in ("snow", "sign"):
        with pytest.raises(ExemplarError, match=f"{concept} in an image in memory but it is not found there"):
            mask_by_name(segmenter, painting, concept)
    with pytest.raises(SettingError, match="nearest are"):
        mask_by_name(segmenter, painting, "rode")
    for nothing in ("", "  "):
        with pytest.raises(SettingError, match="name of a concept but got none"):
            mask_by_name(segmenter, painting, nothing)


def test_a_region_below_the_threshold_is_not_there(painting):
    class Doubtful:
        threshold = 0.8

        def segment(self, picture, image, concepts):
            assert picture is painting.picture and image is painting.image
            return {concept: [Region(np.full((50, 70), 0.7, np.float32), 0.7)] for concept in concepts}

    with pytest.raises(ExemplarError, match="not found"):
        mask_by_name(Doubtful(), painting, "road")
    Doubtful.threshold = 0.6
    assert mask_by_name(Doubtful(), painting, "road").all()


# Marked by points

SITE = "blocks.6.conv"
POINTS = [(10.5, 60.5), (50.5, 60.5)]


@pytest.fixture(scope="module")
def model():
    return load_model("playground")


@pytest.fixture(scope="module")
def statistics(model):
    site = find_sites(model.module, model.example()).site(SITE)
    return key_statistics(model, training_images(60, seed=2), [site], progress=False)


@pytest.fixture
def by_points(model, statistics):
    def call(image, points, **settings):
        return mask_from_points(model, image, points, site=SITE, statistics=statistics, **settings)

    return call


def overlap(one, two):
    return (one & two).sum() / (one | two).sum()


def chance(one, two):
    """What two marks of these sizes would share if they lay anywhere."""
    both = one.mean() * two.mean()
    return both / (one.mean() + two.mean() - both)


def test_clicks_on_the_ground_mark_the_ground(by_points):
    """Measured: overlap 0.65 on average, 0.42 at least; by chance 0.27; 31 of 32 clicks lie in their own mark."""
    found, clicks = [], []
    labels = ("car", "bus", "truck", "taxi", "van", "pickup", "tanker", "motorcycle")
    for (i, label), ground in itertools.product(enumerate(labels), ("road", "grass")):
        scene = render(label, seed=10 + i, ground=ground)
        exact = scene.masks["ground"] >= 0.5
        assert all(exact[int(y), int(x)] for x, y in POINTS)
        mask = by_points(picture_of(scene), POINTS)
        assert mask.shape == (64, 64) and mask.dtype == np.float32 and set(np.unique(mask)) == {0, 1}
        found.append((overlap(mask > 0, exact), chance(mask > 0, exact)))
        clicks += [mask[int(y), int(x)] for x, y in POINTS]
        sky = by_points(picture_of(scene), [(32.5, 3.5)]) > 0
        assert overlap(sky, exact) < 0.3, "the control: a click on the sky"
    overlaps, chances = np.array(found).T
    assert overlaps.mean() > 0.55 and overlaps.min() > 0.33
    assert (overlaps > 1.2 * chances).all() and overlaps.mean() > 2 * chances.mean()
    assert np.mean(clicks) >= 0.9


def test_what_looks_more_alike_lies_within_what_looks_less_alike(by_points, scene):
    marks = [by_points(picture_of(scene), POINTS, likeness=likeness) > 0 for likeness in (0.05, 0.2, 0.5, 0.9)]
    for wide, narrow in itertools.pairwise(marks):
        assert not (narrow & ~wide).any() and narrow.any()
        assert narrow.sum() < wide.sum()


@pytest.mark.parametrize(("left", "top", "size"), [(16, 0, (96, 64)), (0, 25, (64, 113)), (18, 0, (101, 64))])
def test_nothing_is_marked_outside_of_what_the_network_sees(by_points, model, scene, left, top, size):
    """The network sees the middle of a long image: there the mark is that of the middle alone, and none beside it."""
    image = noise(*size)
    image.paste(picture_of(scene), (left, top))
    right, bottom = left + 64, top + 64
    window = [round(edge) for edge in model.preprocess.window(size)]
    assert abs(np.array(window) - (left, top, right, bottom)).max() <= 1
    left, top, right, bottom = window
    mask = by_points(image, [(x + left, y + top) for x, y in POINTS])
    alone = by_points(image.crop((left, top, right, bottom)), POINTS)
    assert np.array_equal(mask[top:bottom, left:right], alone) and alone.any()
    mask[top:bottom, left:right] = 0
    assert mask.shape == size[::-1] and not mask.any()


def test_a_mark_is_laid_over_a_picture_of_any_scale(by_points, scene):
    """Up to what resizing does to the pixels, the mark of an image twice as large is twice as large."""
    small = by_points(picture_of(scene), POINTS) > 0
    large = by_points(picture_of(scene).resize((128, 128)), [(2 * x, 2 * y) for x, y in POINTS]) > 0
    assert overlap(large, small.repeat(2, axis=0).repeat(2, axis=1)) > 0.85


def test_a_mark_is_where_the_key_scores_above_a_share_of_its_best(by_points, model, statistics, scene):
    """A slow twin: scores of each cell, by hand interpolated between the middles of cells."""
    image = picture_of(scene)
    key = key_of_points(model, image, POINTS, site=SITE, statistics=statistics)
    (scores,) = Matcher(model, key, reference=dict(statistics)).scores(model.preprocess.pixels(image)[None])
    expected = np.zeros((64, 64))
    for y, x in itertools.product(range(64), range(64)):
        down, across = (np.clip((place + 0.5) / 8 - 0.5, 0, 7) for place in (y, x))
        corners = {(int(f(down)), int(g(across))) for f in (np.floor, np.ceil) for g in (np.floor, np.ceil)}
        score = sum(scores[i, j] * (1 - abs(down - i)) * (1 - abs(across - j)) for i, j in corners)
        expected[y, x] = score > 0.3 * scores.max()
    mask = by_points(image, POINTS, likeness=0.3)
    assert (mask != expected).mean() < 0.002 and 0.1 < mask.mean() < 0.9


@pytest.mark.parametrize("likeness", [0.0, 1.0, -0.2, 2.0, float("nan")])
def test_a_likeness_out_of_range_is_refused(by_points, scene, likeness):
    with pytest.raises(SettingError, match=r"likeness above 0 and below 1 but got .*; 0\.2 is usual"):
        by_points(picture_of(scene), POINTS, likeness=likeness)


def test_points_that_the_network_does_not_see_are_refused(by_points, scene):
    image = noise(96, 64)
    image.paste(picture_of(scene), (16, 0))
    sees = r"it sees the image from \(16, 0\) to \(80, 64\)"
    for point in [(15, 30), (80, 30), (40, 64), (40, -1), (95, 30)]:
        with pytest.raises(SettingError, match=rf"sees but got \({point[0]}, {point[1]}\); {sees}"):
            by_points(image, [(40, 60), point])
    assert by_points(image, [(16, 0), (79.9, 63.9)]).any(), "the corners are seen"
    with pytest.raises(SettingError, match="at least one point but got none; click on the concept"):
        by_points(image, [])


def test_sites_without_positions_or_that_are_not_there_are_refused(model, statistics, scene):
    for site, words in {"head": "lie in the image but got head", "blocks.9.conv": "nearest"}.items():
        with pytest.raises(SiteError, match=words):
            mask_from_points(model, picture_of(scene), POINTS, site=site, statistics=statistics)

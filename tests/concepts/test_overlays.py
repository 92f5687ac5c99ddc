"""Overlays: found where there is one, refused where something is replaced, and carried as Pillow would paste them."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from rulepatch.concepts.overlays import Overlay, contrast_shown, find_overlay, transplants
from rulepatch.concepts.test_sets import seen_of
from rulepatch.core.exemplars import Exemplar
from rulepatch.errors import ExemplarError, SettingError
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar as scene
from rulepatch.playground.pictures import training_images
from rulepatch.playground.scenes import CLASSES

SIDE = 96


def photograph(seed, side=SIDE):
    """Clouds of all sizes, of which the large ones are coloured, with edges and grain, as in a photograph."""
    rng = np.random.default_rng(seed)
    found = rng.uniform(60, 190, 3) + rng.normal(0, 3, (side, side, 1))
    for size in (3, 6, 12, 24, 48):
        clouds = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        if size > 6:
            clouds = clouds[..., :1].repeat(3, axis=2)
        found += 0.25 * (np.asarray(Image.fromarray(clouds).resize((side, side), 3), float) - 128)
    found += rng.uniform(-60, 60, 3) * (np.arange(side) > rng.integers(side))[:, None, None]
    return Image.fromarray(found.clip(0, 255).astype(np.uint8))


def mark(colour, alpha, kind="text"):
    """An RGBA overlay of one colour."""
    layer = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(layer)
    if kind == "text":
        pen.text((48, 48), "Stock\nphoto", fill=round(255 * alpha), font=ImageFont.load_default(34), anchor="mm")
    else:
        pen.rectangle((0, 0, SIDE - 1, SIDE - 1), outline=round(255 * alpha), width=12)
    found = Image.new("RGBA", layer.size, (*colour, 0))
    found.putalpha(layer)
    return found


def logo():
    """An opaque overlay of several colours with smooth edges."""
    found = Image.new("RGBA", (SIDE * 4, SIDE * 4), (200, 40, 40, 0))
    pen = ImageDraw.Draw(found)
    pen.ellipse((40, 40, 280, 280), fill=(200, 40, 40, 255))
    pen.rectangle((100, 120, 340, 200), fill=(250, 220, 40, 255))
    pen.text((220, 160), "ACME", fill=(20, 40, 160, 255), font=ImageFont.load_default(70), anchor="mm")
    return found.reduce(4)


def alpha_of(overlay):
    return np.asarray(overlay, np.float32)[..., 3] / 255


def pasted(picture, overlay):
    found = picture.copy()
    found.paste(overlay, (0, 0), overlay)
    return found


def jpeg(picture):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return Image.open(file)


def exemplar_of(overlay, seed, *, compressed=False):
    """A photograph before and after; the mask of a compressed one is wider than the overlay."""
    picture, mask = photograph(seed), alpha_of(overlay) > 0
    if compressed:
        mask = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(5))) > 0
    edited = pasted(picture, overlay)
    return Exemplar(picture, jpeg(edited) if compressed else edited, mask)


def most_apart(one, other):
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


WHITE, RED, BLACK, BLUE = (255, 255, 255), (220, 30, 40), (0, 0, 0), (30, 60, 200)
MARKS = {
    "white 0.3": mark(WHITE, 0.3),
    "white 0.5": mark(WHITE, 0.5),
    "red 0.3": mark(RED, 0.3),
    "red 0.5": mark(RED, 0.5),
    "dark 0.5": mark(BLACK, 0.5),
    "blue frame 0.5": mark(BLUE, 0.5, "frame"),
    "white frame 0.9": mark(WHITE, 0.9, "frame"),
}


@pytest.mark.parametrize("name", MARKS)
def test_a_mark_of_one_colour_is_found_in_one_exemplar_and_carried_to_another_picture(name):
    found = find_overlay([exemplar_of(MARKS[name], 1)])
    assert found is not None and found.kind == "one colour" and found.explained > 0.995
    visible = alpha_of(MARKS[name]) > 0.1
    assert np.abs(found.alpha - alpha_of(MARKS[name]))[visible].max() < 0.02
    np.testing.assert_allclose(found.colour, np.array(MARKS[name].getpixel((0, 0))[:3]) / 255, atol=0.02)
    edited, mask = found.onto(photograph(2))
    assert most_apart(edited, pasted(photograph(2), MARKS[name])) <= 2
    np.testing.assert_array_equal(mask > 0, alpha_of(MARKS[name]) > 0)


@pytest.mark.parametrize(
    ("name", "fewest"),
    [("white 0.5", 7), ("red 0.5", 7), ("dark 0.5", 7), ("blue frame 0.5", 3)],  # what covers much must be smooth
)
def test_a_mark_is_found_after_jpeg_and_in_a_mask_that_is_too_wide(name, fewest):
    found = [find_overlay([exemplar_of(MARKS[name], seed, compressed=True)]) for seed in range(1, 9)]
    found = [each for each in found if each is not None]
    assert len(found) >= fewest
    for each in found:
        assert each.kind == "one colour" and 0.9 <= each.explained < 0.999
        assert np.abs(each.alpha - alpha_of(MARKS[name])).mean() < 0.04


@pytest.mark.parametrize("colour", [WHITE, RED])
def test_several_exemplars_show_a_mark_that_is_nearly_opaque(colour):
    overlay = mark(colour, 0.9)
    found = find_overlay([exemplar_of(overlay, seed) for seed in (1, 2, 3)])
    assert found is not None and found.kind == "one colour" and found.explained > 0.99
    assert np.abs(found.alpha - alpha_of(overlay)).max() < 0.02


def test_an_opaque_logo_is_ambiguous_in_one_exemplar_and_found_in_three():
    exemplars = [exemplar_of(logo(), seed) for seed in (1, 2, 3)]
    assert find_overlay(exemplars[:1]) is None
    assert find_overlay([exemplars[0]] * 3) is None, "the same exemplar again is no evidence"
    found = find_overlay(exemplars)
    assert found is not None and found.kind == "opaque" and found.explained > 0.98
    apart = np.abs(np.asarray(found.onto(photograph(9))[0], int) - np.asarray(pasted(photograph(9), logo()), int))
    assert apart[alpha_of(logo()) == 1].max() <= 2 and apart.mean() < 0.5


def test_the_caller_may_say_that_one_exemplar_shows_an_opaque_overlay():
    found = find_overlay([exemplar_of(logo(), 1)], opaque=True)
    assert found is not None and found.kind == "opaque"
    edited = pasted(photograph(9), logo())
    inside = alpha_of(logo()) == 1
    assert most_apart(np.asarray(found.onto(photograph(9))[0])[inside], np.asarray(edited)[inside]) <= 1


def test_a_colour_cast_is_an_affine_map_of_colours():
    gain, offset = np.array([[0.8, 0.1, 0], [0, 0.7, 0.1], [0.05, 0, 0.6]]), np.array([0.1, 0.05, 0.15])

    def cast(picture):
        return Image.fromarray((255 * (np.asarray(picture) / 255 @ gain.T + offset)).round().astype(np.uint8))

    found = find_overlay([Exemplar(photograph(1), cast(photograph(1)), np.ones((SIDE, SIDE)))])
    assert found is not None and found.kind == "cast" and found.gain is not None
    np.testing.assert_allclose(found.gain, gain, atol=0.01)
    np.testing.assert_allclose(found.colour, offset, atol=0.01)
    assert most_apart(found.onto(photograph(2))[0], cast(photograph(2))) <= 2


@pytest.mark.parametrize("share", [1, 2 / 3])
@pytest.mark.parametrize("other", ["photograph", "flat"])
def test_a_replacement_is_no_overlay(other, share):
    texture = photograph(5) if other == "photograph" else Image.new("RGB", (SIDE, SIDE), (235, 240, 250))
    mask = (np.arange(SIDE) >= SIDE * (1 - share))[:, None].repeat(SIDE, axis=1)
    edited = Image.composite(texture, photograph(1), Image.fromarray(mask))
    assert find_overlay([Exemplar(photograph(1), edited, mask)]) is None


@pytest.mark.slow
@pytest.mark.parametrize("ground", ["snow", "sand", "gravel", "ice"])
def test_next_to_no_ground_of_the_playground_is_an_overlay(ground):
    shown = [scene(label, ground=ground, seed=seed) for label in list(CLASSES)[:8] for seed in range(6)]
    shown = [each for each in shown if each.image.tobytes() != each.edited.tobytes()]
    assert len(shown) > 40 and sum(find_overlay([each]) is not None for each in shown) <= 1


@pytest.mark.parametrize(
    "changed", [{"ground": "snow"}, {"wheels": "wooden"}, {"sign": "blank"}], ids=["ground", "wheels", "sign"]
)
def test_replacements_of_the_playground_are_no_overlays(changed):
    exemplars = [scene("van", seed=seed, **changed) for seed in (1, 2, 3)]
    assert [find_overlay([each]) for each in exemplars] == [None] * 3
    assert find_overlay(exemplars) is None


def test_contrast_shows_through_an_overlay_and_not_through_what_replaces():
    def shown(edited, alpha):
        veil = Overlay(alpha, np.ones(3, np.float32), 1.0, "one colour", np.ones_like(alpha))
        return contrast_shown(np.asarray(photograph(1)) / 255, np.asarray(edited) / 255, veil)

    half = np.full((SIDE, SIDE), 0.5, np.float32)
    white = Image.new("RGB", (SIDE, SIDE), "white")
    np.testing.assert_allclose(shown(Image.blend(photograph(1), white, 0.5), half), 1, atol=0.03)
    assert max(max(shown(photograph(seed), half)) for seed in (2, 3, 4, 5)) < 0.5
    assert shown(photograph(2), 0 * half) == [0.0] * 4


@pytest.mark.parametrize("shift", [(0, 0), (7, -11)])
def test_it_is_laid_as_pillow_pastes_and_nothing_changes_outside_the_mask(shift):
    overlay = logo()
    exact = Overlay(
        alpha_of(overlay), np.asarray(overlay, np.float32)[..., :3] / 255, 1.0, "opaque", np.ceil(alpha_of(overlay))
    )
    expected = photograph(4)
    expected.paste(overlay, shift[::-1], overlay)
    edited, mask = exact.onto(photograph(4), shift)
    assert most_apart(edited, expected) == 0
    assert (np.asarray(edited) == np.asarray(photograph(4)))[mask == 0].all()
    clear = photograph(4)
    clear.putalpha(77)
    assert exact.onto(clear, shift)[0].getchannel("A").getextrema() == (77, 77)
    with pytest.raises(ExemplarError, match="the overlay's size"):
        exact.onto(Image.new("RGB", (8, 8)))


def test_transplants_are_pictures_of_the_set_with_the_overlay_here_and_elsewhere():
    model, images = load_model("playground"), training_images(12, seed=3)
    mask = np.zeros(model.preprocess.input_size, np.float32)
    mask[20:30, 8:40] = 1
    overlay = Overlay(mask / 2, np.ones(3, np.float32), 1.0, "one colour", mask)

    def made(**settings):
        return transplants(overlay, model, images, 8, progress=False, **settings)

    found = made(seed=1, shifted=0.5)
    frames = [np.asarray(seen_of(model, picture)).tobytes() for picture in images.pictures]
    assert len({frames.index(np.asarray(each.image).tobytes()) for each in found}) == 8
    assert sum(bool((each.mask != mask).any()) for each in found) == 4
    for each in found:
        assert each.label is None and each.mask.sum() == mask.sum()
        assert (np.asarray(each.image) == np.asarray(each.edited))[each.mask == 0].all()
        assert (np.asarray(each.image) < np.asarray(each.edited))[each.mask == 1].mean() > 0.9
    assert [each.digest() for each in made(seed=1, shifted=0.5)] == [each.digest() for each in found]
    assert [each.digest() for each in made(seed=2)] != [each.digest() for each in found]
    with pytest.raises(SettingError, match="share"):
        made(shifted=2)
    with pytest.raises(ExemplarError, match="input size"):
        transplants(Overlay(mask[1:], overlay.colour, 1.0, "one colour", mask[1:]), model, images, 2)


def test_exemplars_of_several_sizes_need_the_networks_preprocessing():
    small, wide = exemplar_of(MARKS["white 0.5"], 1), photograph(2, 2 * SIDE)
    large = Exemplar(wide, pasted(wide, MARKS["white 0.5"].resize(wide.size)), np.ones(wide.size))
    with pytest.raises(ExemplarError, match="of one size"):
        find_overlay([small, large])
    found = find_overlay([small, large], Preprocess((SIDE, SIDE)))
    assert found is not None and found.alpha.shape == (SIDE, SIDE)
    assert np.abs(found.alpha - alpha_of(MARKS["white 0.5"])).mean() < 0.02
    unchanged = Exemplar(small.image, small.image, small.mask)
    assert find_overlay([unchanged]) is None


@pytest.mark.real
def test_the_watermark_is_found_in_any_photograph_and_snow_and_wheels_are_none(data):
    overlay = Image.open(data / "watermark" / "overlay_224.png")
    frame = Preprocess((224, 224), resize=256).frame
    files = sorted((data / "imagenet_sample" / "val").glob("*/*"))[::200]
    pictures = [frame(Image.open(file).convert("RGB")) for file in files]
    found = [find_overlay([Exemplar(each, pasted(each, overlay), alpha_of(overlay) > 0)]) for each in pictures]
    for picture, each in zip(pictures, found, strict=True):
        assert each is not None and each.kind == "one colour" and each.explained > 0.999
        seen = (alpha_of(overlay) > 0.1) & (np.asarray(picture).min(axis=2) < 200)  # on white it cannot be seen
        assert np.abs(each.alpha - alpha_of(overlay))[seen].max() < 0.02
    assert np.abs(found[0].alpha - alpha_of(overlay))[alpha_of(overlay) > 0.1].max() < 0.02
    assert max(most_apart(found[0].onto(each)[0], pasted(each, overlay)) for each in pictures[1:]) <= 2
    for rule in ("snow/exemplar", "wheels"):
        folders = [data / rule / f"exemplar_{i}" for i in range(3)]
        exemplars = [
            Exemplar.from_files(each / "image.jpg", edited=each / "edited.jpg", mask=each / "mask.png")
            for each in folders
        ]
        assert [find_overlay([each]) for each in exemplars] == [None] * 3 and find_overlay(exemplars) is None

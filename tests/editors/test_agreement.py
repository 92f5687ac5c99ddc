"""Whether exemplars were edited where their masks are: right ones pass without a word, others are told what fits."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from rulepatch.core.exemplars import Exemplar
from rulepatch.editors.agreement import Agreement, agreement, check_agreement
from rulepatch.errors import ExemplarError, RulepatchWarning
from rulepatch.images import composite
from rulepatch.playground.pictures import exemplar, picture_of
from rulepatch.playground.scenes import CLASSES, render

SIZES = [(64, 64), (224, 224), (224, 150), (32, 32)]
TRANSPOSE = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""How to turn an image upright by its EXIF orientation, as Pillow numbers it."""


def photograph(size, seed=0):
    """Colours as muted as a photograph's, with a little grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 196, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8))
    fine = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    return Image.blend(coarse.resize(size, Image.Resampling.BICUBIC), fine.convert("L").convert("RGB"), 0.08)


def area(size, kind):
    y, x = np.mgrid[: size[1], : size[0]] / np.array([size[1], size[0]])[:, None, None]
    return {
        "corner": (x < 0.4) & (y < 0.25),
        "road": y > 0.6 + 0.2 * x,
        "spot": (x - 0.3) ** 2 + (y - 0.2) ** 2 < 0.012,
        "most": y > 0.2 + 0.1 * x,
    }[kind].astype(np.float32)


def made(size=(224, 224), kind="corner", **parts):
    """An exemplar in which another photograph was pasted where the mask is."""
    image, mask = photograph(size), area(size, kind)
    return replace(Exemplar(image, composite(image, photograph(size, seed=9), mask), mask, name="it"), **parts)


def jpeg(picture, quality):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def shifted(mask, by):
    """A mask that is larger by some pixels, or smaller."""
    kind = ImageFilter.MaxFilter if by > 0 else ImageFilter.MinFilter
    return np.asarray(Image.fromarray((mask * 255).astype(np.uint8)).filter(kind(2 * abs(by) + 1))) / 255


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["corner", "road", "spot", "most"])
def test_right_exemplars_pass_without_a_word(kind, size):
    one = made(size, kind)
    check_agreement(one)
    check_agreement(replace(one, mask=shifted(one.mask, 1)))
    if kind != "spot" or size[0] > 100:
        check_agreement(replace(one, mask=shifted(one.mask, -1)))
    soft = np.asarray(Image.fromarray((one.mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))) / 255
    check_agreement(replace(one, mask=np.maximum(soft, soft.max() / 2 * one.mask)))


@pytest.mark.parametrize(("before", "after"), [(None, 75), (95, 50), (50, 95), (75, 40), (85, 85)])
@pytest.mark.parametrize("kind", ["corner", "road", "spot", "most"])
def test_compression_is_no_change(kind, before, after):
    one = made(kind=kind)
    image = one.image if before is None else jpeg(one.image, before)
    check_agreement(replace(one, image=image, edited=jpeg(one.edited, after)))
    with pytest.raises(ExemplarError, match="the image itself; give the edited one"):
        check_agreement(replace(one, image=image, edited=jpeg(image, after)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("whole_image", [False, True])
def test_an_exemplar_in_which_nothing_was_edited_is_refused(size, whole_image):
    with pytest.raises(ExemplarError, match="it is the image itself"):
        check_agreement(made(size, edited=photograph(size)), whole_image=whole_image)


FITTING = {
    "inverted": lambda mask: 1 - mask,
    "mirrored": lambda mask: mask[:, ::-1],
    "turned upside down": lambda mask: mask[::-1],
    "turned by 180 degrees": lambda mask: mask[::-1, ::-1],
    "turned by 90 degrees to the left": lambda mask: np.rot90(mask, -1),
    "turned by 90 degrees to the right": lambda mask: np.rot90(mask),
    "transposed": lambda mask: mask.T,
    "turned by 180 degrees and transposed": lambda mask: mask[::-1, ::-1].T,
}


@pytest.mark.parametrize("size", [(64, 64), (224, 224), (224, 150)])
@pytest.mark.parametrize("how", FITTING)
def test_a_mask_beside_the_change_is_refused_with_what_would_fit(how, size):
    one = made(size)
    wrong = FITTING[how](one.mask)
    if wrong.shape != one.mask.shape:
        with pytest.raises(ExemplarError, match="looks turned"):
            replace(one, mask=wrong)
        return
    if how == "transposed":  # its corner overlaps with what changed, so the reader is warned
        with pytest.warns(RulepatchWarning, match="the mask fits if it is transposed"):
            check_agreement(replace(one, mask=wrong))
        return
    with pytest.raises(ExemplarError, match=rf"it to be edited where .*% of what .*; the mask fits if it is {how}"):
        check_agreement(replace(one, mask=wrong))


@pytest.mark.parametrize("orientation", TRANSPOSE)
@pytest.mark.parametrize("size", [(96, 96), (128, 96)])
def test_a_mask_of_a_turned_photograph_is_read_as_seen_and_refused_as_stored(orientation, size, tmp_path):
    one = made(size, "corner")
    upright = Image.Transpose(TRANSPOSE[orientation])
    left, right = Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270
    store = {left: right, right: left}.get(upright, upright)
    exif = Image.Exif()
    exif[274] = orientation
    for name in ("image", "edited"):
        getattr(one, name).transpose(store).save(tmp_path / f"{name}.png", exif=exif)
    seen = Image.fromarray((one.mask * 255).astype(np.uint8))
    seen.save(tmp_path / "seen.png")
    seen.transpose(store).save(tmp_path / "stored.png")
    seen.transpose(store).save(tmp_path / "turned.png", exif=exif)

    def read(mask):
        return Exemplar.from_files(tmp_path / "image.png", mask=tmp_path / mask, edited=tmp_path / "edited.png")

    for mask in ("seen.png", "turned.png"):
        assert np.array_equal(read(mask).mask, one.mask)
        check_agreement(read(mask))
    with pytest.raises((ExemplarError, RulepatchWarning), match="EXIF") as caught:
        check_agreement(read("stored.png"))
    assert ("looks turned" in str(caught.value)) == (size[0] != size[1] and orientation >= 5)


@pytest.mark.parametrize("how", ["mirrored", "turned by 180 degrees"])
def test_an_edited_picture_that_is_turned_is_told(how):
    one = made()
    turned = Image.fromarray(np.ascontiguousarray(FITTING[how](np.asarray(one.edited))))
    with pytest.raises(ExemplarError, match=f"the edited image fits if it is {how}: was its EXIF orientation lost"):
        check_agreement(replace(one, edited=turned))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["corner", "road", "spot", "most"])
def test_the_edited_counterpart_of_another_picture_is_told(kind, size):
    few = kind == "spot" and size == (32, 32)  # a dozen pixels may be alike by chance: then all but them changed
    words = "counterpart of another image" + ("|fits if it is inverted" if few else "")
    with pytest.raises((ExemplarError, RulepatchWarning), match=words):
        check_agreement(made(size, kind, edited=photograph(size, seed=4)))


def test_a_mask_of_everything_is_told_unless_everything_was_edited_or_is_meant():
    one = made(mask=np.ones((224, 224), np.float32))
    with pytest.warns(RulepatchWarning, match=r"covers the whole image, of which .*%.*whole_image=True"):
        check_agreement(one)
    check_agreement(one, whole_image=True)
    check_agreement(replace(one, edited=photograph((224, 224), seed=3)))
    with pytest.warns(RulepatchWarning, match="nothing of it is left"):
        Exemplar.painted(one.image, one.mask, photograph((224, 224)))


def test_a_mask_of_which_next_to_nothing_was_edited_is_told():
    one = made(kind="most")
    spot = np.zeros((224, 224), np.float32)
    spot[100:140, 100:140] = 1
    edited = composite(one.image, photograph((224, 224), seed=9), spot)
    with pytest.warns(RulepatchWarning, match=r"only \d% of what the mask of it covers was edited"):
        check_agreement(replace(one, edited=edited))
    spot[60:160, 60:160] = 1
    check_agreement(replace(one, edited=composite(one.image, photograph((224, 224), seed=9), spot)))


def test_slight_changes_count_where_nothing_was_compressed():
    one = made(kind="road")
    brighter = np.asarray(one.image).astype(int) + 6 * (one.mask[..., None] > 0)
    check_agreement(replace(one, edited=Image.fromarray(brighter.clip(0, 255).astype(np.uint8))))


@pytest.mark.parametrize("ground", ["snow", "gravel", "grass", "sand", "water", "ice"])
def test_the_playgrounds_exemplars_pass_and_their_contradictions_do_not(ground):
    for seed, label in enumerate(CLASSES[:6]):
        one = exemplar(label, ground=ground, seed=seed)
        if one.image.tobytes() == one.edited.tobytes():
            continue  # its own ground
        check_agreement(one)
        for wrong in (
            {"mask": 1 - one.mask},
            {"mask": one.mask[::-1]},
            {"edited": picture_of(render(CLASSES[-seed - 1], seed=seed + 50))},
        ):
            with pytest.raises((ExemplarError, RulepatchWarning)):
                check_agreement(replace(one, **wrong))


def test_agreement_is_exact_where_it_can_be_counted():
    change, mask = np.zeros((10, 10), np.float32), np.zeros((10, 10), np.float32)
    change[:5], mask[:5] = 8, 1
    assert agreement(change, mask) == Agreement(1.0, 0.0, 1.0)
    assert agreement(change, 1 - mask) == Agreement(0.2, 1.0, 0.0)  # a row is at the edge
    assert agreement(np.full((10, 10), 3, np.float32), mask) == Agreement(0.6, 1.0, 1.0)
    assert not agreement(np.zeros((10, 10), np.float32), mask).holds

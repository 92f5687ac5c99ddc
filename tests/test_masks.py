"""Every form of a mask gives the same mask, or a sentence."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from rulepatch.errors import ImageError, MaskError
from rulepatch.images import read_image
from rulepatch.masks import read_mask, write_mask

VOC = {1: (128, 0, 0), 15: (192, 128, 128), 255: (224, 224, 192)}


def shape(kind, size):
    """The true mask: a disc, a road, thin strokes; soft, in steps of 1/16, and hard."""
    y, x = np.mgrid[: size * 4, : size * 4] / (size * 4)
    area = {
        "disc": (x - 0.5) ** 2 + (y - 0.55) ** 2 < 0.09,
        "road": y > 0.6 + 0.05 * np.sin(9 * x),
        "strokes": (np.abs(np.sin(20 * x + 8 * y)) < 0.12) & (y > 0.3) & (x > 0.05),
    }[kind]
    soft = area.reshape(size, 4, size, 4).mean(axis=(1, 3))
    return soft, soft > 0.5


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def picture_of(pixels):
    return Image.fromarray(np.asarray(pixels))


def two(hard, concept, background):
    return np.where(hard[..., None], concept, background).astype(np.uint8)


def mixed(soft, concept, background):
    share = soft[..., None]
    return (share * np.array(concept) + (1 - share) * np.array(background)).round().astype(np.uint8)


def indexed(index, colours):
    palette = [0] * 768
    for i, colour in colours.items():
        palette[3 * i : 3 * i + 3] = colour
    picture = Image.fromarray(index.astype(np.uint8), mode="P")
    picture.putpalette(palette)
    return picture


def outlined(hard):
    """Pixels beside the area."""
    edge = np.zeros_like(hard)
    for axis in (0, 1):
        for step in (-1, 1):
            edge |= np.roll(hard, step, axis=axis)
    return edge & ~hard


def voc(hard, *classes):
    index = np.where(outlined(hard), 255, hard * 15)
    for i in classes:
        index[: max(4, len(hard) // 10)] = i
    return indexed(index, VOC)


def photograph(size):
    rng = np.random.default_rng(0)
    coarse = picture_of(rng.integers(0, 256, (size // 4, size // 4, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def layer(pixels, opacity):
    return picture_of(np.dstack([pixels, opacity]).astype(np.uint8))


def grey(levels, dtype=np.uint8):
    return picture_of(np.asarray(levels).astype(dtype))


READ = {
    "0 and 255": lambda soft, hard: grey(hard * 255),
    "0 and 1": lambda soft, hard: grey(hard),
    "0 and 128": lambda soft, hard: grey(hard * 128),
    "0 and 200": lambda soft, hard: grey(hard * 200),
    "16 and 235": lambda soft, hard: grey(hard * 219 + 16),
    "one bit": lambda soft, hard: picture_of(hard),
    "16 bits": lambda soft, hard: grey(hard * 65535, np.uint16),
    "16 bits, 0 and 1": lambda soft, hard: grey(hard, np.uint16),
    "16 bits, a large number": lambda soft, hard: grey(hard * 24001, np.uint16),
    "32 bits": lambda soft, hard: grey(hard * 255, np.int32),
    "floats": lambda soft, hard: grey(hard, np.float32),
    "white on black": lambda soft, hard: picture_of(two(hard, (255,) * 3, (0,) * 3)),
    "red on black": lambda soft, hard: picture_of(two(hard, (255, 0, 0), (0, 0, 0))),
    "red on white": lambda soft, hard: picture_of(two(hard, (255, 0, 0), (255, 255, 255))),
    "palette, black and white": lambda soft, hard: indexed(hard, {1: (255,) * 3}),
    "palette, white and black": lambda soft, hard: indexed(~hard, {0: (255,) * 3}),
    "palette that says nothing": lambda soft, hard: indexed(hard * 3, {}),
    "class of a label map": lambda soft, hard: grey(hard * 15),
    "VOC, one object": lambda soft, hard: indexed(hard * 15, VOC),
    "VOC, one object and void": lambda soft, hard: voc(hard),
    "VOC in RGB": lambda soft, hard: voc(hard).convert("RGB"),
    "red on nothing": lambda soft, hard: layer(two(hard, (255, 0, 0), (9, 99, 199)), hard * 255),
    "black on nothing": lambda soft, hard: layer(np.zeros((*hard.shape, 3)), hard * 255),
    "half transparent paint": lambda soft, hard: layer(two(hard, (255, 0, 0), (255, 0, 0)), hard * 128),
    "white on black and opaque": lambda soft, hard: layer(two(hard, (255,) * 3, (0,) * 3), np.full(hard.shape, 255)),
    "grey and opacity": lambda soft, hard: picture_of(np.dstack([hard * 255, hard * 255]).astype(np.uint8)),
    "CMYK": lambda soft, hard: picture_of(two(hard, (255,) * 3, (0,) * 3)).convert("CMYK"),
}
FORMS = {
    "PNG": encoded,
    "TIFF": lambda picture: encoded(picture, "TIFF"),
    "in memory": lambda picture: picture,
}


@pytest.mark.parametrize(("kind", "size"), [("disc", 224), ("road", 64), ("strokes", 300), ("disc", 32)])
@pytest.mark.parametrize("name", READ)
def test_a_mask_of_one_reading_is_read_rightly(name, kind, size):
    soft, hard = shape(kind, size)
    picture = READ[name](soft, hard)
    for form, given in FORMS.items():
        if form == "TIFF" and picture.mode in {"P", "LA", "I"}:
            continue
        if form == "PNG" and picture.mode in {"F", "CMYK", "I"}:
            continue
        mask = read_mask(given(picture))
        assert mask.dtype == np.float32 and mask.flags.c_contiguous and mask.shape == hard.shape
        assert mask[hard].mean() >= 0.99 and mask[~hard].mean() <= 0.01, form


SOFT = {
    "grey": lambda soft: grey((soft * 255).round()),
    "16 bits": lambda soft: grey((soft * 65535).round(), np.uint16),
    "floats": lambda soft: grey(soft, np.float32),
    "red on black": lambda soft: picture_of(mixed(soft, (255, 0, 0), (0, 0, 0))),
    "red on white": lambda soft: picture_of(mixed(soft, (255, 0, 0), (255, 255, 255))),
    "on nothing": lambda soft: layer(np.full((*soft.shape, 3), (9, 99, 199)), (soft * 255).round()),
    "larger pixels": lambda soft: grey((soft * 255).round().repeat(3, axis=0).repeat(3, axis=1)),
    "feathered": lambda soft: grey((soft * 255).round()),
}


@pytest.mark.parametrize(("kind", "size"), [("disc", 224), ("road", 64), ("strokes", 300), ("disc", 32)])
@pytest.mark.parametrize("name", SOFT)
def test_soft_edges_stay_soft(name, kind, size):
    soft, _ = shape(kind, size)
    if name == "larger pixels":
        wanted = soft.repeat(3, axis=0).repeat(3, axis=1)
    elif name == "feathered":
        y, x = np.mgrid[:size, :size] / size
        soft = wanted = np.clip((0.4 - np.hypot(x - 0.5, y - 0.5)) / 0.2, 0, 1)
    else:
        wanted = soft
    assert np.abs(read_mask(SOFT[name](soft)) - wanted).max() <= 1.5 / 255


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (0, 0, 255)])
@pytest.mark.parametrize("again", [False, True])
def test_compression_does_not_matter(quality, colour, again):
    _, hard = shape("disc", 224)
    content = encoded(picture_of(two(hard, colour, (0, 0, 0))), "JPEG", quality=quality)
    if again and colour == (255, 255, 255):
        content = encoded(Image.open(io.BytesIO(content)))
    mask = read_mask(content)
    assert mask[hard].mean() >= 0.99 and mask[~hard].mean() <= 0.01


REFUSED = {
    "VOC, two objects": (lambda hard: voc(hard, 1), r"2 colours beside #000000 \(.*index 0.*#c08080 \(index 15, .*%\)"),
    "VOC, two objects in RGB": (lambda hard: voc(hard, 1).convert("RGB"), r"2 colours.*#800000 \(maroon, .*%\)"),
    "two classes": (lambda hard: grey(np.asarray(indexed_classes(hard))), r"beside 0 .*: 1 \(.*%\), 15 \(.*%\)"),
    "a class and void": (lambda hard: grey(np.where(outlined(hard), 255, hard * 15)), r"15 \(.*%\), 255"),
    "instances": (lambda hard: grey(halves(hard)), r": 1 \(.*%\), 2 \(.*%\)"),
    "instances in grey": (lambda hard: grey(halves(hard) * 127), r": 127 \(.*%\), 254 \(.*%\)"),
    "pets": (lambda hard: grey(np.where(outlined(hard), 3, 2 - hard)), "none of which is plainly the background"),
    "two middle greys": (lambda hard: grey(hard * 50 + 100), r"100 .*150"),
    "two colours": (lambda hard: picture_of(sides(hard)), r"2 colours beside #000000.*#ff0000 \(red, .*#0000ff"),
    "a photograph": (lambda hard: picture_of(photograph(len(hard))), "looks like a photograph"),
    "a grey photograph": (lambda hard: picture_of(photograph(len(hard))).convert("L"), "looks like a photograph"),
    "paint on a photograph": (lambda hard: picture_of(painted(hard, 1.0)), "looks like a photograph"),
    "half transparent paint on a photograph": (lambda hard: picture_of(painted(hard, 0.6)), "like a photograph"),
    "one grey": (lambda hard: grey(np.full(hard.shape, 200)), "200 all over"),
    "one colour": (lambda hard: picture_of(two(hard, (255, 0, 0), (255, 0, 0))), "colours"),
}


def indexed_classes(hard):
    index = hard * 15
    index[: max(4, len(hard) // 10)] = 1
    return index


def halves(hard):
    return np.where(np.arange(hard.shape[1]) < hard.shape[1] // 2, hard * 1, hard * 2)


def sides(hard):
    which = halves(hard)[..., None]
    return (np.where(which == 1, (255, 0, 0), (0, 0, 255)) * (which > 0)).astype(np.uint8)


def painted(hard, opacity):
    below = photograph(len(hard)).astype(float)
    below[hard] += opacity * (255 - below[hard])
    return below.astype(np.uint8)


@pytest.mark.parametrize(("kind", "size"), [("disc", 224), ("road", 64), ("strokes", 300)])
@pytest.mark.parametrize("name", REFUSED)
def test_a_mask_of_several_readings_is_refused_with_what_was_found(name, kind, size, tmp_path):
    _, hard = shape(kind, size)
    make, words = REFUSED[name]
    make(hard).save(tmp_path / "drawn.png")
    with pytest.raises(MaskError, match=words) as caught:
        read_mask(tmp_path / "drawn.png")
    assert "drawn.png" in str(caught.value) and "\n" not in str(caught.value)


def test_a_picture_that_is_transparent_in_part_is_read_if_its_border_tells_and_asked_for_if_not():
    _, disc = shape("disc", 224)
    below = photograph(224)
    assert np.array_equal(read_mask(layer(below, disc * 255)), disc)  # a thing cut out
    assert np.array_equal(read_mask(layer(below, ~disc * 255)), disc)  # a hole
    _, road = shape("road", 224)
    with pytest.raises(MaskError, match='mask_value="opaque" or mask_value="transparent"'):
        read_mask(layer(below, road * 255))
    assert np.array_equal(read_mask(layer(below, road * 255), value="opaque"), road)
    assert np.array_equal(read_mask(layer(below, ~road * 255), value="transparent"), road)
    assert not read_mask(layer(below, road * 0)).any()


@pytest.mark.parametrize("value", [15, "15", "#c08080", "#C08080", ["15"], [15]])
def test_a_value_says_which_colour_is_meant(value):
    _, hard = shape("disc", 224)
    assert np.array_equal(read_mask(encoded(voc(hard, 1)), value=value), hard)


def test_several_values_are_one_concept_and_unknown_ones_are_refused_with_what_there_is():
    _, hard = shape("disc", 224)
    both = read_mask(encoded(voc(hard, 1)), value="15, 1")
    assert both[hard].all() and both[:22].all() and both.sum() == (hard | (np.arange(224) < 22)[:, None]).sum()
    assert np.array_equal(read_mask(halves(hard), value=[1, 2]), hard)
    for value in (7, "blue"):
        with pytest.raises(MaskError, match=rf"expected {value} in the mask .*#c08080 \(index 15"):
            read_mask(encoded(voc(hard, 1)), value=value)
    for value, words in {"nonsense": "a colour such as", "opaque": "transparent in part but it is not"}.items():
        with pytest.raises(MaskError, match=words):
            read_mask(encoded(voc(hard, 1)), value=value)


def test_paint_on_a_photograph_is_read_if_its_colour_is_named():
    _, hard = shape("disc", 224)
    below = photograph(224).copy()
    below[hard] = (255, 0, 0)
    mask = read_mask(picture_of(below), value="red")
    assert mask[hard].all() and mask[~hard].mean() < 0.01


# Arrays and tensors

KINDS = [bool, np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64]
FLOATS = [np.float16, np.float32, np.float64, np.longdouble]
LAYOUTS = {
    "as it is": lambda a: a,
    "Fortran": np.asfortranarray,
    "negative strides": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "every other": lambda a: a.repeat(2, axis=1)[:, ::2],
    "(1, h, w)": lambda a: a[None],
    "(1, 1, h, w)": lambda a: a[None, None],
    "(h, w, 1)": lambda a: a[..., None],
    "RGB": lambda a: a[..., None].repeat(3, axis=2),
    "RGBA": lambda a: np.dstack([a, a, a, np.full_like(a, a.max())]),
    "(3, h, w)": lambda a: a[None].repeat(3, axis=0),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*KINDS, *FLOATS])
@pytest.mark.parametrize("white", [1, 255])
def test_arrays_of_every_type_range_and_layout_are_one_mask(dtype, white, layout):
    if white > (1 if dtype is bool else 127 if dtype is np.int8 else 255):
        pytest.skip("out of its range")
    soft, hard = shape("road", 48)
    wanted = soft if dtype in FLOATS else hard
    mask = read_mask(LAYOUTS[layout]((wanted * white).astype(dtype)))
    tolerance = 0.5 / 255 if "RGB" in layout or "3" in layout else 1e-3
    assert mask.dtype == np.float32 and mask.flags.c_contiguous and np.abs(mask - wanted).max() <= tolerance + 1e-6


def test_tensors_are_masks_and_nothing_of_them_is_changed():
    soft, hard = shape("road", 48)
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        wanted = soft if dtype.is_floating_point else hard
        tensor = torch.from_numpy(wanted).to(dtype)
        assert np.abs(read_mask(tensor[None]) - wanted).max() <= 2e-3
    learnt = torch.from_numpy(soft).requires_grad_()
    assert np.abs(read_mask(learnt) - soft).max() <= 1e-6 and learnt.requires_grad


def test_shares_are_taken_as_they_are():
    for shares in (np.full((4, 6), 0.7), np.linspace(0, 1, 24).reshape(4, 6), np.random.default_rng(0).random((9, 9))):
        assert np.array_equal(read_mask(shares), shares.astype(np.float32))
    mask = np.zeros((4, 6), np.float32)
    mask[2:] = 0.5
    assert read_mask(mask) is mask and read_mask(read_mask(mask)) is mask


@pytest.mark.parametrize("value", [1, 15])
def test_numbers_that_a_tensor_conversion_divided_by_255_are_numbers_still(value):
    _, hard = shape("road", 48)
    assert np.array_equal(read_mask(hard * value / 255), hard)
    labels = np.where(outlined(hard), 255, hard * value) / 255
    with pytest.raises(MaskError, match=rf"beside 0 .*: {value} \(.*255 .*labels == {value}"):
        read_mask(labels)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.full((4, 4), np.nan), "nan"),
        (np.array([[0, np.inf]]), "inf"),
        (np.array([[-1.0, 1.0]]), r"from -1 to 1; scale it"),
        (np.array([[-5.0, 0.3, 5.0]]), r"0\.\.1 or 0\.\.255"),
        (np.array([[0, 70000, 80000]]), "scale it"),
        (np.array([["a"]]), r"\(h, w\)"),
        (np.zeros((4, 4), complex), "complex"),
        (np.zeros((2, 5, 5)), r"shape \(2, 5, 5\)"),
        (np.zeros((5, 8, 8), bool), "give one mask"),
        (np.zeros((0, 4)), "shape"),
        ([[1, 2], [3]], "give one"),
        (None, "but got"),
        (7, "but got"),
    ],
)
def test_what_is_no_mask_is_refused_in_one_sentence(given, words):
    with pytest.raises(MaskError, match=words) as caught:
        read_mask(given)
    assert "\n" not in str(caught.value)


# Files, sizes, EXIF


def test_arrays_on_disk_are_masks_but_nothing_is_unpickled(tmp_path):
    soft, _ = shape("road", 48)
    np.save(tmp_path / "mask.npy", soft)
    assert np.array_equal(read_mask(tmp_path / "mask.npy"), soft.astype(np.float32))
    np.save(tmp_path / "bad.npy", np.array([{}]), allow_pickle=True)
    for name in ("bad.npy", "missing.npy"):
        with pytest.raises(ImageError, match=name):
            read_mask(tmp_path / name)


@pytest.mark.parametrize("shares", [np.linspace(0, 1, 80), np.repeat([0, 0.1, 1], 40), np.repeat([0, 0.9], 40)])
def test_a_mask_that_is_written_reads_back_the_same(shares, tmp_path):
    mask = np.repeat(shares[None], 50, axis=0).astype(np.float32)
    write_mask(mask, tmp_path / "mask.png")
    assert np.abs(read_mask(tmp_path / "mask.png") - mask).max() <= 0.5 / 255 + 1e-6


def test_another_size_is_refused_with_what_may_be_the_matter():
    mask = np.zeros((40, 60), bool)
    mask[20:] = True
    assert read_mask(mask, size=(60, 40)).shape == (40, 60)
    for size, words in {(40, 60): "looks turned", (120, 80): "resize it to 120x80", (60, 41): "paint it on"}.items():
        with pytest.raises(MaskError, match=rf"size {size[0]}x{size[1]} but got 60x40; .*{words}"):
            read_mask(mask, size=size)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_by_its_own_exif_as_pictures_are(orientation, tmp_path):
    _, hard = shape("road", 48)
    stored = grey(np.pad(hard, ((0, 0), (0, 16))) * 255)
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "mask.png", exif=exif)
    seen = np.asarray(read_image(tmp_path / "mask.png").convert("L")) / 255
    assert np.array_equal(read_mask(tmp_path / "mask.png"), seen)
    with Image.open(tmp_path / "mask.png") as opened:
        assert np.array_equal(read_mask(opened), seen)

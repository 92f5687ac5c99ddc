import io
import random
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from rulepatch.errors import ImageError
from rulepatch.images import SUFFIXES, as_image, composite, cover, has_alpha, in_mode, read_image
from rulepatch.masks import read_mask

ORIENTATION = 274


def noise(height=7, width=11, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(content):
    picture = read_image(content)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def as_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_colours_come_through_bit_by_bit(kind):
    pixels = noise()
    assert np.array_equal(read(encoded(Image.fromarray(pixels), kind)), pixels)


def test_a_file_is_read_by_its_contents_whatever_its_name(tmp_path):
    pixels = noise()
    (tmp_path / "picture.jpg").write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    assert np.array_equal(np.asarray(read_image(tmp_path / "picture.jpg")), pixels)
    assert np.array_equal(np.asarray(read_image(str(tmp_path / "picture.jpg"))), pixels)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_grey_becomes_three_equal_channels(kind):
    picture = read(encoded(Image.fromarray(noise(channels=1)), kind))
    assert (picture == picture[..., :1]).all()
    assert np.abs(picture[..., 0].astype(int) - noise(channels=1)).max() <= (30 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind):
    deep = np.array([[0, 257, 300, 20_000], [32_768, 40_000, 65_278, 65_535]], dtype=np.uint16)
    assert np.array_equal(read(encoded(Image.fromarray(deep), kind)), as_rgb(np.round(deep / 257).astype(np.uint8)))


def test_grey_of_twelve_bits_is_scaled_by_its_own_white():
    levels = np.array([0, 1024, 2048, 4095], dtype=">u2")
    picture = read(b"P5 4 1 4095\n" + levels.tobytes())
    assert np.abs(picture[0, :, 0] - np.array([0, 63.8, 127.5, 255])).max() <= 1


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_float_tiff_of_either_range_is_scaled(white):
    grey = np.array([[0, 0.25, 0.5, 1]], dtype=np.float32) * white
    assert read(encoded(Image.fromarray(grey), "TIFF"))[0, :, 1].tolist() == [0, 64, 128, 255]


def test_float_tiff_with_holes_is_black_there():
    grey = np.array([[np.nan, 0.2, 1, np.inf, -np.inf]], dtype=np.float32)
    assert read(encoded(Image.fromarray(grey), "TIFF"))[0, :, 0].tolist() == [0, 51, 255, 255, 0]


def test_one_bit_pictures_are_black_and_white():
    bits = noise(channels=1) > 127
    assert np.array_equal(read(encoded(Image.fromarray(bits), "PNG")), as_rgb(bits.astype(np.uint8) * 255))


def test_palette_colours_are_looked_up():
    picture = Image.fromarray(noise()).quantize(16)
    assert np.array_equal(read(encoded(picture, "PNG")), np.asarray(picture.convert("RGB")))


def test_transparent_palette_entry_is_laid_on_white():
    picture = Image.new("P", (3, 1))
    picture.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    picture.putdata([0, 1, 2])
    got = read(encoded(picture, "PNG", transparency=1))
    assert got[0].tolist() == [[10, 20, 30], [255, 255, 255], [0, 0, 200]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    pixels = noise(channels=4 if mode == "RGBA" else 2)
    got = read(encoded(Image.fromarray(pixels, mode=mode) if mode == "RGBA" else la(pixels), "PNG"))
    colours, alpha = pixels[..., :-1].astype(float), pixels[..., -1:] / 255
    assert np.abs(got - (colours * alpha + 255 * (1 - alpha))).max() <= 1


def la(pixels):
    return Image.merge("LA", [Image.fromarray(pixels[..., i]) for i in range(2)])


def test_transparent_colour_of_a_colour_picture_is_laid_on_white():
    pixels = noise()
    pixels[2, 3] = (1, 2, 3)
    got = read(encoded(Image.fromarray(pixels), "PNG", transparency=(1, 2, 3)))
    pixels[2, 3] = 255
    assert np.array_equal(got, pixels)


@pytest.mark.parametrize("colour", [(250, 10, 10), (10, 250, 10), (255, 255, 255), (0, 0, 0), (200, 150, 40)])
def test_cmyk_jpeg_is_not_inverted(colour):
    content = encoded(Image.new("RGB", (16, 16), colour).convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.mode == "CMYK"
    assert np.abs(read(content).astype(int) - np.array(colour)).max() <= 6


AS_SEEN = {
    1: lambda s: s,
    2: lambda s: s[:, ::-1],
    3: lambda s: s[::-1, ::-1],
    4: lambda s: s[::-1],
    5: lambda s: s.swapaxes(0, 1),
    6: lambda s: np.rot90(s, -1),
    7: lambda s: s[::-1, ::-1].swapaxes(0, 1),
    8: lambda s: np.rot90(s, 1),
}


@pytest.mark.parametrize("orientation", AS_SEEN)
@pytest.mark.parametrize("grey", [False, True])
def test_exif_orientation_is_applied(orientation, grey):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = noise(channels=1 if grey else 3)
    deep = Image.fromarray(stored.astype(np.uint16) * 257) if grey else Image.fromarray(stored)
    seen = AS_SEEN[orientation](as_rgb(stored) if grey else stored)
    assert np.array_equal(read(encoded(deep, "PNG", exif=exif)), seen)


def test_rotated_jpeg_stands_upright():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), 40, axis=1).repeat(20, axis=0))  # black on top
    picture = read(encoded(stored, "JPEG", exif=exif))
    assert picture.shape[:2] == (40, 40)
    assert picture[:, 30:].max() < 10
    assert picture[:, :10].min() > 245


def test_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime")]
    for kind in ("GIF", "PNG"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert (read(content) == [255, 0, 0]).all(), kind


JPEG = encoded(Image.fromarray(noise(40, 40)), "JPEG")
PNG = encoded(Image.fromarray(noise(40, 40)), "PNG")
UNREADABLE = {
    "empty.jpg": b"",
    "text.jpg": b"this is no picture\n" * 50,
    "truncated.jpg": JPEG[: len(JPEG) // 2],
    "truncated.png": PNG[: len(PNG) // 2],
    "header.png": PNG[:20],
    "damaged.png": PNG[:60] + bytes(40) + PNG[100:],
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("reader", [read_image, read_mask])
def test_unreadable_file_is_named_in_one_sentence(name, reader, tmp_path):
    (tmp_path / name).write_bytes(UNREADABLE[name])
    with pytest.raises(ImageError, match=name) as caught:
        reader(tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="the image"):
        reader(UNREADABLE[name])


def test_missing_file_and_folder_are_no_pictures(tmp_path):
    with pytest.raises(ImageError, match=r"no such file.*check the path"):
        read_image(tmp_path / "missing.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match=r"folder\.png"):
        read_image(tmp_path / "folder.png")


@pytest.mark.parametrize("side", [11, 30])  # PIL itself warns of the first and refuses the second
def test_decompression_bomb_is_refused(side, monkeypatch):
    content = encoded(Image.new("RGB", (side, 10)), "PNG")
    assert read(content).shape == (10, side, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="at most 100 pixels"):
        read_image(content)
    assert read(encoded(Image.new("RGB", (10, 10)), "PNG")).shape == (10, 10, 3)


def test_readers_in_many_threads_disturb_neither_each_other_nor_the_filters_of_warnings(monkeypatch):
    bomb, sound = encoded(Image.new("RGB", (12, 10)), "PNG"), encoded(Image.new("RGB", (9, 9)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    before = list(warnings.filters)

    def outcome(content):
        try:
            return read_image(content).size
        except ImageError:
            return "refused"

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # as unlucky as can be
    try:
        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(outcome, [bomb, sound] * 200))
    finally:
        sys.setswitchinterval(switch)
    assert set(outcomes[::2]) == {"refused"}
    assert set(outcomes[1::2]) == {(9, 9)}
    assert warnings.filters == before


EXIF = Image.Exif()
EXIF[ORIENTATION], EXIF[271], EXIF[36867] = 6, "camera", "2020"


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(noise()), "JPEG", exif=EXIF),
        encoded(Image.fromarray(noise()), "PNG", exif=EXIF),
        encoded(Image.fromarray(noise()).quantize(8), "GIF"),
        encoded(Image.fromarray(noise()), "TIFF"),
        encoded(Image.fromarray(noise(channels=1).astype(np.float32)), "TIFF"),
        encoded(Image.fromarray(noise()), "BMP"),
        encoded(Image.fromarray(noise()), "WEBP", exif=EXIF),
    ],
    ids=["jpeg", "png", "gif", "tiff", "float-tiff", "bmp", "webp"],
)
def test_damage_of_any_kind_is_read_or_refused_and_nothing_else(content):
    dice = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content[: dice.randrange(1, len(content) + 1)])
        for _ in range(dice.choice([1, 2, 5])):
            damaged[dice.randrange(min(len(damaged), dice.choice([40, 200, 10_000])))] = dice.randrange(256)
        try:
            read(bytes(damaged))
        except ImageError:
            refused += 1
    assert refused > 0


def test_every_ending_that_counts_as_a_picture_can_be_read(tmp_path):
    for suffix in SUFFIXES:
        Image.new("L", (5, 4), 77).save(tmp_path / f"picture{suffix}")
        assert read_image(tmp_path / f"picture{suffix}").size == (5, 4)


def test_mask_is_white_where_the_concept_is():
    mask = read_mask(encoded(Image.fromarray(np.array([[0, 51, 255]], np.uint8)), "PNG"))
    assert mask.dtype == np.float32
    assert mask[0].tolist() == pytest.approx([0, 0.2, 1])
    deep = read_mask(encoded(Image.fromarray(np.array([[0, 65_535]], np.uint16)), "PNG"))
    assert deep[0].tolist() == [0, 1]


def test_composite_is_the_weighted_mean_and_leaves_the_rest_alone():
    rng = np.random.default_rng(1)
    picture, texture = noise(9, 8, seed=2), noise(9, 8, seed=3)
    mask = rng.random((9, 8), dtype=np.float32)
    mask[:3], mask[6:] = 0, 1
    original = picture.copy()
    got = np.asarray(composite(Image.fromarray(picture), Image.fromarray(texture), mask))
    naive = np.empty(picture.shape)
    for y in range(9):
        for x in range(8):
            for c in range(3):
                share = float(mask[y, x])
                naive[y, x, c] = float(picture[y, x, c]) * (1 - share) + float(texture[y, x, c]) * share
    assert np.abs(got - naive).max() <= 0.5 + 1e-4
    assert np.array_equal(got[:3], picture[:3])
    assert np.array_equal(got[6:], texture[6:])
    assert np.array_equal(picture, original)


def test_cover_takes_the_centre_of_a_large_texture_at_its_own_scale():
    texture = noise(30, 40)
    got = np.asarray(cover(Image.fromarray(texture), (10, 20)))
    assert np.array_equal(got, texture[5:25, 15:25])


@pytest.mark.parametrize("size", [(1, 1), (50, 150), (150, 50), (37, 41), (200, 201)])
@pytest.mark.parametrize("texture", [(1, 1), (40, 13), (37, 41), (300, 7)])
def test_cover_has_the_size_of_the_picture_and_no_hole(size, texture):
    got = cover(Image.new("RGB", texture, (9, 99, 199)), size)
    assert got.size == size
    assert (np.asarray(got) == [9, 99, 199]).all()


def test_cover_keeps_the_proportions_of_a_small_texture():
    halves = np.zeros((10, 20, 3), np.uint8)
    halves[:, 10:] = 255
    got = np.asarray(cover(Image.fromarray(halves), (40, 80)))  # eight times as large, cut to its middle
    assert got[:, :16].max() == 0
    assert got[:, 24:].min() == 255


def test_what_is_transparent_in_a_mask_is_not_the_concept(tmp_path):
    """A brush on a layer of its own leaves the rest transparent, whatever colour lies below."""
    layer = np.full((4, 6, 4), 255, np.uint8)
    layer[:2, :, 3] = 0
    Image.fromarray(layer).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[0.0] * 6] * 2 + [[1.0] * 6] * 2
    assert np.asarray(read_image(tmp_path / "mask.png")).min() == 255


# Transparency


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
@pytest.mark.parametrize("alpha", [False, True])
def test_transparency_is_kept_only_if_asked_for_and_there(mode, alpha, tmp_path):
    picture = Image.new(mode, (4, 4))
    picture.save(tmp_path / "p.png")
    in_file, in_memory = read_image(tmp_path / "p.png", alpha=alpha), as_image(picture, alpha=alpha)
    transparent = mode.endswith("A")
    assert has_alpha(picture) == transparent
    assert in_file.mode == in_memory.mode == ("RGBA" if alpha and transparent else "RGB")
    black = (0, 0, 0, 0) if alpha and transparent else (255,) * 3 if transparent else (0, 0, 0)
    assert in_file.getpixel((0, 0)) == in_memory.getpixel((0, 0)) == black


def test_a_picture_that_has_the_mode_is_itself():
    for mode in ("L", "LA", "RGB", "RGBA"):
        picture = Image.new(mode, (4, 4))
        assert in_mode(picture, mode) is picture
    keyed = Image.new("RGB", (4, 4))
    keyed.info["transparency"] = (0, 0, 0)
    assert in_mode(keyed, "RGB").getpixel((0, 0)) == (255, 255, 255)
    assert in_mode(keyed, "RGBA").getpixel((0, 0))[3] == 0


@pytest.mark.parametrize("picture", ["L", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("texture", ["L", "RGB", "RGBA"])
def test_pictures_and_textures_of_every_mode_are_mixed(picture, texture):
    mask = np.zeros((6, 6), np.float32)
    mask[3:] = 1
    mixed = composite(Image.new(picture, (6, 6)), Image.new(texture, (6, 6), "white"), mask)
    assert mixed.mode == ("RGBA" if picture == "RGBA" else "RGB")
    assert mixed.getpixel((0, 5))[:3] == (255, 255, 255) and mixed.getpixel((0, 0))[:3] == (0, 0, 0)

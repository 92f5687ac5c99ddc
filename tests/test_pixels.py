"""White is where the data say that it is."""

import io

import numpy as np
import pytest
from PIL import Image

from rulepatch.images import as_image, read_image
from rulepatch.pixels import white_of

KINDS = {"PNG": {}, "TIFF": {}, "TIFF, compressed": {"compression": "tiff_lzw"}, "JPEG2000": {"irreversible": False}}


def through(kind, array):
    """What is read of a file of 16 bits."""
    content = io.BytesIO()
    Image.fromarray(array).save(content, kind.split(",")[0], **KINDS[kind])
    return np.asarray(read_image(content.getvalue()))[..., 0]


def noise(bits, low=0, high=1.0):
    white = 2**bits - 1
    return np.random.default_rng(bits).integers(int(low * white), int(high * white) + 1, (40, 40)).astype(np.uint16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_every_depth_in_16_bits_is_found(kind, bits):
    grey = noise(bits)
    expected = np.round(grey / (2**bits - 1) * 255)
    assert np.array_equal(through(kind, grey), expected)
    assert np.array_equal(np.asarray(as_image(grey))[..., 0], expected)


@pytest.mark.parametrize("top", [0.07, 0.1, 0.2, 0.26, 0.5, 0.9])
def test_a_dark_picture_of_16_bits_stays_dark(top):
    grey = noise(16, high=top)
    assert np.array_equal(through("PNG", grey), np.round(grey / 257))


@pytest.mark.parametrize("top", [0.3, 0.5, 0.9])
def test_a_dark_picture_of_12_bits_stays_dark(top):
    grey = noise(12, high=top)
    assert np.array_equal(through("PNG", grey), np.round(grey / 4095 * 255))


@pytest.mark.parametrize("top", range(0, 256, 15))
def test_8_bits_that_were_scaled_to_16_are_those_8_bits_however_dark(top):
    dark = (noise(8) % (top + 1)).astype(np.uint16)
    assert np.array_equal(through("PNG", dark * 257), dark)


def test_a_header_that_says_the_depth_is_believed():
    """Pillow scales what a header says; a dark image is not taken for one of fewer bits."""
    levels = np.array([0, 20, 60], dtype=">u2")
    assert np.array_equal(np.asarray(read_image(b"P5 3 1 4095\n" + levels.tobytes()))[0, :, 0], [0, 1, 4])


@pytest.mark.parametrize(
    ("values", "white"),
    [
        ([0, 1], 255), ([0.0, 1.0], 1), ([0.5], 1), ([0.0, 254.5], 255), ([0.0, 3.0, 7.0], 255),
        ([0, 70_000], 2**31 - 1), ([0, 2**32 - 1], 2**32 - 1), ([0, 4096], 65535),
        ([0, 16383], 16383), ([], 255), ([0.0, 4095.0], 4095),
    ],
)  # fmt: skip
def test_white_of_few_numbers(values, white):
    assert white_of(np.array(values, dtype=None if values else np.uint16)) == white


def test_colours_of_12_bits_of_which_pillow_reads_half_are_refused():
    assert as_image(np.full((4, 4, 3), 4095, np.uint16)).getpixel((0, 0)) == (255, 255, 255)  # an array has all of them

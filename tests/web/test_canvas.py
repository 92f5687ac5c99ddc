"""Strokes come back at the image's own size."""

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from rulepatch.web.canvas import BRUSH, CANVAS, canvas_of, fresh, mask_of


@pytest.mark.parametrize("size", [(64, 64), (32, 16), (128, 512)])
def test_a_mask_survives_the_way_to_the_painter_and_back(size):
    mask = (np.random.default_rng(0).random(size[::-1]) > 0.6).astype(np.float32)
    shown = canvas_of(Image.new("RGB", size), mask)
    assert max(shown["background"].size) == CANVAS
    assert np.array_equal(mask_of(shown, size), mask)


def test_of_a_large_picture_what_is_mostly_covered_is_marked():
    mask = np.zeros((900, 1200), np.float32)
    mask[300:700, 200:1000] = 1
    found = mask_of(canvas_of(Image.new("RGB", (1200, 900)), mask), (1200, 900))
    assert np.minimum(found, mask).sum() / np.maximum(found, mask).sum() > 0.98


def test_nothing_painted_is_no_mask():
    shown = canvas_of(Image.new("RGB", (20, 10)), None)
    assert shown["layers"] == [] and mask_of(shown, (20, 10)) is None and mask_of(None, (20, 10)) is None
    assert canvas_of(Image.new("RGB", (20, 10)), np.zeros((10, 20), np.float32))["layers"] == []


def test_strokes_of_several_layers_add_up_and_faint_edges_do_not_count():
    layers = [Image.new("RGBA", (CANVAS, CANVAS)) for _ in range(3)]
    layers[0].paste(BRUSH, (0, 0, CANVAS // 2, CANVAS))
    layers[1].paste(BRUSH, (CANVAS // 2, 0, CANVAS, CANVAS // 2))
    layers[2].paste((255, 0, 0, 9), (0, 0, CANVAS, CANVAS))
    found = mask_of({"layers": layers}, (4, 4))
    assert found.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_no_file_is_like_another_but_its_pixels_are(form):
    image, files = Image.new("RGB", (8, 8), "teal"), []
    for _ in range(2):
        buffer, copy = io.BytesIO(), fresh(image)
        notes = PngImagePlugin.PngInfo()
        notes.add_text("shown", copy.info["shown"])
        copy.save(
            buffer, form, **({"pnginfo": notes} if form == "PNG" else {"exif": copy.info["exif"], "lossless": True})
        )
        files.append(buffer.getvalue())
    assert files[0] != files[1] and image.info == {}
    assert all(
        np.array_equal(np.asarray(Image.open(io.BytesIO(each)).convert("RGB")), np.asarray(image)) for each in files
    )

"""Images that are larger than they look, damaged, or none at all."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rulepatch.data.picture_files import pictures_under
from rulepatch.errors import ImageError
from rulepatch.images import FORMATS, read_image
from rulepatch.masks import read_mask
from tests.attack.fuzz import attack, of_bytes

LARGE, MOST_MEMORY = 9450, 2**29
"""Side of a square just below Pillow's own limit of pixels; bytes."""

READ = """
import resource, sys
from rulepatch.data.picture_files import pictures_under
from rulepatch.errors import ImageError
from rulepatch.images import read_image
read_image(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_image(sys.argv[1])
except ImageError as error:
    print(error, file=sys.stderr)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "CMYK"])
def test_a_small_file_takes_no_more_than_half_a_gibibyte(mode, tmp_path):
    path, small = tmp_path / ("large.tif" if mode in {"I", "CMYK"} else "large.png"), tmp_path / "small.png"
    Image.new(mode, (LARGE, LARGE)).save(path, **({"compression": "tiff_lzw"} if path.suffix == ".tif" else {}))
    Image.new("L", (8, 8)).save(small)
    child = subprocess.run([sys.executable, "-c", READ, path, small], capture_output=True, text=True, check=True)
    assert int(child.stdout) <= MOST_MEMORY, child.stdout
    assert not child.stderr or "million pixels" in child.stderr


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F"])
def test_strips_are_converted_as_the_whole(mode, monkeypatch):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (37, 23, 4), dtype=np.uint8)).convert("RGBA")
    if mode in {"I;16", "I", "F"}:
        image = Image.fromarray(rng.integers(0, 60000, (37, 23)).astype({"I;16": "u2", "I": "i4", "F": "f4"}[mode]))
    else:
        image = image.convert(mode)
    if mode == "P":
        image.info["transparency"] = 7
    from rulepatch import images

    whole = np.asarray(images.as_image(image))
    monkeypatch.setattr(images, "STRIP", 50)
    assert np.array_equal(np.asarray(images.as_image(image)), whole)


def test_no_format_that_starts_a_program_is_opened(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **more: started.append(given))
    monkeypatch.setattr(os, "system", lambda given: started.append(given))
    written = 0
    for kind in sorted(set(Image.SAVE) - {*FORMATS, "MPO"}):  # which is a JPEG
        buffer, path = io.BytesIO(), tmp_path / f"{kind}.png"
        try:
            Image.new("RGB", (16, 16)).save(buffer, format=kind)
        except Exception:  # Pillow cannot write it here
            continue
        path.write_bytes(buffer.getvalue())
        written += 1
        for content in (path, path.read_bytes()):
            with pytest.raises(ImageError):
                read_image(content)
    assert written > 5 and not started


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "PCX", "SGI", "JPEG2000"])
def test_mutated_files_are_read_or_refused(kind):
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {kind}")
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 31, 3), dtype=np.uint8)).save(buffer, format=kind)

    def read(content):
        assert read_image(content).mode == "RGB"

    attack(f"images, {kind}", lambda draw: of_bytes(buffer.getvalue(), draw), read).close()


def test_what_is_no_file_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    (tmp_path / "null.png").symlink_to("/dev/null")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    for path in sorted(tmp_path.iterdir()):
        for read in (read_image, read_mask):
            with pytest.raises(ImageError):
                read(path)


def test_pipes_and_devices_in_a_folder_are_left_alone(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "sound.png")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / ".hidden")
    os.mkfifo(tmp_path / "pipe.xyz")
    (tmp_path / "endless").symlink_to("/dev/zero")
    assert [path.name for path in pictures_under(tmp_path).pictures] == ["sound.png"]

"""What a folder leaves out is counted and named; what can be read is read."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from rulepatch.data.folders import ImageSet
from rulepatch.data.picture_files import pictures_in, pictures_under
from rulepatch.errors import FolderError, RulepatchWarning
from rulepatch.images import FORMATS, SUFFIXES, read_image
from rulepatch.models.classes import Classes

CLASSES = Classes(("van", "bus", "car"))
KINDS = Image.registered_extensions()
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))


def save(path, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.save(path, format=kind)
    return path


def names(images):
    return [picture.source.name for picture in images.pictures]


def said(source, classes=CLASSES):
    """What is read, and what is said of the rest."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        images = ImageSet.of(source, classes)
    return images, " ".join(str(warning.message) for warning in found)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
@pytest.mark.parametrize("change", [str.lower, str.upper, str.title])
def test_every_ending_of_a_format_is_read_in_any_case_without_a_word(suffix, change, tmp_path):
    path = save(tmp_path / "van" / f"a{change(suffix)}", KINDS[suffix])
    images, words = said(tmp_path)
    assert (names(images), words) == ([path.name], "")
    assert images.pictures[0].read().size == PICTURE.size


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind in Image.SAVE and kind not in {"TGA", "PCX"}])
@pytest.mark.parametrize(("name", "is_read"), [("a", True), ("a.b", False), ("photo.2019", False), ("a.png~", False)])
def test_other_names_of_pictures_are_read_or_named(kind, name, is_read, tmp_path):
    save(tmp_path / "van" / name, kind)
    save(tmp_path / "van" / "z.png")
    images, words = said(tmp_path)
    assert names(images) == ([name] if is_read else []) + ["z.png"]
    assert words == "" if is_read else f"1 image of an ending that is not read (van/{name})" in words


FOREIGN = {
    "a.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a.heif": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    "a.psd": b"8BPS\0\1",
    "a.eps": b"%!PS-Adobe-3.0 EPSF-3.0",
    "a.exr": b"\x76\x2f\x31\x01\2\0\0\0",
    "a.hdr": b"#?RADIANCE\n",
    "a.jxl": b"\x00\x00\x00\x0cJXL \r\n\x87\n",
    "a.dcm": bytes(128) + b"DICM",
    "a.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a.ico": b"\0\0\1\0\1\0",
    "a.cr3": b"\0\0\0\x18ftypcrx ",
    "a.xcf": b"gimp xcf v011",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_pictures_that_cannot_be_read_are_named(name, tmp_path):
    save(tmp_path / "van" / "z.png")
    (tmp_path / "bus").mkdir()
    (tmp_path / "bus" / name).write_bytes(FOREIGN[name])
    assert f"(bus/{name})" in said(tmp_path)[1]
    (tmp_path / "van" / "z.png").unlink()
    with pytest.raises(FolderError, match=rf"left out: 1 image .*bus/{name}"):
        ImageSet.of(tmp_path, CLASSES)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", b"a.png,van\n"), ("notes.txt", b"BMW is a make of car"), ("notes", b"P5 is a word, too"),
        ("a.json", b"{}"), ("README.md", b"# vans"), ("Thumbs.db", b"\xd0\xcf\x11\xe0"), (".DS_Store", b"\0\0\0\1Bud1"),
        ("._a.png", b"\0\x05\x16\x07"), ("a.npy", b"\x93NUMPY"), ("a.pt", b"PK\3\4"), ("a.mp4", b"\0\0\0\x20ftypisom"),
        ("a.avi", b"RIFF\0\0\0\0AVI LIST"), ("empty", b""), ("desktop.ini", b"[x]"), ("a.pdf", b"%PDF-1.7"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("folder", ["", "van"])
def test_files_that_are_no_pictures_go_without_a_word(name, content, folder, tmp_path):
    save(tmp_path / "van" / "z.png")
    (tmp_path / folder / name).write_bytes(content)
    images, words = said(tmp_path)
    assert (names(images), words) == (["z.png"], "")


def test_a_hidden_picture_and_a_hidden_folder_of_them_are_named(tmp_path):
    save(tmp_path / "van" / ".a.png")
    save(tmp_path / "van" / ".old" / "deep" / "b.png")
    save(tmp_path / ".git" / "c.png")
    save(tmp_path / "van" / "z.png")
    images, words = said(tmp_path)
    assert names(images) == ["z.png"]
    assert "1 hidden folder with images (van/.old), 1 hidden image (van/.a.png)" in words
    assert ".git" not in words


def test_what_is_left_out_is_counted_with_three_examples_in_one_sentence(tmp_path):
    save(tmp_path / "van" / "z.png")
    for number in range(12):
        save(tmp_path / "van" / f"{number:02}.bak")
    with pytest.warns(RulepatchWarning) as caught:
        ImageSet.of(tmp_path, CLASSES)
    (warning,) = caught
    assert "12 images of an ending that is not read (van/00.bak, van/01.bak, van/02.bak, …)" in str(warning.message)
    assert "\n" not in str(warning.message)


# Links


def test_links_to_folders_are_followed_once_and_cycles_are_named(tmp_path):
    root = tmp_path / "set"
    save(root / "van" / "a.png")
    save(tmp_path / "elsewhere" / "b.png")
    (root / "van" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "van" / "up").symlink_to(root)
    (root / "van" / "self").symlink_to(root / "van")
    (root / "bus").symlink_to(root / "van")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    images, words = said(root)
    assert names(images) == ["a.png", "b.png"] and {picture.label for picture in images.pictures} == {0}
    assert "4 links to what is read already (bus, van/more/again, van/self, …)" in words


def test_a_folder_counts_where_it_is_rather_than_where_a_link_to_it_is(tmp_path):
    save(tmp_path / "van" / "a.png")
    (tmp_path / "bus").symlink_to(tmp_path / "van")  # comes first by name
    assert [picture.label for picture in said(tmp_path)[0].pictures] == [0]


def test_links_to_files_are_read_and_broken_ones_are_named_or_reported_when_read(tmp_path):
    save(tmp_path / "blobs" / "0123")
    root = tmp_path / "set"
    save(root / "van" / "z.png")
    (root / "van" / "a.png").symlink_to(tmp_path / "blobs" / "0123")
    (root / "van" / "b").symlink_to(tmp_path / "blobs" / "0123")
    (root / "bus").symlink_to(tmp_path / "nowhere")
    images, words = said(root)
    assert names(images) == ["a.png", "b", "z.png"]
    assert "1 link to nothing (bus)" in words


def test_a_root_that_is_a_link_is_a_folder_like_any(tmp_path):
    save(tmp_path / "set" / "van" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert said(tmp_path / "link")[1] == "" and names(said(tmp_path / "link")[0]) == ["a.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    save(tmp_path / "van" / "a.png")
    locked = tmp_path / "bus"
    locked.mkdir()
    listdir = os.listdir

    def refuse(path):
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert "1 folder that cannot be read (bus)" in said(tmp_path)[1]


def test_a_pipe_is_no_picture(tmp_path):
    save(tmp_path / "van" / "a.png")
    os.mkfifo(tmp_path / "van" / "b.png")
    assert names(said(tmp_path)[0]) == ["a.png"]


def test_the_tree_and_the_pattern_agree_on_a_plain_folder(tmp_path):
    paths = [save(tmp_path / f"{name}.png") for name in "cab"]
    assert pictures_under(tmp_path).pictures == sorted(paths) == pictures_in(tmp_path, "*")


def test_classes_one_level_further_down_are_pointed_at(tmp_path):
    save(tmp_path / "train" / "van" / "a.png")
    with pytest.raises(FolderError, match=r"the classes may be in .*train: give that folder"):
        ImageSet.of(tmp_path, CLASSES)


# Formats


def test_no_other_program_is_started_by_a_picture_under_a_false_name(tmp_path, monkeypatch):
    PICTURE.save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    monkeypatch.setattr("subprocess.Popen", None)
    monkeypatch.setattr("subprocess.check_call", None)
    with pytest.raises(Exception, match="it is no image"):
        read_image(tmp_path / "a.png")


def test_formats_that_start_programs_are_not_among_those_read():
    assert not {"EPS", "PSD", "WMF", "FPX", "PDF", "MPEG", "HDF5", "GRIB", "BUFR"} & set(FORMATS)
    assert {".jfif", ".jpe", ".jp2", ".j2k", ".jpg", ".png", ".tif", ".webp"} <= SUFFIXES
    assert not {".eps", ".ps", ".psd", ".pdf", ".h5", ".wmf", ".mpg"} & SUFFIXES

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from rulepatch.core.exemplars import Exemplar
from rulepatch.data.exemplar_folders import read_exemplars, write_exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.errors import ExemplarError, FolderError, ImageError, RulepatchError, RulepatchWarning, SettingError
from rulepatch.models.classes import Classes

CLASSES = Classes(("tench, Tinca tinca", "police van, police wagon", "crane"), ("n01440764", "n03977966", "n02012849"))


def labels(root, classes=CLASSES):
    return [picture.label for picture in ImageSet.of(root, classes).pictures]


@pytest.mark.parametrize(
    "name",
    [
        "1",
        "01",
        "police van",
        "police_van",
        "Police Van",
        "POLICE-VAN",
        "police  van",
        "police wagon",
        "police_van,_police_wagon",
        "police van, police wagon",
        "n03977966",
    ],
)
def test_class_folders_go_by_index_name_synonym_or_wordnet_id(name, tmp_path, paint):
    paint(tmp_path / name / "a.png")
    assert labels(tmp_path) == [1]


@pytest.mark.parametrize("name", ["3", "-1", "van", "police", "n99999999", "n0397796", "1.0", "one", "train"])
def test_a_folder_that_no_class_matches_is_named(name, tmp_path, paint):
    paint(tmp_path / "0" / "a.png")
    paint(tmp_path / name / "b.png")
    with pytest.raises(FolderError, match=f"{name} but no class matches") as caught:
        ImageSet.from_folder(tmp_path, CLASSES)
    assert "\n" not in str(caught.value)


def test_a_name_of_two_classes_is_refused_and_their_indices_given(tmp_path, paint):
    classes = Classes(("crane", "tench", "crane, derrick"))
    paint(tmp_path / "crane" / "a.png")
    with pytest.raises(FolderError, match="use an index: 0, 2"):
        ImageSet.from_folder(tmp_path, classes)
    shutil.move(tmp_path / "crane", tmp_path / "2")
    assert labels(tmp_path, classes) == [2]
    shutil.move(tmp_path / "2", tmp_path / "derrick")
    assert labels(tmp_path, classes) == [2]


def test_class_names_that_are_digits_go_before_indices(tmp_path, paint):
    for name in ("0", "1", "2"):
        paint(tmp_path / name / "a.png")
    assert labels(tmp_path, Classes(("2", "0", "1"))) == [1, 2, 0]


def test_a_flat_folder_has_no_labels(tmp_path, paint):
    for name in ("b.png", "a.JPG", "c.webp"):
        paint(tmp_path / name)
    images = ImageSet.of(str(tmp_path), CLASSES)
    assert [picture.source.name for picture in images.pictures] == ["a.JPG", "b.png", "c.webp"]
    assert not images.is_labelled
    assert images.name == str(tmp_path)


def test_a_mixed_folder_is_read_whole_and_counts_as_unlabelled(tmp_path, paint):
    paint(tmp_path / "loose.png")
    paint(tmp_path / "0" / "a.png")
    with pytest.warns(RulepatchWarning, match="counts as a set without labels, as 1 of its images lie beside"):
        images = ImageSet.of(tmp_path, CLASSES)
    assert [picture.label for picture in images.pictures] == [None, 0]
    assert not images.is_labelled


def test_a_few_pictures_beside_the_class_folders_are_left_out_and_named(tmp_path, paint):
    for name in ("preview.png", "sheet.JPG", "0/a.png", "1/b.png", "1/c.png"):
        paint(tmp_path / name)
    with pytest.warns(RulepatchWarning, match=r"2 images beside the class folders \(preview.png, sheet.JPG\)"):
        images = ImageSet.of(tmp_path, CLASSES)
    assert images.is_labelled and [picture.label for picture in images.pictures] == [0, 1, 1]


def test_pictures_are_found_at_any_depth_below_a_class(tmp_path, paint):
    paint(tmp_path / "0" / "summer" / "lake" / "a.png")
    paint(tmp_path / "0" / "b.png")
    assert labels(tmp_path) == [0, 0]


def test_hidden_files_and_folders_and_other_files_are_passed_over(tmp_path, paint):
    paint(tmp_path / "0" / "a.png")
    (tmp_path / "0" / "._a.png").write_bytes(b"\0\x05\x16\x07 what a Mac writes beside a file")
    (tmp_path / "0" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0 what Windows does")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    paint(tmp_path / "0" / ".ipynb_checkpoints" / "a-checkpoint.png")
    paint(tmp_path / ".cache" / "a.png")
    paint(tmp_path / "0" / "deep" / ".thumbnails" / "small" / "a.png")
    (tmp_path / "0" / "notes.txt").write_text("no image")
    (tmp_path / "README.md").write_text("no image")
    (tmp_path / "nothing here matches a class").mkdir()
    assert [picture.source for picture in ImageSet.of(tmp_path, CLASSES).pictures] == [tmp_path / "0" / "a.png"]


def test_a_set_below_a_hidden_folder_is_as_good_as_any(tmp_path, paint):
    paint(tmp_path / ".datasets" / "vans" / "1" / "a.png")
    assert labels(tmp_path / ".datasets" / "vans") == [1]


def test_a_folder_whose_name_ends_like_a_picture_is_a_folder(tmp_path, paint):
    paint(tmp_path / "0" / "album.png" / "a.png")
    assert [picture.source.name for picture in ImageSet.of(tmp_path, CLASSES).pictures] == ["a.png"]


@pytest.mark.parametrize("inside", ["", "0/", "0/notes.txt", "notes.txt", ".hidden.png"])
def test_a_folder_without_pictures_is_refused(inside, tmp_path):
    path = tmp_path / inside
    if inside.endswith("/"):
        path.mkdir()
    elif inside:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    with pytest.raises(FolderError, match=r"expected images in .* but found none"):
        ImageSet.of(tmp_path, CLASSES)


def test_a_missing_folder_and_a_file_are_refused(tmp_path, paint):
    with pytest.raises(FolderError, match="check the path"):
        ImageSet.of(tmp_path / "missing", CLASSES)
    with pytest.raises(FolderError, match="expected a folder"):
        ImageSet.of(paint(tmp_path / "a.png"), CLASSES)


def test_the_order_is_that_of_paths_whatever_the_disk_says(tmp_path, paint):
    for name in ("2/b.png", "0/z.png", "2/a.png", "0/a.png", "1/m.png"):
        paint(tmp_path / name)
    found = [picture.source.relative_to(tmp_path).as_posix() for picture in ImageSet.of(tmp_path, CLASSES).pictures]
    assert found == sorted(found) == ["0/a.png", "0/z.png", "1/m.png", "2/a.png", "2/b.png"]


def test_links_to_class_folders_are_followed_and_broken_ones_are_kept_to_be_reported(tmp_path, paint):
    paint(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "gone.png").symlink_to(tmp_path / "nothing.png")
    images = ImageSet.of(tmp_path / "set", CLASSES)
    assert [picture.label for picture in images.pictures] == [1, 1]
    assert isinstance(images.digest(), str)


@pytest.mark.parametrize("label", [2, "crane", "n02012849", np.int64(2), torch.tensor(2)])
def test_pictures_in_memory_come_alone_or_with_labels(label):
    picture = Image.new("L", (4, 4), 9)
    images = ImageSet.of([(picture, label), (picture, label)], CLASSES)
    assert [found.label for found in images.pictures] == [2, 2]
    assert images.pictures[0].source.mode == "RGB"
    assert [found.label for found in ImageSet.of([picture], CLASSES).pictures] == [None]


def test_paths_a_set_and_pictures_of_a_set_are_understood(tmp_path, paint):
    path = paint(tmp_path / "a.png")
    images = ImageSet.of([path, (str(path), 0), Picture(path, 1)], CLASSES)
    assert [(found.source, found.label) for found in images.pictures] == [(path, None), (path, 0), (path, 1)]
    assert ImageSet.of(images, CLASSES) is images


def test_sequences_that_hold_no_pictures_are_refused():
    with pytest.raises(FolderError, match="empty"):
        ImageSet.of([], CLASSES)
    with pytest.raises(FolderError, match=r"number 0.*leave out the normalisation"):
        ImageSet.of([(torch.zeros(3, 4, 4) - 2, 0)], CLASSES)
    with pytest.raises(SettingError):
        ImageSet.of([(Image.new("RGB", (4, 4)), 7)], CLASSES)


def thirty():
    return ImageSet(tuple(Picture(Image.new("RGB", (2, 2), (i, 0, 0)), i % 3) for i in range(30)), "thirty")


def test_a_sample_is_random_by_its_seed_without_repeats_and_in_order():
    images = thirty()
    drawn = [images.sample(10, seed=seed).pictures for seed in (0, 0, 1)]
    places = [[images.pictures.index(picture) for picture in pictures] for pictures in drawn]
    assert places[0] == places[1] != places[2]
    assert all(len(set(place)) == 10 and place == sorted(place) for place in places)
    assert images.sample(30, seed=0) is images
    assert images.sample(99, seed=0) is images


def test_every_picture_has_the_same_chance_in_a_sample():
    images = thirty()
    counts = np.zeros(30)
    for seed in range(400):
        for picture in images.sample(6, seed=seed).pictures:
            counts[images.pictures.index(picture)] += 1
    assert counts.min() > 45
    assert counts.max() < 120  # 80 expected, five standard deviations each way


def test_leaving_out_classes_keeps_the_others():
    assert {picture.label for picture in thirty().without([0, 2]).pictures} == {1}
    assert len(thirty().without([])) == 30
    with pytest.raises(FolderError, match="leave out fewer"):
        thirty().without({0, 1, 2})


def test_classes_are_left_out_by_name_or_index_where_a_set_is_made():
    name = CLASSES[1]
    assert ImageSet.of(thirty(), CLASSES, leave_out=[0, name]) == thirty().without([0, CLASSES.index(name)])
    assert ImageSet.of(thirty(), CLASSES, leave_out=[]) == thirty()
    with pytest.raises(SettingError, match="no such"):
        ImageSet.of(thirty(), CLASSES, leave_out=["no such class"])


def test_the_digest_is_of_contents_and_order_alone(tmp_path, paint):
    paths = [paint(tmp_path / name, seed=i) for i, name in enumerate(("a.png", "b.png"))]
    digest = ImageSet.of(paths, CLASSES).digest()
    assert ImageSet.of(paths[::-1], CLASSES).digest() != digest
    assert ImageSet.of(paths[:1], CLASSES).digest() != digest
    assert ImageSet.of([(path, 1) for path in paths], CLASSES).digest() == digest
    moved = [path.rename(path.with_name("moved " + path.name)) for path in paths]
    os.utime(moved[0], (0, 0))
    assert ImageSet.of(moved, CLASSES).digest() == digest
    moved[1].write_bytes(moved[1].read_bytes() + b"\0")
    assert ImageSet.of(moved, CLASSES).digest() != digest


def test_pictures_in_memory_differ_by_pixels_and_by_size():
    grey = [Image.new("RGB", size, colour) for size, colour in [((4, 2), 5), ((2, 4), 5), ((4, 2), 6)]]
    assert len({ImageSet.of([picture], CLASSES).digest() for picture in grey}) == 3


# Exemplars


@pytest.fixture
def exemplar(tmp_path, paint):
    folder = tmp_path / "exemplars" / "van"
    paint(folder / "image.png", 1)
    paint(folder / "edited.png", 2)
    mask = Image.new("L", (20, 16))
    mask.paste(255, (0, 8, 20, 16))
    mask.save(folder / "mask.png")
    (folder / "exemplar.json").write_text(json.dumps({"label": "crane", "concept": "road", "replacement": "snow"}))
    return folder


def test_an_exemplar_folder_is_read_with_what_it_says_of_itself(exemplar):
    (found,) = read_exemplars([exemplar])
    assert (found.label, found.concept, found.replacement, found.name) == ("crane", "road", "snow", "van")
    assert np.array_equal(found.image, Image.open(exemplar / "image.png"))
    assert np.array_equal(found.edited, Image.open(exemplar / "edited.png"))
    assert found.mask.mean() == 0.5


def test_a_folder_of_exemplar_folders_is_read_in_order(exemplar):
    shutil.copytree(exemplar, exemplar.parent / "bus")
    (exemplar.parent / "textures").mkdir()
    assert [found.name for found in read_exemplars([exemplar.parent])] == ["bus", "van"]
    assert [found.name for found in read_exemplars([exemplar, exemplar.parent])] == ["van", "bus", "van"]
    assert [found.name for found in read_exemplars(str(exemplar))] == ["van"]


@pytest.mark.parametrize("part", ["image", "mask", "edited"])
def test_each_missing_part_is_named(part, exemplar):
    (exemplar / f"{part}.png").unlink()
    with pytest.raises(ExemplarError, match=rf"{part}\.\*.*van"):
        read_exemplars([exemplar])
    shutil.copytree(exemplar, exemplar.parent / "whole")
    Image.new("RGB", (20, 16)).save(exemplar.parent / "whole" / f"{part}.png")
    with pytest.raises(ExemplarError, match=rf"{part}\.\*.*van"):  # it is not passed over in a folder of folders
        read_exemplars([exemplar.parent])


def test_an_empty_and_a_missing_exemplar_folder_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExemplarError, match=r"image\.\*"):
        read_exemplars([tmp_path / "empty"])
    with pytest.raises(ExemplarError, match="check the path"):
        read_exemplars([tmp_path / "missing"])


@pytest.mark.parametrize("part", ["image", "mask", "edited"])
def test_an_unreadable_part_is_named(part, exemplar):
    (exemplar / f"{part}.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=rf"{part}\.png"):
        read_exemplars([exemplar])


@pytest.mark.parametrize("part", ["mask", "edited"])
def test_parts_of_another_size_are_refused(part, exemplar, paint):
    paint(exemplar / f"{part}.png", size=(10, 8))
    with pytest.raises(ExemplarError, match="20x16 but got 10x8"):
        read_exemplars([exemplar])


def test_a_texture_goes_before_the_edited_picture(exemplar, tmp_path, paint):
    (found,) = read_exemplars([exemplar], replacement=paint(tmp_path / "sand.png", 9, (40, 40)))
    texture = np.asarray(Image.open(tmp_path / "sand.png"))[12:28, 10:30]
    assert np.array_equal(np.asarray(found.edited)[8:], texture[8:])
    assert np.array_equal(np.asarray(found.edited)[:8], np.asarray(found.image)[:8])
    assert (found.replacement, found.concept) == ("sand", "road")
    (exemplar / "edited.png").unlink()
    assert read_exemplars([exemplar], replacement=tmp_path / "sand.png")[0].digest() == found.digest()


@pytest.mark.parametrize(
    "text",
    ["{", "", "[1]", '"van"', '{"label": 1.5}', '{"label": ["van"]}', '{"concept": {"a": 1}}', '{"replacement": 3}'],
)
def test_a_broken_description_is_refused_and_named(text, exemplar):
    (exemplar / "exemplar.json").write_text(text)
    with pytest.raises(ExemplarError, match=r"exemplar\.json") as caught:
        read_exemplars([exemplar])
    assert "\n" not in str(caught.value)


def test_a_description_is_not_needed(exemplar):
    (exemplar / "exemplar.json").unlink()
    (found,) = read_exemplars([exemplar])
    assert (found.label, found.concept, found.replacement) == (None, None, None)


def test_pictures_take_their_masks_in_order(exemplar, tmp_path, paint):
    sand = paint(tmp_path / "sand.png", 9)
    upper = tmp_path / "upper.png"
    Image.open(exemplar / "mask.png").transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(upper)
    image, lower = exemplar / "image.png", exemplar / "mask.png"
    other = paint(tmp_path / "other.png", 3)
    found = read_exemplars([image, exemplar, other], masks=[lower, upper], replacement=sand, label="crane")
    assert [one.mask[0, 0] for one in found] == [0, 0, 1]
    assert [one.label for one in found] == ["crane"] * 3  # the folder says so itself
    assert {one.replacement for one in found} == {"sand"}
    same = read_exemplars([image, image], masks=[lower, upper], replacement=sand)
    assert [one.mask[0, 0] for one in same] == [0, 1]


@pytest.mark.parametrize("masks", [0, 2])
def test_pictures_and_masks_must_pair(masks, exemplar):
    with pytest.raises(ExemplarError, match="one --mask for each"):
        read_exemplars([exemplar / "image.png"], masks=[exemplar / "mask.png"] * masks, replacement=exemplar)


def test_a_picture_needs_a_replacement_that_can_be_read(exemplar, tmp_path):
    with pytest.raises(ExemplarError, match="neither"):
        read_exemplars([exemplar / "image.png"], masks=[exemplar / "mask.png"])
    for replacement in (tmp_path / "missing.png", exemplar / "exemplar.json", exemplar):
        with pytest.raises(RulepatchError, match=replacement.name):
            read_exemplars([exemplar / "image.png"], masks=[exemplar / "mask.png"], replacement=replacement)


@pytest.mark.parametrize("value", [15, "#c08080", None])
def test_a_folder_or_the_caller_names_the_concept_of_its_mask(value, exemplar):
    mask = np.asarray(Image.open(exemplar / "mask.png")) > 0
    index = mask * np.uint8(15)
    index[:3] = 1
    drawn = Image.fromarray(index, mode="P")
    drawn.putpalette([0, 0, 0, 128, 0, 0, *[0] * 39, 192, 128, 128])
    drawn.save(exemplar / "mask.png")
    if value is None:
        with pytest.raises(ImageError, match=r"mask\.png .*#c08080 \(index 15, 50"):
            read_exemplars([exemplar])
        return
    assert np.array_equal(read_exemplars([exemplar], mask_value=value)[0].mask, mask)
    (exemplar / "exemplar.json").write_text(json.dumps({"mask_value": value}))
    assert np.array_equal(read_exemplars([exemplar])[0].mask, mask)


def test_leaving_classes_out_of_pictures_without_labels_is_refused(tmp_path, paint):
    paint(tmp_path / "a.png")
    flat = ImageSet.of(tmp_path, Classes(("ant", "bee")))
    assert flat.without(set()) == flat
    with pytest.raises(FolderError, match="no labels"):
        flat.without({1})


def noise(seed, size=(20, 16)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_a_set_that_is_written_reads_back_the_same(tmp_path, paint):
    classes = Classes(("tench, Tinca tinca", "police van", "crane", "crane", "a/b", "7"))
    written = ImageSet((*(Picture(noise(i), i) for i in range(6)), Picture(paint(tmp_path / "b.png", 9), 1)), "some")
    written.write(tmp_path / "set", classes)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["2", "3", "4", "5", "police van", "tench"]
    found = ImageSet.from_folder(tmp_path / "set", classes)
    pixels = [(p.label, np.asarray(Image.open(p.source)).tobytes()) for p in found.pictures]
    expected = [(i, np.asarray(noise(i)).tobytes()) for i in range(6)]
    assert sorted(pixels) == sorted([*expected, (1, np.asarray(Image.open(tmp_path / "b.png")).tobytes())])
    with pytest.raises(FolderError, match="none"):
        ImageSet((Picture(noise(0)),), "unlabelled").write(tmp_path / "set", classes)


def test_an_exemplar_that_is_written_reads_back_the_same(tmp_path):
    mask = np.linspace(0, 1, 16 * 20, dtype=np.float32).reshape(16, 20)
    written = Exemplar(noise(0), noise(1), mask, label="crane", concept="road", name="x")
    write_exemplar(written, tmp_path / "x")
    (found,) = read_exemplars([tmp_path / "x"])
    assert (found.label, found.concept, found.replacement, found.name) == ("crane", "road", None, "x")
    assert found.image.tobytes() == written.image.tobytes() and found.edited.tobytes() == written.edited.tobytes()
    assert np.abs(found.mask - mask).max() <= 0.5 / 255 + 1e-6


def test_a_split_has_no_picture_in_common_and_keeps_proportions(tmp_path):
    pictures = tuple(Picture(noise(i), i % 4 if i < 80 else i) for i in range(120))  # four large classes, forty single
    first, rest = ImageSet(pictures, "some").split(0.3, seed=1)
    assert len(first) == 36 and len(first) + len(rest) == 120
    assert not {id(p) for p in first.pictures} & {id(p) for p in rest.pictures}
    for label in range(4):
        assert 5 <= sum(p.label == label for p in first.pictures) <= 7
    again, _ = ImageSet(pictures, "some").split(0.3, seed=1)
    other, _ = ImageSet(pictures, "some").split(0.3, seed=2)
    assert again.pictures == first.pictures != other.pictures


def test_splits_of_single_pictures_are_random_over_classes():
    pictures = tuple(Picture(noise(0), i) for i in range(200))
    first, _ = ImageSet(pictures, "single").split(0.5, seed=0)
    assert len(first) == 100 and 30 < sum(p.label < 100 for p in first.pictures) < 70


@pytest.mark.parametrize(
    ("count", "share", "error"), [(10, 0.0, SettingError), (10, 1.0, SettingError), (1, 0.5, FolderError)]
)
def test_splits_that_cannot_be_are_refused(count, share, error):
    with pytest.raises(error, match="expected"):
        ImageSet(tuple(Picture(noise(0), 0) for _ in range(count)), "few").split(share, seed=0)


def test_several_folders_are_one_set(tmp_path, paint):
    for number, name in enumerate(["one/crane/a.png", "two/tench/b.png", "two/crane/a.png"]):
        paint(tmp_path / name, number)
    found = ImageSet.of([tmp_path / "one", str(tmp_path / "two")], CLASSES)
    assert [picture.label for picture in found.pictures] == [2, *labels(tmp_path / "two")]
    assert found.name == f"{tmp_path / 'one'}, {tmp_path / 'two'}"
    assert len(ImageSet.of((tmp_path / "one", tmp_path / "two"), CLASSES, leave_out=["crane"])) == 1
    with pytest.raises(FolderError, match=r"expected a folder of images at .*three but there is none"):
        ImageSet.of([tmp_path / "one", tmp_path / "three"], CLASSES)

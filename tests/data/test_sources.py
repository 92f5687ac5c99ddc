"""Images in memory are read as their files are; labels of data sets that name their classes go by name."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, random_split
from torchvision import transforms

from rulepatch.data.folders import ImageSet, Picture
from rulepatch.errors import FolderError, SettingError
from rulepatch.images import read_image
from rulepatch.models.classes import Classes

CLASSES = Classes(("truck, lorry", "bus", "van", "7", "car"), ("n00000001", "n00000002", "n00000003", "", ""))
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (14, 18, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]
DEEP = RNG.integers(0, 65536, (14, 18), dtype=np.uint16)


def first(source):
    return np.asarray(ImageSet.of([source], CLASSES).pictures[0].read())


def turned(image):
    exif = Image.Exif()
    exif[274] = 6
    image.info["exif"] = exif.tobytes()
    return image


def palette():
    image = Image.fromarray(COLOURS).quantize(16)
    image.info["transparency"] = 3
    return image


MODES = {
    "RGB": Image.fromarray(COLOURS),
    "L": Image.fromarray(GREY),
    "1": Image.fromarray(GREY > 99),
    "LA": Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(COLOURS[..., 1])]),
    "RGBA": Image.fromarray(np.dstack([COLOURS, GREY])),
    "P": palette(),
    "I;16": Image.fromarray(DEEP),
    "12 bits": Image.fromarray(DEEP // 16),
    "F": Image.fromarray(GREY.astype(np.float32)),
    "F to 1": Image.fromarray(GREY.astype(np.float32) / 255),
    "CMYK": Image.fromarray(COLOURS).convert("CMYK"),
}


@pytest.mark.parametrize("how", ["opened", "loaded", "copied"])
@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_what_pil_opened_is_read_as_its_file_is(mode, upright, how, tmp_path):
    image = MODES[mode].copy() if upright else turned(MODES[mode].copy())
    is_tiff = mode in {"F", "F to 1", "CMYK"}
    path = tmp_path / ("a.tif" if is_tiff else "a.png")  # uncompressed, Pillow itself forgets to turn some of them
    image.save(
        path, **({} if upright else {"exif": image.info["exif"]}), **({"compression": "tiff_lzw"} if is_tiff else {})
    )
    opened = Image.open(path)
    if how != "opened":
        opened.load()
    found = first(opened.copy() if how == "copied" else opened)
    assert np.array_equal(found, np.asarray(read_image(path)))
    assert found.shape == ((14, 18, 3) if upright else (18, 14, 3))
    assert np.array_equal(first(ImageSet.of([opened], CLASSES).pictures[0].read()), found)  # it is not turned again


def file_of(array):
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    return np.asarray(read_image(content.getvalue()))


ARRAYS = {
    "HWC": (COLOURS, COLOURS),
    "HW": (GREY, GREY),
    "HW1": (GREY[..., None], GREY),
    "RGBA": (np.dstack([COLOURS, GREY]), np.dstack([COLOURS, GREY])),
    "CHW": (COLOURS.transpose(2, 0, 1), COLOURS),
    "1HW": (GREY[None], GREY),
    "0..1": (COLOURS / 255, COLOURS),
    "0..1, float16": ((COLOURS / 255).astype(np.float16), COLOURS),
    "0..255": (COLOURS.astype(np.float32), COLOURS),
    "int64": (COLOURS.astype(np.int64), COLOURS),
    "bool": (GREY > 99, (GREY > 99).astype(np.uint8) * 255),
    "uint16": (DEEP, DEEP),
    "12 bits": (DEEP // 16, DEEP // 16),
    "colours of 16 bits": (COLOURS.astype(np.uint16) * 256 + 77, COLOURS),
    "beyond 0..1 by resizing": (np.where(GREY > 128, 1.04, -0.03), (GREY > 128).astype(np.uint8) * 255),
    "backwards": (COLOURS[::-1, ::-1], COLOURS[::-1, ::-1].copy()),
}


@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_and_tensors_are_read_as_their_files_are(name, kind):
    given, same = ARRAYS[name]
    if kind == "tensor":
        given = torch.from_numpy(np.ascontiguousarray(given))
    assert np.array_equal(first(given), file_of(same))


def test_a_tensor_may_be_of_half_precision_or_need_a_gradient():
    given = torch.from_numpy(COLOURS / 255).float().permute(2, 0, 1)
    assert np.abs(first(given.bfloat16()).astype(int) - COLOURS).max() <= 1
    assert np.array_equal(first(given.requires_grad_()), COLOURS)


@pytest.mark.parametrize("small", [(3, 3), (4, 3), (3, 4), (1, 1)])
def test_where_both_orders_of_axes_would_do_the_librarys_own_is_taken(small):
    pixels = RNG.integers(0, 256, (*small, 3), dtype=np.uint8)
    assert np.array_equal(first(pixels), pixels)
    assert np.array_equal(first(torch.from_numpy(pixels.transpose(2, 0, 1).copy())), pixels)


@pytest.mark.parametrize(
    "normalise",
    [
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        transforms.Normalize(0.5, 0.5),
        lambda pixels: 2.5 * pixels,
    ],
)
def test_a_normalised_tensor_is_refused(normalise):
    pixels = transforms.functional.to_tensor(Image.fromarray(COLOURS))
    assert np.array_equal(first(pixels), COLOURS)
    with pytest.raises(FolderError, match=r"number 1 is none: .*leave out the normalisation"):
        ImageSet.of([pixels, normalise(pixels)], CLASSES)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([object()], "an image but got object"),
        ([None], "an image but got NoneType"),
        ([np.zeros((2, 3, 4, 5))], "2×3×4×5"),
        ([np.zeros((0, 3, 3))], "0×3×3"),
        ([np.array(["a"])], "numbers"),
        ([np.zeros((5, 6, 7))], "5×6×7"),
        ([Image.new("RGB", (3, 3)), (Image.new("RGB", (3, 3)), [0, 1, 0])], "a class index or name as a label"),
        ([(Image.new("RGB", (3, 3)), 1.5)], "a class index or name as a label"),
        ([(Image.new("RGB", (3, 3)), torch.tensor([0.0, 1.0]))], "a class index or name as a label"),
        ([(Image.new("RGB", (3, 3)), 0, "path")], "3 things each"),
        ([{"caption": "x", "text": "y"}], "a column 'image'"),
        ({"train": [], "test": []}, "a dictionary of train, test"),
        (Image.new("RGB", (3, 3)), "put it in a list"),
        (7, "put it in a list"),
        ([b"no picture"], "number 0"),
        ((x for x in ()), "empty"),
    ],
)
def test_what_holds_no_pictures_is_refused_in_a_sentence(source, words):
    with pytest.raises(FolderError, match=words) as caught:
        ImageSet.of(source, CLASSES)
    assert "\n" not in str(caught.value)


# Labels


@pytest.fixture
def tree(tmp_path):
    """An image of its own shade for each of some classes in class folders, and which class each shade is."""
    shades = {}
    for number, name in enumerate(("bus", "lorry", "n00000003", "truck")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (6, 5), (10 * number, 0, 0)).save(tmp_path / name / f"{number}.png")
        shades[10 * number] = CLASSES.index(name)
    return tmp_path, shades


def by_shade(source, classes=CLASSES):
    found = ImageSet.of(source, classes).pictures
    return [(int(np.asarray(picture.read())[0, 0, 0]), picture.label) for picture in found]


class Plain(Dataset):
    """A data set that has a length and items, and goes on for ever if asked."""

    def __init__(self, inner):
        self.dataset = inner

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index % len(self.dataset)]


WRAPPERS = {
    "as it is": lambda data: data,
    "a subset": lambda data: Subset(data, range(len(data))),
    "a subset of a subset": lambda data: Subset(Subset(data, range(len(data))), range(len(data))),
    "a split": lambda data: random_split(data, [len(data)], torch.Generator().manual_seed(0))[0],
    "a concatenation": lambda data: ConcatDataset([Subset(data, [0, 1]), Subset(data, [2, 3])]),
    "a data set around it": Plain,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("transform", [None, transforms.ToTensor()])
def test_labels_of_an_image_folder_are_those_of_its_folders(wrapper, transform, tree):
    root, shades = tree
    data = torchvision.datasets.ImageFolder(str(root), transform)
    assert [label for _, label in data.samples] == [0, 1, 2, 3]
    found = by_shade(WRAPPERS[wrapper](data))
    assert dict(found) == shades == dict(by_shade(root))


def test_labels_that_the_data_set_makes_itself_are_the_models_own(tree):
    root, shades = tree
    data = torchvision.datasets.ImageFolder(str(root), target_transform=lambda label: [1, 0, 2, 0][label])
    assert dict(by_shade(data)) == shades


def test_a_class_that_the_model_lacks_is_named(tree):
    root, _ = tree
    (root / "bus").rename(root / "tram")
    data = torchvision.datasets.ImageFolder(str(root))
    with pytest.raises(FolderError, match=r"none is its 'tram'.*give \(image, label\) pairs") as caught:
        ImageSet.of(data, CLASSES)
    assert "\n" not in str(caught.value)
    kept = Subset(data, [0, 1, 3])  # no image of the tram among them
    assert dict(by_shade(kept)) == {10: 0, 20: 2, 30: 0}


def test_folders_of_numbers_that_torchvision_sorts_as_text_are_those_numbers(tmp_path):
    classes = Classes(tuple("abcdefghijkl"))
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        Image.new("RGB", (6, 5), (10 * number, 0, 0)).save(tmp_path / str(number) / "a.png")
    data = torchvision.datasets.ImageFolder(str(tmp_path))
    assert data.classes[2] == "10"
    assert (
        dict(by_shade(data, classes))
        == {10 * number: number for number in range(12)}
        == dict(by_shade(tmp_path, classes))
    )


def test_names_are_of_no_use_where_the_model_has_none_or_the_same():
    pairs = [(Image.new("RGB", (4, 4)), label) for label in (0, 1, 1)]
    for classes in (Classes(("class 0", "class 1")), Classes(("0", "1")), Classes(("crane", "crane"))):
        data = SimpleNamespace(classes=["crane", "crane"], __len__=None)
        source = type("Data", (list,), {"classes": data.classes})(pairs)
        assert [picture.label for picture in ImageSet.of(source, classes).pictures] == [0, 1, 1]


def test_synonyms_in_a_tuple_are_one_name():
    """`torchvision.datasets.ImageNet` gives its classes so."""
    source = type("Data", (list,), {"classes": [("autobus", "bus"), ("van",)]})(
        [(Image.new("RGB", (4, 4)), i) for i in (0, 1)]
    )
    assert [picture.label for picture in ImageSet.of(source, CLASSES).pictures] == [1, 2]


def hugging_face(rows, **features):
    return type("Table", (list,), {"features": {"image": object(), **features}})(rows)


def named(*names):
    return SimpleNamespace(names=list(names))


@pytest.mark.parametrize("column", ["label", "labels", "fine_label", "kind of car"])
def test_tables_of_hugging_face_are_understood(column):
    rows = [{"image": Image.new("RGB", (4, 4), (i, 0, 0)), column: i} for i in (0, 1)]
    found = ImageSet.of(hugging_face(rows, **{column: named("van", "bus")}), CLASSES)
    assert [picture.label for picture in found.pictures] == [2, 1]
    assert found.pictures[1].read().getpixel((0, 0)) == (1, 0, 0)


def test_a_label_that_hugging_face_keeps_secret_is_none():
    rows = [{"image": Image.new("RGB", (4, 4)), "label": -1}]
    assert ImageSet.of(hugging_face(rows, label=named("van", "bus")), CLASSES).pictures[0].label is None


def test_dictionaries_without_features_have_labels_of_the_models_own():
    content = io.BytesIO()
    Image.fromarray(COLOURS).save(content, "PNG")
    rows = [
        {"img": {"bytes": content.getvalue(), "path": None}, "label": 1},
        {"image": COLOURS, "label": "van"},
        {"png": COLOURS},
    ]
    found = ImageSet.of(rows, CLASSES).pictures
    assert [picture.label for picture in found] == [1, 2, None]
    assert all(np.array_equal(picture.read(), COLOURS) for picture in found)


def test_a_loader_of_batches_is_refused():
    with pytest.raises(FolderError, match=r"loader\.dataset"):
        ImageSet.of(DataLoader([(torch.zeros(3, 4, 4), 0)], batch_size=1), CLASSES)


def test_labels_out_of_range_are_refused():
    source = type("Data", (list,), {"classes": ["van", "bus"]})([(Image.new("RGB", (4, 4)), 2)])
    with pytest.raises(FolderError, match="labels below 2"):
        ImageSet.of(source, CLASSES)
    with pytest.raises(SettingError, match="below 5"):
        ImageSet.of([(Image.new("RGB", (4, 4)), 5)], CLASSES)


def test_pictures_and_others_may_come_together():
    given = [
        Picture(Image.new("RGB", (4, 4)), 3),
        (COLOURS, np.int64(1)),
        (COLOURS, torch.tensor(2)),
        (COLOURS, 1.0),
        COLOURS,
    ]
    assert [picture.label for picture in ImageSet.of(given, CLASSES).pictures] == [3, 1, 2, 1, None]

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models, transforms
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms._presets import ImageClassification

from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.stream import ImageStream
from rulepatch.errors import ModelError, SettingError
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(64, 64), (100, 60), (60, 100), (33, 190), (31, 29), (257, 40), (47, 48)]
MODES = [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC, InterpolationMode.NEAREST, InterpolationMode.LANCZOS]


def picture(size, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def prepared(preprocess, image):
    return preprocess.normalise(preprocess.pixels(image))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("resize", [32, 40, 57])
def test_a_preset_is_repeated_bit_by_bit(mode, resize):
    preset = ImageClassification(crop_size=32, resize_size=resize, interpolation=mode)
    for size in SIZES:
        assert torch.equal(prepared(Preprocess.of(preset), picture(size)), preset(picture(size))), size


def composed(*steps):
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


COMPOSED = {
    "resize and crop": composed(transforms.Resize(40), transforms.CenterCrop(32)),
    "a pair for the crop": composed(transforms.Resize(40), transforms.CenterCrop((32, 32))),
    "one number in a list": composed(transforms.Resize([40]), transforms.CenterCrop([32])),
    "lanczos": composed(transforms.Resize(40, InterpolationMode.LANCZOS), transforms.CenterCrop(32)),
    "squashed": composed(transforms.Resize((32, 32))),
    "squashed, not square": composed(transforms.Resize((24, 40))),
    "squashed and cropped": composed(transforms.Resize((40, 40)), transforms.CenterCrop(32)),
    "squashed and cropped to itself": composed(transforms.Resize((32, 32)), transforms.CenterCrop(32)),
    "of squares alone": composed(transforms.Resize(32)),
    "version 2": v2.Compose(
        [
            v2.Resize(40),
            v2.CenterCrop(32),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    ),
    "converted": transforms.Compose(
        [
            transforms.Resize(40, InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float32),
            transforms.Normalize([0.5] * 3, [0.25] * 3),
        ]
    ),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_a_compose_is_repeated(name):
    last_bit = 1e-6 if name == "version 2" else 0  # it multiplies by 1/255 where the others divide
    for width, height in SIZES:
        image = picture((width, width) if name == "of squares alone" else (width, height))
        got, expected = prepared(Preprocess.of(COMPOSED[name]), image), COMPOSED[name](image)
        torch.testing.assert_close(got, expected, rtol=0, atol=last_bit)


REFUSED = {
    "nothing": None,
    "a function": lambda image: image,
    "an empty Compose": transforms.Compose([]),
    "no size": composed(),
    "an unknown step": composed(transforms.Resize(40), transforms.CenterCrop(32), transforms.GaussianBlur(5, 2.0)),
    "a crop of the image as it is": composed(transforms.CenterCrop(32)),
    "crop before resize": composed(transforms.CenterCrop(50), transforms.Resize(32)),
    "resized twice": composed(transforms.Resize(64), transforms.Resize(40), transforms.CenterCrop(32)),
    "a longest side": composed(transforms.Resize(40, max_size=41), transforms.CenterCrop(32)),
    "padded": composed(transforms.Resize(20), transforms.CenterCrop(32)),
    "random": composed(transforms.RandomResizedCrop(32)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_transform_that_is_not_repeated_exactly_is_refused(name):
    with pytest.raises(ModelError, match="expected a Preprocess"):
        Preprocess.of(REFUSED[name])


def test_a_crop_a_pixel_to_the_side_is_another():
    preprocess = Preprocess.of(COMPOSED["resize and crop"])

    def beside(pixels):
        def transform(image):
            return COMPOSED["resize and crop"](image).roll(pixels, dims=2)

        return transform

    assert preprocess.repeats(beside(0))
    assert not preprocess.repeats(beside(1))
    assert not dataclasses.replace(preprocess, keep_exact_size=True).repeats(beside(0))


def test_presets_of_torchvision_are_understood():
    for name in models.list_models(module=models)[::20]:
        for weights in models.get_model_weights(name):
            preset = weights.transforms()
            preprocess = Preprocess.of(preset)
            assert preprocess.input_size == (preset.crop_size[0], preset.crop_size[0])
            assert preprocess.mean == tuple(preset.mean)


def test_a_preprocess_is_taken_as_it_is():
    preprocess = Preprocess((8, 8))
    assert Preprocess.of(preprocess) is preprocess


@pytest.mark.parametrize("preprocess", [Preprocess((24, 32), resize=50), Preprocess((24, 32), squash=True)])
def test_a_picture_of_the_input_size_passes_unchanged(preprocess):
    image = picture((32, 24))
    pixels = preprocess.pixels(image)
    assert torch.equal((pixels * 255).round().to(torch.uint8), torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert preprocess.pixels(picture((24, 32))).shape == (3, 24, 32)


def test_a_frame_is_not_framed_again_if_that_is_said():
    preprocess = Preprocess.of(ImageClassification(crop_size=32, resize_size=40))
    image = picture((90, 60))
    frame = preprocess.frame(image)
    assert torch.equal(preprocess.pixels(frame, framed=True), preprocess.pixels(image))
    assert not torch.equal(preprocess.pixels(frame), preprocess.pixels(image))
    images = ImageSet((Picture(frame, framed=True), Picture(frame)), "a frame and an image")
    (batch,) = ImageStream(images, preprocess)
    assert torch.equal(batch.pixels[0], preprocess.pixels(image))
    assert torch.equal(batch.pixels[1], preprocess.pixels(frame))
    assert images.digests()[0] != images.digests()[1]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda values: np.array(values, np.float32)])
def test_means_in_whatever_holds_numbers(kind):
    assert Preprocess(8, mean=kind([0.25, 0.5, 0.75]), std=kind([0.5] * 3)) == Preprocess(
        (8, 8), mean=(0.25, 0.5, 0.75), std=(0.5,) * 3
    )
    assert json.loads(json.dumps(Preprocess(8, mean=kind([0.5]), std=kind([0.5])).describe()))["mean"] == [0.5]


def test_one_number_for_all_channels():
    assert Preprocess(8, mean=0.5, std=0.25) == Preprocess((8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
    assert Preprocess(8, mean=(0.5,), std=0.25).channels == 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("given", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "F", "CMYK", "YCbCr"])
def test_pictures_of_every_mode_are_brought_into_the_networks(mode, given):
    preprocess = Preprocess(8, mean=[0] * len(mode), std=[1] * len(mode))
    pixels = preprocess.pixels(Image.new(given, (20, 30)))
    assert pixels.shape == (len(mode), 8, 8)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    if preprocess.has_alpha:
        assert (pixels[-1] == (0 if given in {"LA", "RGBA"} else 1)).all()
    elif given in {"LA", "RGBA"}:
        assert (pixels == 1).all()  # what is transparent lies on white


def test_grey_repeated_is_grey_in_every_channel():
    pixels = Preprocess(8, mode="L").pixels(picture((20, 20)))
    assert pixels.shape == (3, 8, 8)
    assert torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2])


def test_the_same_for_another_number_of_channels():
    preprocess = Preprocess(8, mean=(0.1, 0.2, 0.6), std=(0.2, 0.3, 0.4))
    assert preprocess.with_channels(3) is preprocess
    assert preprocess.with_channels(1).mean == pytest.approx((0.3,))
    assert preprocess.with_channels(4).std == (0.2, 0.3, 0.4, 0.2)
    assert preprocess.with_channels(2).mode == "LA"
    with pytest.raises(SettingError, match="5 and 5"):
        preprocess.with_channels(5)


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("input_size", [(32, 32), (48, 20), (20, 48)])
def test_the_frame_has_the_input_size_and_is_filled(squash, input_size):
    for size in [*SIZES, (1, 1), (1, 50), (500, 3)]:
        white = Image.new("RGB", size, "white")
        for resize in (None, 60):
            pixels = Preprocess(input_size, resize=resize, squash=squash).pixels(white)
            assert pixels.shape == (3, *input_size)
            assert pixels.dtype == torch.float32
            assert pixels.min() == 1  # no black border


@pytest.mark.parametrize("size", [*SIZES, (32, 32)])
@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("read", [{}, {"keep_exact_size": False}, {"keep_exact_size": False, "odd_margins": "floor"}])
def test_a_mask_is_framed_like_its_picture(size, squash, read):
    mask = np.zeros(size[::-1], np.float32)
    mask[: size[1] // 2, size[0] // 3 :] = 1
    as_picture = Image.fromarray((mask * 255).astype(np.uint8)).convert("RGB")
    for interpolation in ("bilinear", "bicubic"):
        preprocess = Preprocess((32, 32), resize=41, squash=squash, interpolation=interpolation, **read)
        framed = preprocess.mask(mask)
        assert framed.shape == (32, 32)
        assert framed.min() >= 0
        assert framed.max() <= 1
        smooth = dataclasses.replace(preprocess, interpolation="bilinear")
        assert torch.allclose(framed, smooth.pixels(as_picture)[0], atol=1.5 / 255)
    assert preprocess.mask(np.ones(size[::-1], np.float32)).min() == 1


def test_normalising_is_that_of_torchvision_for_one_and_many():
    preprocess = Preprocess((8, 8), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    pixels = torch.rand(5, 3, 8, 8)
    expected = transforms.functional.normalize(pixels, preprocess.mean, preprocess.std)
    assert torch.equal(preprocess.normalise(pixels), expected)
    assert torch.equal(preprocess.normalise(pixels[2]), expected[2])
    assert torch.allclose(preprocess.normalise(pixels.double()).float(), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"input_size": (0, 8)},
        {"input_size": (-8, 8)},
        {"input_size": (8, 8), "resize": 7},
        {"input_size": (8, 8), "interpolation": "cubic"},
        {"input_size": (8, 8), "std": (0.5, 0, 0.5)},
        {"input_size": (8, 8), "std": (0.5, -1, 0.5)},
        {"input_size": (8, 8), "std": (0.5, float("nan"), 0.5)},
        {"input_size": (8, 8), "mean": (0.5, float("nan"), 0.5)},
        {"input_size": (8, 8), "std": 0},
        {"input_size": (8, 8), "mean": (0.5,) * 5, "std": (0.5,) * 5},
        {"input_size": (8, 8), "mean": (), "std": ()},
        {"input_size": (8, 8), "mean": (0.5,)},
        {"input_size": (8, 8), "mean": "0.5"},
        {"input_size": (8, 8), "mean": (True, False, True)},
        {"input_size": (8, 8), "mean": [[0.5, 0.5, 0.5]]},
        {"input_size": (8, 8), "mode": "CMYK"},
        {"input_size": (8, 8), "mode": "RGBA"},
        {"input_size": (8, 8), "odd_margins": "ceiling"},
        {"input_size": (8, 8), "resize": (8, 8)},
        {"input_size": (8, 8), "resize": 8.5},
        {"input_size": (8, 8, 3)},
        {"input_size": 8.0},
        {"input_size": "8"},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(SettingError, match="expected"):
        Preprocess(**settings)


def test_the_description_tells_settings_apart_and_is_json():
    one = Preprocess((8, 8)).describe()
    assert one == dataclasses.asdict(Preprocess((8, 8)))
    assert one["mean"] == MEAN


# Classes


def test_a_class_is_known_by_index_and_by_the_first_of_its_names():
    classes = Classes(("tench, Tinca tinca", "goldfish"))
    assert len(classes) == 2
    assert [classes[0], classes[1]] == ["tench", "goldfish"]
    assert [classes.index(label) for label in (0, "0", np.int64(1), "1", "Tinca Tinca")] == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("label", [2, -1, "2", "-1", "tenc", "", "n01440764", "tench Tinca tinca goldfish"])
def test_an_unknown_class_is_refused_and_the_nearest_named(label):
    with pytest.raises(SettingError, match="index below 2") as caught:
        Classes(("tench, Tinca tinca", "goldfish")).index(label)
    assert label != "tenc" or str(caught.value).endswith("the nearest are tench")


def test_the_classes_of_imagenet_are_known_by_wordnet_id():
    classes = Classes(tuple(f"class {i}" for i in range(1000)), "imagenet")
    assert [classes.index(name) for name in ("n01440764", "n04461696", "n15075141")] == [0, 864, 999]


# Classifiers


class Output(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, x):
        return self.result


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_logits_come_as_a_tensor_or_by_name_in_at_least_single_precision(kind):
    table = torch.ones(2, 3, dtype=kind)
    for result in (table, SimpleNamespace(logits=table, loss=None)):
        logits = Classifier(Output(result), Preprocess((8, 8)), ["a", "b", "c"]).logits(torch.ones(2, 3, 8, 8))
        assert logits.dtype == (torch.float64 if kind == torch.float64 else torch.float32)


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (torch.ones(2, 4), r"\(2, 4\)"),
        (torch.ones(3), r"\(3,\)"),
        (torch.ones(2, 3, 1, 1), r"\(2, 3, 1, 1\)"),
        ([torch.ones(2, 4)], "list"),
    ],
)
def test_an_output_that_is_no_table_of_logits_is_refused(result, got):
    model = Classifier(Output(result), Preprocess((8, 8)), ["a", "b", "c"], "my net")
    with pytest.raises(ModelError, match=rf"my net .*\(n, 3\).* got {got}"):
        model.logits(torch.ones(2, 3, 8, 8))


def test_inputs_follow_the_type_and_device_of_the_network():
    pixels = torch.rand(2, 3, 8, 8)
    for kind in (torch.float64, torch.float16):
        model = Classifier(nn.Conv2d(3, 2, 1).to(kind), Preprocess((8, 8)), ["a"])
        assert model.inputs(pixels).dtype == model.dtype == kind
    model = Classifier(nn.Conv2d(3, 2, 1, device="meta"), Preprocess((8, 6)), ["a"])
    assert model.device.type == "meta"
    assert (model.example().shape, model.example().device.type) == ((1, 3, 8, 6), "meta")
    without = Classifier(nn.Flatten(), Preprocess((8, 8)), ["a"])
    assert (without.device.type, without.dtype) == ("cpu", torch.float32)


def test_a_classifier_keeps_everything_but_the_network():
    one = Classifier(nn.Flatten(), COMPOSED["resize and crop"], ["a", "b"], "one")
    other = one.with_module(nn.ReLU())
    assert (other.preprocess, other.classes, other.name) == (one.preprocess, Classes(("a", "b")), "one")
    assert isinstance(other.module, nn.ReLU)


@pytest.mark.parametrize("size", [(100, 40), (40, 100), (33, 32), (32, 32), (64, 64), (301, 77), (32, 24)])
@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("read", [{}, {"keep_exact_size": False}, {"keep_exact_size": False, "odd_margins": "floor"}])
def test_the_window_is_where_the_frame_was_cut(size, squash, read):
    """A ramp stays a ramp: each pixel of the frame tells which place of the image it shows."""
    preprocess = Preprocess((24, 32), resize=28, squash=squash, **read)
    width, height = size
    left, top, right, bottom = preprocess.window(size)
    assert -0.01 <= left < right <= width + 0.01 and -0.01 <= top < bottom <= height + 0.01
    x, y = np.meshgrid(np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5)
    for ramp, start, end, axis in ((x, left, right, 1), (y, top, bottom, 0)):
        seen = np.asarray(preprocess.frame(Image.fromarray(ramp)))
        told = start + (np.arange(seen.shape[axis]) + 0.5) / seen.shape[axis] * (end - start)
        difference = np.abs(seen.mean(axis=1 - axis) - told)
        assert difference[4:-4].max() < 0.1  # a crop that is off by one would be off by more

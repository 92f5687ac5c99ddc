"""What is read off other libraries' transforms does what they do, on images of every size."""

import functools
import itertools
import random

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn
from torchvision import models
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as TF

from rulepatch.errors import ModelError
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.timm_models import preprocess_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def sizes_of(side_y, side_x):
    """Ten widths and heights: of the input, a little more on either side, smaller, larger, long, odd."""
    x, y = side_x, side_y
    return [
        (x, y), (x + 1, y), (x, y + 1), (x + 3, y + 5), (x // 2, y // 2 + 1),
        (x // 3 + 2, 2 * y), (2 * x + 1, 2 * y), (3 * x, y), (2 * x - 1, y + y // 2), (x + x // 3, 2 * y + 3),
    ]  # fmt: skip


@functools.cache
def picture(size, mode="RGB", seed=0):
    """As sharp as a photograph: of pure noise, only how a resize rounds would be seen."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (size[1] // 3 + 2, size[0] // 3 + 2, len(mode)), dtype=np.uint8)
    return Image.fromarray(small.squeeze(2) if len(mode) == 1 else small).resize(size, Image.Resampling.BICUBIC)


def held(preprocess, transform, *, sizes=None, mode="RGB"):
    """Largest mean difference of pixels between a preprocessing and a transform, in levels of 255."""
    worst = 0.0
    for size in sizes or sizes_of(*preprocess.input_size):
        expected = transform(picture(size, mode))
        got = preprocess.normalise(preprocess.pixels(picture(size, mode)))
        assert got.shape == expected.shape, size
        std = torch.tensor(preprocess.std)[:, None, None]
        worst = max(worst, float((255 * std * (got - expected)).abs().mean()))
    return worst


# torchvision


def presets():
    found = {}
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            preset = weights.transforms()
            found[repr(preset)] = preset
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("preset", presets(), ids=lambda preset: f"{preset.resize_size[0]}-{preset.crop_size[0]}")
def test_every_preset_of_torchvision_at_ten_sizes(preset):
    assert held(Preprocess.of(preset), preset) == 0


def shapes():
    """Ways to write the same sizes, (resize, crop)."""
    yield from ((48, 32), (48, (32, 32)), ([48], [32]), ((48, 48), 32), ((32, 32), None), ((32, 32), 32), (32, 32))
    yield from (((48, 60), (32, 40)), ((24, 40), None), (51, 31), (50, 31), (49, (30, 31)))


def composed(library, order, shape, mode, affine):
    """A Compose of one of the libraries in one of the orders that people write."""
    size, crop = shape
    geometry = [library.Resize(size, mode, antialias=True), *([] if crop is None else [library.CenterCrop(crop)])]
    if library is v1:
        ways = [[v1.ToTensor()], [v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)]]
    else:
        ways = [
            [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)],
            [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()],
        ]
    to_tensor = ways[order // 3 % 2]
    normalise = [] if affine is None else [library.Normalize(*affine)]
    return library.Compose(
        [
            [*geometry, *to_tensor, *normalise],
            [geometry[0], *to_tensor, *geometry[1:], *normalise],  # cropped as a tensor
            [geometry[0], *to_tensor, *normalise, library.Compose(geometry[1:] or [v1.Lambda(lambda image: image)])],
        ][order % 3]
    )


MODES = [each for each in InterpolationMode if each != InterpolationMode.NEAREST_EXACT]
AFFINES = [None, (MEAN, STD), ([0.5] * 3, [0.25] * 3), (torch.tensor(MEAN), torch.tensor(STD))]
VARIANTS = list(itertools.product((v1, v2), range(6), shapes(), InterpolationMode, AFFINES))


@pytest.mark.parametrize("seed", range(60))
def test_composes_as_people_write_them_at_ten_sizes(seed):
    library, order, shape, mode, affine = random.Random(seed).choice(VARIANTS)
    if library is v2 and affine is not None:
        affine = tuple(list(map(float, each)) for each in affine)
    transform = composed(library, order, shape, mode, affine)
    assert held(Preprocess.of(transform), transform) < 0.01, transform


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "first", [[v2.ToImage()], [v1.PILToTensor()], [v1.ToTensor()]], ids=["image", "uint8", "float"]
)
def test_what_is_resized_as_a_tensor_differs_by_its_rounding_alone(mode, first):
    rest = [v2.Resize(48, InterpolationMode(mode), antialias=True), v2.CenterCrop(32)]
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    transform = v2.Compose([*first, *rest, *last])
    assert held(Preprocess.of(transform), transform) < 0.6


def preset_as_function(image):
    image = TF.center_crop(TF.resize(image.convert("RGB"), 256), 224)
    return TF.normalize(TF.to_tensor(image), MEAN, STD)


SEQUENTIAL = [
    v1.Resize(40, antialias=True),
    v1.CenterCrop(32),
    v1.ConvertImageDtype(torch.float32),
    v1.Normalize(MEAN, STD),
]
GEOMETRY = [v1.Resize(40), v1.CenterCrop(32)]
ALSO_READ = {
    "layers of tensors": nn.Sequential(*SEQUENTIAL),
    "scalars": v1.Compose([*GEOMETRY, v1.ToTensor(), v1.Normalize(0.5, 0.5)]),
    "numbers of numpy": v1.Compose([*GEOMETRY, v1.ToTensor(), v1.Normalize(np.array(MEAN), np.array(STD))]),
    "converted first": v1.Compose([v1.Lambda(lambda im: im.convert("RGB")), *GEOMETRY, v1.ToTensor()]),
    "from arrays": v1.Compose([v1.ToPILImage(), *GEOMETRY, v1.ToTensor(), v1.Normalize(MEAN, STD)]),
    "grey in three": v1.Compose([v1.Grayscale(3), *GEOMETRY, v1.ToTensor(), v1.Normalize(MEAN, STD)]),
    "to 255": v2.Compose([*GEOMETRY, v2.PILToTensor(), v2.ToDtype(torch.float32), v2.Normalize([120] * 3, [60] * 3)]),
    "-1 to 1": v1.Compose([*GEOMETRY, v1.ToTensor(), v1.Lambda(lambda x: 2 * x - 1)]),
    "a batch of one": v1.Compose([*GEOMETRY, v1.ToTensor(), v1.Lambda(lambda x: x[None])]),
    "half precision": v1.Compose([*GEOMETRY, v1.ToTensor(), v1.Normalize(MEAN, STD), v1.Lambda(torch.Tensor.half)]),
}


@pytest.mark.parametrize("name", ALSO_READ)
def test_also_read(name):
    transform = ALSO_READ[name]

    def result(image):
        given = {"layers of tensors": TF.pil_to_tensor, "from arrays": np.array}.get(name, lambda same: same)(image)
        found = transform(given).float()
        return found[0] if found.ndim == 4 else found

    assert held(Preprocess.of(transform), result) < 0.8


def test_weights_are_read_by_their_preset():
    weights = models.EfficientNet_B1_Weights.IMAGENET1K_V2
    assert Preprocess.of(weights) == Preprocess.of(weights.transforms())


def test_a_function_is_read_too():
    assert Preprocess.of(preset_as_function) == Preprocess((224, 224), 256, keep_exact_size=False)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("resize", [32, 48, (48, 48)])
def test_transforms_of_every_number_of_channels(mode, resize):
    affine = [(0.1, 0.3, 0.5, 0.7)[: len(mode)], (0.2, 0.3, 0.4, 0.5)[: len(mode)]]
    transform = v1.Compose([v1.Resize(resize), v1.CenterCrop(32), v1.ToTensor(), v1.Normalize(*affine)])
    preprocess = Preprocess.of(transform)
    assert (preprocess.mode, preprocess.channels) == (mode, len(mode))
    assert held(preprocess, transform, mode=mode) < 0.01


def test_grey_is_what_grayscale_makes_of_colours():
    transform = v1.Compose(
        [v1.Grayscale(), v1.Resize(40), v1.CenterCrop(32), v1.ToTensor(), v1.Normalize([0.5], [0.5])]
    )
    assert held(Preprocess.of(transform), transform) < 0.01


# Without a size

CIFAR = v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)])


def test_the_size_can_be_given_where_a_transform_has_none():
    preprocess = Preprocess.of(CIFAR, input_size=(32, 24))
    assert preprocess == Preprocess((32, 24), 24)
    image = picture((24, 32))
    assert torch.equal(preprocess.normalise(preprocess.pixels(image)), CIFAR(image))
    assert preprocess.pixels(picture((100, 80))).shape == (3, 32, 24)
    mnist = v1.Compose([v1.ToTensor(), v1.Normalize((0.1307,), (0.3081,))])
    assert Preprocess.of(mnist, input_size=28) == Preprocess(28, 28, mean=(0.1307,), std=(0.3081,))


def test_where_a_transform_leaves_the_channels_open_the_network_says():
    def channels(module, *affine, **more):
        transform = v1.Compose([*GEOMETRY, v1.ToTensor(), v1.Normalize(*affine)])
        return Classifier(module, transform, ["a"]).preprocess.channels

    one, three, none = nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv2d(3, 2, 3)), nn.Flatten()
    assert [channels(each, 0.5, 0.5) for each in (one, three, none)] == [1, 3, 3]
    assert [channels(each, (0.5,), (0.5,)) for each in (one, three, none)] == [1, 3, 1]
    assert [channels(each, MEAN, STD) for each in (one, three, none)] == [3, 3, 3]


# What is refused, and what is said


def steps(*given):
    return v1.Compose([*given, v1.ToTensor(), v1.Normalize(MEAN, STD)])


class Albumentations:
    __module__ = "albumentations.core.composition"

    def __call__(self, *, image):
        return {"image": image}


REFUSED = {
    "nothing": (None, "NoneType"),
    "words": ("resize", "str"),
    "no size": (CIFAR, r"Compose with no Resize or CenterCrop.*input_size"),
    "one step": (v1.ToTensor(), "ToTensor with no Resize or CenterCrop"),
    "no tensor": (v1.Compose(GEOMETRY), "an image, not a tensor.*ToTensor"),
    "a crop alone": (steps(v1.CenterCrop(32)), "CenterCrop without a Resize"),
    "a crop first": (steps(v1.CenterCrop(50), v1.Resize((32, 32))), "CenterCrop before Resize; resize first"),
    "twice": (steps(v1.Resize(64), v1.Resize(40), v1.CenterCrop(32)), "more than one Resize"),
    "padded": (steps(v1.Resize(32), v1.Pad(4)), "Pad, which fills in a border"),
    "padded by a crop": (steps(v1.Resize(20), v1.CenterCrop(32)), "CenterCrop of more than Resize"),
    "a longest side": (steps(v1.Resize(40, max_size=41), v1.CenterCrop(32)), "Resize with max_size"),
    "blurred": (steps(*GEOMETRY, v1.GaussianBlur(5, 2.0)), "GaussianBlur"),
    "negative": (v1.Compose([*GEOMETRY, v1.ToTensor(), v1.Lambda(lambda x: 1 - x)]), "Lambda"),
    "other channels": (v1.Compose([*GEOMETRY, v1.ToTensor(), v1.Lambda(lambda x: x.flip(0))]), "Lambda"),
    "black alone": (v1.Compose([*GEOMETRY, v1.ToTensor(), v1.Lambda(lambda x: 0 * x)]), "the same of black"),
    "tensors, roughly": (
        v1.Compose([v1.ToTensor(), v1.Resize(40, InterpolationMode.BILINEAR, antialias=False), v1.CenterCrop(32)]),
        "Resize of tensors.*before ToTensor",
    ),
    "five": (v1.Compose([v1.Resize(40), v1.FiveCrop(32), v1.Lambda(list)]), "FiveCrop, which makes several"),
    "training": (steps(v1.RandomResizedCrop(32), v1.RandomHorizontalFlip()), "RandomResizedCrop, a step of training"),
    "mirrored": (steps(*GEOMETRY, v1.RandomHorizontalFlip()), "RandomHorizontalFlip, a step of training"),
    "colours": (v2.Compose([v2.ColorJitter(0.5), *GEOMETRY, v2.PILToTensor()]), "ColorJitter, a step of training"),
    "of timm, for training": (create_transform((3, 32, 32), is_training=True), "a step of training"),
    "of timm, with a border": (create_transform((3, 32, 32), crop_mode="border"), "fills in a border"),
    "albumentations": (Albumentations(), "albumentations"),
    "a class": (dict, "fails on an image|gives"),
    "one that fails": (lambda image: 1 / 0, "ZeroDivisionError"),
    "an unusual function": (lambda image: TF.to_tensor(image.resize((37, 29)).crop((0, 0, 29, 29))), "<lambda>, whose"),
    "a number": (lambda image: 5, "int"),
    "last channels": (lambda image: torch.from_numpy(np.array(image.resize((32, 32)))), r"shape \(32, 32, 3\)"),
    "two": (lambda image: [torch.ones(3, 8, 8)] * 2, "2 results"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_the_step(name):
    transform, said = REFUSED[name]
    with pytest.raises(ModelError, match=rf"(?s)expected a Preprocess, .* but got .*{said}") as caught:
        Preprocess.of(transform)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("rulepatch.Preprocess(…)")


def test_a_size_that_contradicts_the_transform_is_refused():
    with pytest.raises(ModelError, match=r"\(32, 32\), and the input size \(48, 48\)"):
        Preprocess.of(steps(*GEOMETRY), input_size=48)


def test_reading_leaves_the_random_numbers_alone():
    before = torch.random.get_rng_state()
    Preprocess.of(steps(*GEOMETRY))
    assert torch.equal(torch.random.get_rng_state(), before)


# timm


@functools.cache
def configs():
    """Every way in which timm prepares images, each once."""
    found = {}
    for name in timm.list_pretrained():
        config = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        found.setdefault(repr(sorted(config.items())), (name, config))
    return dict(found.values())


@pytest.mark.slow
def test_every_configuration_of_timm_at_ten_sizes():
    refused = set()
    for name, config in configs().items():
        small = {**config, "input_size": (3, *(side // 4 for side in config["input_size"][1:]))}  # as it is, but quick
        preprocess = preprocess_of(small)
        if preprocess is None:
            refused.add(name)
            continue
        transform = create_transform(**small)
        assert held(preprocess, transform, sizes=sizes_of(*preprocess.input_size)) < 0.01, name
    assert len(refused) < 0.05 * len(configs())
    assert all(configs()[name]["crop_mode"] == "border" or configs()[name]["crop_pct"] > 1 for name in refused)


@pytest.mark.parametrize("seed", range(8))
def test_a_transform_of_timm_is_read_as_its_configuration(seed):
    rng = random.Random(seed)
    config = {
        "input_size": (3, 32, 32),
        "interpolation": rng.choice(["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"]),
        "crop_pct": rng.choice([0.875, 0.9, 0.95, 1.0]),
        "crop_mode": rng.choice(["center", "squash"]),
        "mean": rng.choice([MEAN, (0.5, 0.5, 0.5)]),
        "std": STD,
    }
    transform = create_transform(**config)
    read, described = Preprocess.of(transform), Preprocess.of(config)
    assert read.mean == pytest.approx(described.mean) and described == preprocess_of(config)
    assert held(read, transform) == pytest.approx(0, abs=0.01) == held(described, transform)


# transformers


def processor(seed):
    """An image processor of random kind and settings, small."""
    transformers = pytest.importorskip("transformers")
    rng = random.Random(seed)
    side = rng.choice([30, 31, 32, 33])
    resized = side + rng.choice([0, 1, 4, 7])
    common = {
        "resample": rng.choice([1, 2, 3]),
        "image_mean": rng.choice([MEAN, [0.5] * 3, [0.1, 0.2, 0.3]]),
        "image_std": rng.choice([STD, [0.5] * 3]),
        "do_normalize": rng.random() < 0.8,
    }
    square = {"size": {"height": side, "width": side}}
    cropped = {"size": {"shortest_edge": resized}, "crop_size": {"height": side, "width": side}, "do_center_crop": True}
    kinds = {
        "ViT": square,
        "Beit": square,
        "Siglip": square,
        "Segformer": square,
        "CLIP": cropped,
        "MobileNetV1": cropped,
        "MobileNetV2": cropped,
        "Bit": cropped,
        "DeiT": {**cropped, "size": {"height": resized, "width": resized}},
        "ConvNext": {"size": {"shortest_edge": side}, "crop_pct": rng.choice([0.875, 0.9, 1.0])},
    }
    kind = sorted(kinds)[seed % len(kinds)]
    return getattr(transformers, f"{kind}ImageProcessor")(**common, **kinds[kind])


@pytest.mark.parametrize("seed", range(40))
def test_processors_of_transformers_at_ten_sizes(seed):
    given = processor(seed)

    def transform(image):
        return given(images=image, return_tensors="pt")["pixel_values"][0]

    preprocess = Preprocess.of(given)
    assert held(preprocess, transform) < 0.8


def test_a_processor_with_other_steps_is_refused():
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ModelError, match="MobileViTImageProcessor with steps that it has no settings for"):
        Preprocess.of(transformers.MobileViTImageProcessor())

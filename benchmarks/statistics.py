"""What key statistics cost beside a bare forward pass: `python -m benchmarks.statistics`."""

from collections.abc import Iterator
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from benchmarks.measure import arguments, interleaved, record
from rulepatch.core.moments import KeyStatistics
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.statistics import key_statistics
from rulepatch.data.stream import ImageStream
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.tracing import capture
from rulepatch.tracing.model_sites import sites_of
from rulepatch.tracing.sites import Site, find_sites, flatten_positions, key_axis


def outer_products(keys: Tensor) -> Tensor:
    """The authors' way: an outer product for every key, then their mean."""
    return sum((piece[:, :, None] * piece[:, None, :]).sum(dim=0) for piece in keys.split(256))  # type: ignore[return-value]


def one_site(name: str, model: nn.Module, path: str, images: Tensor) -> dict[str, Any]:
    """One site: with statistics, with the authors' outer products, and the same forward with neither."""
    site = find_sites(model, images[:1]).site(path)
    statistics = KeyStatistics(site.shape[1])
    seconds = interleaved(
        {
            "bare": lambda: capture.input_of(model, images, path),
            "statistics": lambda: statistics.add(flat(capture.input_of(model, images, path), site)),
            "outer products": lambda: outer_products(flat(capture.input_of(model, images, path), site)),
        }
    )
    return row(f"{name}, {path}", len(images), seconds["bare"], seconds["statistics"]) | {
        "authors' outer products, ratio": seconds["outer products"] / seconds["bare"]
    }


def all_sites(name: str, model: nn.Module, images: Tensor, products: torch.dtype) -> dict[str, Any]:
    """Every convolution of a network in one pass, beside a whole bare forward."""
    distinct = {site.reads: site for site in find_sites(model, images[:1]).sites if site.kind == "conv"}
    sites = {site.path: site for site in distinct.values()}
    statistics = {path: KeyStatistics(site.shape[1], capacity=2048, products=products) for path, site in sites.items()}

    def bare() -> None:
        with capture.inference(model):
            model(images)

    def hooks() -> None:
        for _ in capture.inputs_of(model, images, sites):
            pass

    def add() -> None:
        for path, keys in capture.inputs_of(model, images, sites):
            statistics[path].add(flat(keys, sites[path]))

    seconds = interleaved({"bare": bare, "hooks": hooks, "statistics": add}, rounds=7)
    title = f"{name}, all convolutions, products in {str(products).removeprefix('torch.')}"
    return row(title, len(images), seconds["bare"], seconds["statistics"]) | {
        "of which hooks, ratio": seconds["hooks"] / seconds["bare"]
    }


def whole_pass(name: str, module: nn.Module, path: str, count: int) -> dict[str, Any]:
    """A pass over pictures that are decoded beside, with statistics and without."""
    model = Classifier(module, Preprocess((224, 224), resize=256), [str(i) for i in range(1000)])
    noise = [Image.effect_noise((500, 375), 80).convert("RGB") for _ in range(16)]
    images = ImageSet(tuple(Picture(noise[i % 16]) for i in range(count)), "noise")
    site = sites_of(model).site(path)

    def bare() -> None:
        for batch in batches(model, images):
            capture.input_of(model.module, batch, path)

    seconds = interleaved(
        {"bare": bare, "statistics": lambda: key_statistics(model, images, [site], progress=False)}, rounds=5
    )
    return row(f"{name}, {path}, with loading", count, seconds["bare"], seconds["statistics"])


def batches(model: Classifier, images: ImageSet) -> Iterator[Tensor]:
    """Inputs of a set of pictures."""
    for batch in ImageStream(images, model.preprocess, batch_size=model.batch_size):
        yield model.inputs(batch.pixels)


def flat(keys: Tensor, site: Site) -> Tensor:
    """Keys as rows."""
    return flatten_positions(keys, key_axis(site.kind)).flatten(0, 1)


def row(title: str, images: int, bare: float, statistics: float) -> dict[str, Any]:
    """A row of the table."""
    return {
        "pass": title,
        "bare forward, images/s": images / bare,
        "with statistics, images/s": images / statistics,
        "ratio": statistics / bare,
    }


def main() -> None:
    """Measure and record."""
    device = arguments(__doc__ or "").parse_args().device
    images = torch.randn(8, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    networks = {
        "MobileNetV2": (torchvision.models.mobilenet_v2(), "features.18.0"),
        "VGG16": (torchvision.models.vgg16_bn(), "features.40"),
        "ResNet-50": (torchvision.models.resnet50(), "layer4.2.conv2"),
    }
    found = []
    for name, (model, path) in networks.items():
        model.eval().to(device)
        found.append(one_site(name, model, path, images))
        if name == "MobileNetV2":
            found.append(whole_pass(name, model, path, 128))
        if name == "ResNet-50":
            found += [all_sites(name, model, images, products) for products in (torch.float64, torch.float32)]
        model.cpu()
    record("statistics", device, found)


if __name__ == "__main__":
    main()

"""Making cases and discovery beside the bare network and decoder: `python -m benchmarks.casework`.

Everything is timed in turn in one run, on the same photographs, with MobileNetV2 and VGG16 (random weights: speed does
not depend on them). Stylising by texture paste runs in threads beside the network.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import DATA, arguments, record, synchronise
from rulepatch.concepts.make_cases import make_cases
from rulepatch.concepts.segment import load_segmenter
from rulepatch.concepts.stylize import load_stylizer, styles
from rulepatch.data.folders import ImageSet
from rulepatch.data.stream import ahead
from rulepatch.discovery.discover import discover
from rulepatch.evaluation.evaluate import predictions_of
from rulepatch.images import read_image
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import load_model
from rulepatch.tracing import capture

PICTURES = 192
ROUNDS = 5


def forwards(model: Classifier, pixels: Iterator[Tensor]) -> None:
    """Run a network over pixels, batch by batch."""
    waiting: list[Tensor] = []
    with capture.inference(model.module):
        for each in pixels:
            waiting.append(each)
            if len(waiting) == model.batch_size:
                model.logits(model.inputs(torch.stack(waiting)))
                waiting = []
        if waiting:
            model.logits(model.inputs(torch.stack(waiting)))
    synchronise()


def main() -> None:
    """Measure and record."""
    given = arguments(__doc__ or "").parse_args()
    mobilenet = load_model(str(DATA / "models" / "mobilenet_v2.toml"), device=given.device)
    images = ImageSet.of(DATA / "imagenet_sample" / "val", mobilenet.classes).sample(PICTURES, seed=0)
    paste, snow = load_stylizer("paste"), styles(["snow"])[0]
    from torchvision.models import vgg16_bn

    vgg = Classifier(vgg16_bn(num_classes=1000).to(given.device), Preprocess((224, 224)), mobilenet.classes, "VGG16")
    frames = [mobilenet.preprocess.frame(read_image(picture.source)) for picture in images.pictures]
    mask = np.zeros((224, 224), np.float32)
    mask[112:] = 1
    pixels = [mobilenet.preprocess.pixels(frame) for frame in frames]

    def styled(frame: Image.Image) -> Tensor:
        return mobilenet.preprocess.pixels(paste(frame, mask, snow))

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for picture in images.pictures:
            size = read_image(picture.source).size
            path = folder / "masks" / "ground" / picture.source.parent.name / f"{picture.source.stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            lower = Image.new("L", size)
            lower.paste(255, (0, size[1] // 2, *size))
            lower.save(path)
        turn = iter(range(100))

        def cases() -> None:
            make_cases(
                images, folder / str(next(turn)), concepts=["ground"], styles=[snow], stylizer=paste,
                segmenter=load_segmenter(f"files/{folder / 'masks'}"), classes=mobilenet.classes, progress=False,
            )  # fmt: skip

        cases()
        jobs: dict[str, tuple[int, Callable[[], object]]] = {
            "decoder: read and frame": (
                PICTURES, lambda: [mobilenet.preprocess.pixels(read_image(p.source)) for p in images.pictures]
            ),
            "texture paste, one thread": (PICTURES, lambda: [paste(frame, mask, snow) for frame in frames]),
            "MobileNetV2 alone": (PICTURES, lambda: forwards(mobilenet, iter(pixels))),
            "MobileNetV2: paste and score": (PICTURES, lambda: forwards(mobilenet, ahead(styled, frames, 64))),
            "MobileNetV2: decode and score": (PICTURES, lambda: predictions_of(mobilenet, images)),
            "VGG16 alone": (PICTURES // 4, lambda: forwards(vgg, iter(pixels[: PICTURES // 4]))),
            "VGG16: paste and score": (
                PICTURES // 4, lambda: forwards(vgg, ahead(styled, frames[: PICTURES // 4], 64))
            ),
            "rulepatch cases (masks from files, PNG written)": (PICTURES, cases),
            "rulepatch discover (pictures and counterfactuals read)": (
                2 * PICTURES, lambda: discover(mobilenet, folder / "0", least=1000, progress=False)
            ),
        }  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for number in range(ROUNDS + 1):
            for name, (_, job) in jobs.items():
                start = time.perf_counter()
                job()
                if number:
                    seconds[name].append(time.perf_counter() - start)
    rates = {name: count / median(seconds[name]) for name, (count, _) in jobs.items()}
    rows = []
    for name, rate in rates.items():
        bare = rates["VGG16 alone" if name.startswith("VGG16") else "MobileNetV2 alone"]
        rows.append({"what": name, "images/s": rate, "of the bare network": rate / bare})
    record("casework", given.device, rows)


if __name__ == "__main__":
    main()

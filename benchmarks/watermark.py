"""A mark over the image, repaired from one exemplar: `python -m benchmarks.watermark`.

The watermark of the test data is laid over one photograph, and the search is given that and other photographs without
a mark (`imagenet_more`). The thousand photographs of `imagenet_sample`, with and without the mark, are used for the
final numbers and for nothing else. Five to fifteen minutes for each network on one core; `--networks NAME` measures
some of them and keeps the rows of others.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.measure import DATA, arguments, once, record, recorded
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.site_activations import position_weights
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.methods import Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.site_search.search import search
from rulepatch.tracing import capture
from rulepatch.tracing.model_sites import sites_of
from rulepatch.tracing.sites import Site

NETWORKS = {
    "MobileNetV2": "mobilenet_v2.toml",
    "MobileNetV1": "mobilenet_v1.toml",
    "EfficientNet-Lite0": "efficientnet_lite0.toml",
    "EfficientNet-Lite1": "efficientnet_lite1.toml",
    "SqueezeNet 1.0": "squeezenet1_0.toml",
}

EXEMPLAR = 3
"""Which photograph of `imagenet_more` bears the mark; the first that was tried."""


def shipped_mark(side: int) -> Image.Image:
    """The line of characters of the test data for an input size, RGBA."""
    return Image.open(DATA / "watermark" / f"overlay_{side}.png")


def slanted_mark(side: int) -> Image.Image:
    """A word in large red letters across the image, RGBA; nothing in the package was chosen on it."""
    overlay = Image.new("RGBA", (side, side))
    font = ImageFont.load_default(size=side * 0.27)
    ImageDraw.Draw(overlay).text((side / 2, side / 2), "SAMPLE", fill=(200, 20, 30, 130), font=font, anchor="mm")
    return overlay.rotate(35, resample=Image.Resampling.BICUBIC)


def marked(model: Classifier, picture: Picture, overlay: Image.Image) -> tuple[Image.Image, Image.Image]:
    """What the network sees of a photograph, without the mark and with it."""
    crop = model.preprocess.frame(picture.read())
    pasted = crop.copy()
    pasted.paste(overlay, (0, 0), overlay)
    return crop, pasted


def mask_of(overlay: Image.Image) -> np.ndarray:
    """Where a mark is, (h, w), 0..1."""
    return (np.asarray(overlay)[..., 3] > 0).astype(np.float32)


def with_mark(model: Classifier, images: ImageSet, overlay: Image.Image) -> ImageSet:
    """Images with the mark over what the network sees of them."""
    return ImageSet(
        tuple(Picture(marked(model, each, overlay)[1], each.label, framed=True) for each in images.pictures), "marked"
    )


def one_marked(model: Classifier, images: ImageSet, overlay: Image.Image) -> tuple[Exemplar, ImageSet]:
    """An exemplar of a mark, and the other images, which have none."""
    chosen = images.pictures[EXEMPLAR]
    others = ImageSet(tuple(each for i, each in enumerate(images.pictures) if i != EXEMPLAR), images.name)
    return Exemplar(*marked(model, chosen, overlay), mask_of(overlay), label=chosen.label), others


def row(name: str, model: Classifier) -> dict[str, Any]:
    """Search, and measure what was found on photographs that it did not see."""
    overlay = shipped_mark(model.preprocess.input_size[0])
    one, reference = one_marked(model, ImageSet.of(DATA / "imagenet_more" / "val", model.classes), overlay)
    clean = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes)
    tests, mask = with_mark(model, clean, overlay), mask_of(overlay)
    seconds, found = once(lambda: search(model, [one], reference=reference, cache=None))
    line: dict[str, Any] = {"network": name, "candidates": len(found.candidates), "seconds": seconds, "why": found.why}
    if found.edit is None:
        return line | {"edit": "none"}
    seen = evaluate(model, found.edit, tests=tests, reference=clean)
    assert seen.tests is not None and seen.reference is not None and isinstance(found.edit.how, Rewrite)
    before, after, without = (
        100 * (each or 0) for each in (seen.tests.before, seen.tests.after, seen.reference.before)
    )
    paths = [site.path for site in sites_of(model).sites]
    return line | {
        "edit": f"{' + '.join(found.edit.sites)}, rank {found.edit.how.rank}",
        "depth": [paths.index(site) / (len(paths) - 1) for site in found.edit.sites],
        "clean, %": without,
        "before, %": before,
        "after, %": after,
        "won back, %": 100 * (after - before) / (without - before),
        "ceiling, %": 100
        * max(ceiling(model, sites_of(model).site(path), mask, clean, tests) for path in found.edit.sites),
        "repaired": len(seen.tests.repaired),
        "broken": len(seen.tests.broken),
        "points lost": 100 * seen.reference.drop,
        "flips, %": 100 * len(seen.reference.flips) / len(seen.reference),
    }


def ceiling(model: Classifier, site: Site, mask: np.ndarray, clean: ImageSet, tests: ImageSet) -> float:
    """Accuracy with the mark if the values at the marked positions were those without it, exactly, 0..1.

    No edit of the site that acts there can be expected to do better.
    """
    point, right = model.module.get_submodule(site.value_point), 0
    keep: list[torch.Tensor] = []
    for start in range(0, len(tests), model.batch_size):
        pairs = zip(*(each.pictures[start : start + model.batch_size] for each in (clean, tests)), strict=True)
        without, under = ([*each] for each in zip(*pairs, strict=True))
        pixels = [
            model.inputs(torch.stack([model.preprocess.pixels(each.read(), framed=framed) for each in some]))
            for some, framed in ((without, False), (under, True))
        ]
        with capture.inference(model.module):
            hook = point.register_forward_hook(lambda *given: keep.append(given[2].clone()))
            model.logits(pixels[0])
            hook.remove()
            values = keep.pop()
            masks = torch.from_numpy(mask)[None]
            marked = position_weights(masks, values[:1], site.channel_axis, site.value_places) > 0
            marked = marked.reshape(1, 1, *values.shape[2:]).to(values.device)
            hook = point.register_forward_hook(lambda *given: torch.where(marked, values, given[2]))  # noqa: B023
            found = model.logits(pixels[1]).argmax(dim=1).tolist()
            hook.remove()
        right += sum(each.label == said for each, said in zip(under, found, strict=True))
    return right / len(tests)


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    args = parser.parse_args()
    for name in args.networks:
        found = row(name, load_model(str(DATA / "models" / NETWORKS[name]), device=args.device))
        known = {each["network"]: each for each in recorded("watermark", args.device)}
        known[name] = found
        record("watermark", args.device, [known[each] for each in NETWORKS if each in known])


if __name__ == "__main__":
    main()

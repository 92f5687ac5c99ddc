"""A mark over the image, repaired from one exemplar: `python -m benchmarks.watermark`.

The watermark of the test data is laid over one photograph, and the search is given that and other photographs without
a mark (`imagenet_more`). The thousand photographs of `imagenet_sample`, with and without the mark, are used for the
final numbers and for nothing else. Five to fifteen minutes for each network on one core; `--networks NAME` measures
some of them and keeps the rows of others.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image

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


def marked(model: Classifier, picture: Picture) -> tuple[Image.Image, Image.Image]:
    """What the network sees of a photograph, without the mark and with it."""
    overlay = Image.open(DATA / "watermark" / f"overlay_{model.preprocess.input_size[0]}.png")
    crop = model.preprocess.frame(picture.read())
    pasted = crop.copy()
    pasted.paste(overlay, (0, 0), overlay)
    return crop, pasted


def watermarked(model: Classifier) -> tuple[Exemplar, ImageSet, ImageSet, ImageSet, np.ndarray]:
    """An exemplar, the reference set, images without the mark, the same with it, and its mask, (h, w)."""
    more = ImageSet.of(DATA / "imagenet_more" / "val", model.classes)
    mask = np.asarray(Image.open(DATA / "watermark" / f"mask_{model.preprocess.input_size[0]}.png"), np.float32) / 255
    one = Exemplar(*marked(model, more.pictures[EXEMPLAR]), mask, label=more.pictures[EXEMPLAR].label)
    reference = ImageSet(tuple(each for i, each in enumerate(more.pictures) if i != EXEMPLAR), "imagenet_more")
    clean = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes)
    tests = ImageSet(
        tuple(Picture(marked(model, each)[1], each.label, framed=True) for each in clean.pictures), "marked"
    )
    return one, reference, clean, tests, mask


def row(name: str, model: Classifier) -> dict[str, Any]:
    """Search, and measure what was found on photographs that it did not see."""
    one, reference, clean, tests, mask = watermarked(model)
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

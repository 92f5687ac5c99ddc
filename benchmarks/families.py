"""One rule on real networks of several families: graffiti behind things: `python -m benchmarks.families`.

Masks are derived: the even background that a flood fill from the upper edge reaches, mostly sky or a wall, where it is
a fair part of the picture. A network that names a picture rightly and the painted one wrongly has made an error.
Exemplars are three errors of one half of the pictures; on that half settings are chosen within half a point of
accuracy, on the other half they are measured.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.measure import DATA, arguments, record
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.sites import find_sites
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.editors.rewrite import rewrite
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.images import composite, read_image
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model

SHARES = (0.15, 0.7)
"""A flood fill that reaches less is hardly seen, one that reaches more has run over the object."""

TOLERANCE = 48
"""Of the flood fill: sum of the differences of the three colours."""

RANKS, STRENGTHS = (1, 3), (0.25, 0.5, 1.0, 2.0, 3.0)
SITES = 3
"""The last sites that see places of the picture."""

MOST_LOST = 0.005


def networks(device: str) -> Iterator[tuple[str, Classifier, str]]:
    """Real networks: their family, the classifier, and the folder of its pictures."""
    photographs, models = "imagenet_sample/val", DATA / "models"
    mobilenet = load_model(str(models / "mobilenet_v2.toml"), device=device)
    yield "timm", mobilenet, photographs
    weights = DATA / "weights" / "mobilenet_v2_imagenet.safetensors"
    stock = load_model("torchvision/mobilenet_v2", weights=weights, device=device).module
    yield (
        "torchvision",
        Classifier(stock, mobilenet.preprocess, mobilenet.classes, "MobileNetV2, padded evenly"),
        photographs,
    )
    yield "torchvision", load_model(str(models / "squeezenet1_0.toml"), device=device), photographs
    for depth in (20, 56):
        yield "FILE.py", load_model(str(models / f"resnet{depth}_cifar10.toml"), device=device), "cifar10/test"


def background(picture: Image.Image) -> NDArray[np.float32] | None:
    """Mask of what lies under the upper edge, (h, w), 0 or 1; None if that is too little or too much."""
    filled, marker = picture.copy(), (255, 0, 255)
    for x in np.linspace(0, picture.width - 1, 5).astype(int):
        ImageDraw.floodfill(filled, (int(x), 0), marker, thresh=TOLERANCE)
    mask = (np.asarray(filled) == marker).all(axis=2).astype(np.float32)
    return mask if SHARES[0] <= mask.mean() <= SHARES[1] else None


def painted(model: Classifier, images: ImageSet, texture: Image.Image) -> list[Exemplar]:
    """Every picture with an even background, as the network sees it, and its counterpart."""
    found = []
    for picture in images.pictures:
        framed = model.preprocess.frame(read_image(picture.source))
        if (mask := background(framed)) is not None:
            found.append(
                Exemplar(framed, composite(framed, texture, mask), mask, picture.label, "background", "graffiti")
            )
    return found


def set_of(cases: list[Exemplar], *, edited: bool) -> ImageSet:
    """Pictures of some cases, painted or not."""
    pictures = [Picture(case.edited if edited else case.image, case.label) for case in cases]  # type: ignore[arg-type]
    return ImageSet(tuple(pictures), "painted" if edited else "as they are")


def errors_of(model: Classifier, cases: list[Exemplar]) -> list[Exemplar]:
    """Cases that are named rightly as they are, and wrongly with a painted background."""
    clean, new = (outcomes_of(model, [Edit((), "")], set_of(cases, edited=edited))[0] for edited in (False, True))
    wrong = clean.right_before & ~new.right_before
    return [case for case, is_error in zip(cases, wrong, strict=True) if is_error]


def row(family: str, model: Classifier, folder: str, texture: Image.Image) -> dict[str, Any]:
    """A row of the table."""
    known, unseen = ImageSet.of(DATA / folder, model.classes).split(0.5, seed=0)
    cases, tests = painted(model, known, texture), painted(model, unseen, texture)
    errors, test_errors = errors_of(model, cases), errors_of(model, tests)
    same = [case for case in errors if case.label == errors[0].label]
    exemplars = same[:3] if len(same) >= 3 else errors[:3]
    validation = [case for case in errors if case not in exemplars]
    spatial = [site.path for site in find_sites(model.module, model.example()).sites if site.is_spatial]
    edits = [
        rewrite(model, exemplars, reference=known, site=site, rank=rank, cache=None, progress=False).with_strength(s)
        for site in spatial[-SITES:]
        for rank in RANKS
        for s in STRENGTHS
    ]
    on_errors, damage = (outcomes_of(model, edits, each) for each in (set_of(validation, edited=True), known))
    allowed = [i for i, lost in enumerate(damage) if lost.drop <= MOST_LOST]
    if not allowed:
        return {"family": family, "network": model.name, "edit": "none within the budget"}
    chosen = max(allowed, key=lambda i: len(on_errors[i].repaired) - len(on_errors[i].broken))
    (repair,), (clean,) = (
        outcomes_of(model, [edits[chosen]], each) for each in (set_of(test_errors, edited=True), unseen)
    )
    (all_painted,) = outcomes_of(model, [edits[chosen]], set_of(tests, edited=True))
    change = edits[chosen].changes[0]
    return {
        "family": family,
        "network": model.name,
        "edit": f"{change.site}, rank {change.rank}, strength {change.strength:g}",  # type: ignore[union-attr]
        "pictures": len(tests),
        "before, %": 100 * float(all_painted.right_before.mean()),
        "after, %": 100 * float(all_painted.right_after.mean()),
        "errors": len(test_errors),
        "corrected, %": 100 * len(repair.repaired) / max(len(test_errors), 1),
        "broken": len(all_painted.broken),
        "points lost": 100 * clean.drop,
        "flips, %": 100 * len(clean.flips) / len(clean),
    }


def main() -> None:
    """Measure and record."""
    given = arguments(__doc__ or "").parse_args()
    texture = read_image(DATA / "styles" / "graffiti" / "0.jpg")
    rows = [row(family, model, folder, texture) for family, model, folder in networks(given.device)]
    record("families", given.device, rows)


if __name__ == "__main__":
    main()

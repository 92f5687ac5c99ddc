"""One rule on real networks of several families: snow as ground: `python -m benchmarks.families`.

Masks are derived: what a flood fill from the lower edge reaches, where that is a fair part of the picture. A network
that names a picture rightly and the one with snow on its ground wrongly has made an error. Exemplars are errors of one
half of the pictures, of one class as far as it has three; on that half settings are chosen within half a point of
accuracy, on the other half they are measured.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.measure import DATA, arguments, record
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.editors.edit import rewrite
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.evaluation.metrics import mcnemar
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.images import composite, read_image
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.tracing.model_sites import sites_of

SHARES = (0.15, 0.7)
"""A flood fill that reaches less is hardly seen, one that reaches more has run over the object."""

TOLERANCE = 48
"""Of the flood fill: sum of the differences of the three colours."""

SIDE = 64
"""The flood fill looks at pictures of this size: it is slow, and the ground has no fine borders."""

RANKS, STRENGTHS = (1, 3), (0.5, 1.0, 2.0, 3.0)
SITES = 3
"""The last sites that see places of the picture."""

EXEMPLARS = 3

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


def ground(picture: Image.Image) -> NDArray[np.float32] | None:
    """Mask of what lies over the lower edge, (h, w), 0 or 1; None if that is too little or too much."""
    small, marker = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), (255, 0, 255)
    for x in np.linspace(0, SIDE - 1, 5).astype(int):
        ImageDraw.floodfill(small, (int(x), SIDE - 1), marker, thresh=TOLERANCE)
    filled = Image.fromarray((np.asarray(small) == marker).all(axis=2).astype(np.uint8) * 255)
    mask = (np.asarray(filled.resize(picture.size, Image.Resampling.BILINEAR)) > 127).astype(np.float32)
    return mask if SHARES[0] <= mask.mean() <= SHARES[1] else None


def on_snow(model: Classifier, images: ImageSet, snow: Image.Image) -> list[Exemplar]:
    """Every picture with ground, as the network sees it, and its counterpart."""
    found = []
    texture = snow.resize(model.preprocess.input_size) if model.preprocess.input_size[0] < SIDE else snow
    for picture in images.pictures:
        framed = model.preprocess.frame(read_image(picture.source))
        if (mask := ground(framed)) is not None:
            edited = composite(framed, texture, mask)
            found.append(Exemplar(framed, edited, mask, picture.label, "ground", "snow"))
    return found


def outcomes(model: Classifier, edits: list[Edit], cases: list[Exemplar], *, edited: bool) -> list[Outcomes]:
    """What a network says of some cases before and after each edit, with snow on their ground or as they are."""
    pictures = tuple(Picture(case.edited if edited else case.image, case.label) for case in cases)  # type: ignore[arg-type]
    return outcomes_of(model, edits, ImageSet(pictures, "on snow" if edited else "as they are"))


def row(family: str, model: Classifier, folder: str, snow: Image.Image) -> dict[str, Any]:
    """A row of the table."""
    known, unseen = ImageSet.of(DATA / folder, model.classes).split(0.5, seed=0)
    cases, tests = on_snow(model, known, snow), on_snow(model, unseen, snow)
    untouched = [Edit((), "")]
    right, test_right = (outcomes(model, untouched, each, edited=False)[0].right_before for each in (cases, tests))
    errors = right & ~outcomes(model, untouched, cases, edited=True)[0].right_before
    wrong = list(itertools.compress(cases, errors))
    often = Counter(case.label for case in wrong)
    exemplars = sorted(wrong, key=lambda case: -often[case.label])[:EXEMPLARS]
    rest = np.array([case not in exemplars for case in cases])
    spatial = [site.path for site in sites_of(model).sites if site.is_spatial]
    edits = [
        rewrite(model, exemplars, reference=known, site=site, rank=rank, cache=None, progress=False).with_strength(s)
        for site in spatial[-SITES:]
        for rank in RANKS
        for s in STRENGTHS
    ]
    damage = outcomes_of(model, edits, known)
    gains = [-each.where(rest).drop for each in outcomes(model, edits, cases, edited=True)]
    allowed = [i for i, lost in enumerate(damage) if lost.drop <= MOST_LOST]
    chosen = edits[max(allowed, key=lambda i: gains[i])] if allowed else untouched[0]
    (repair,), (clean,) = outcomes(model, [chosen], tests, edited=True), outcomes_of(model, [chosen], unseen)
    made = repair.where(test_right & ~repair.right_before)
    return {
        "family": family,
        "network": model.name,
        "edit": "; ".join(f"{each.site}, rank {each.rank}, strength {each.strength:g}" for each in chosen.changes),  # type: ignore[union-attr]
        "exemplars": len(exemplars),
        "pictures": len(tests),
        "before, %": 100 * float(repair.right_before.mean()),
        "after, %": 100 * float(repair.right_after.mean()),
        "errors": len(made),
        "corrected": len(made.repaired),
        "repaired": len(repair.repaired),
        "broken": len(repair.broken),
        "p": mcnemar(len(repair.repaired), len(repair.broken)),
        "points lost": 100 * clean.drop,
        "flips, %": 100 * len(clean.flips) / len(clean),
    }


def main() -> None:
    """Measure and record."""
    given = arguments(__doc__ or "").parse_args()
    snow = read_image(DATA / "snow" / "texture.jpg")
    rows = [row(family, model, folder, snow) for family, model, folder in networks(given.device)]
    record("families", given.device, rows)


if __name__ == "__main__":
    main()

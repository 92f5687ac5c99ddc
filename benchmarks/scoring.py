"""What scoring many edits of one late site costs beside full passes of the network: `python -m benchmarks.scoring`."""

from typing import Any

from benchmarks.measure import DATA, arguments, once, record
from rulepatch.core.edit import Edit
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.data.stream import ImageStream
from rulepatch.editors.edit import rewrite
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.tracing import capture

SITE, EDITS, IMAGES = "conv_head", 50, 1000


def full_pass(model: Classifier, images: ImageSet) -> None:
    """Decode every picture and run the network on it, nothing else."""
    with capture.inference(model.module):
        for batch in ImageStream(images, model.preprocess, batch_size=model.batch_size):
            model.logits(model.inputs(batch.pixels))


def measured(model: Classifier) -> list[dict[str, Any]]:
    """A full pass, and 1, 10 and 50 edits at once."""
    images = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).sample(IMAGES, seed=0)
    exemplars = read_exemplars([DATA / "snow" / "exemplar"])
    edit = rewrite(model, exemplars, reference=images, site=SITE, rank=3, gate=None)
    edits = [edit.with_strength(0.1 * step) for step in range(1, EDITS + 1)]
    full_pass(model, images.sample(100, seed=0))  # warms up
    bare, _ = once(lambda: full_pass(model, images))
    rows: list[dict[str, Any]] = [{"what": "a full pass, decoding included", "seconds": bare, "full passes": 1.0}]
    chosen: dict[str, list[Edit]] = {f"{count} edits": edits[:count] for count in (1, 10, EDITS)}
    for what, some in chosen.items():
        seconds, _ = once(lambda some=some: outcomes_of(model, some, images))
        rows.append({"what": f"before, and after {what} of {SITE}", "seconds": seconds, "full passes": seconds / bare})
    return rows


def main() -> None:
    """Measure and record."""
    device = arguments(__doc__ or "").parse_args().device
    model = load_model(str(DATA / "models" / "mobilenet_v2.toml"), device=device)
    record("scoring", device, measured(model))


if __name__ == "__main__":
    main()

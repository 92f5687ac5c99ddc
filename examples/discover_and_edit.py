"""Discover a rule, edit it as it stands, and discover again: `python examples/discover_and_edit.py --out FOLDER`.

On the playground, whose classifier learnt that road vehicles stand on roads. The same functions take any model and a
folder of pictures; the commands are `rulepatch cases`, `rulepatch discover` and `rulepatch edit`.
"""

import argparse
from pathlib import Path

from rulepatch import evaluate, load_model, read_exemplars, rewrite
from rulepatch.concepts.make_cases import make_cases, styles_for
from rulepatch.concepts.segment import load_segmenter
from rulepatch.concepts.stylize import load_stylizer
from rulepatch.discovery.concept_effects import EVERY_CLASS
from rulepatch.discovery.discover import discover
from rulepatch.discovery.report import write_discovery
from rulepatch.playground.pictures import image_set, training_images
from rulepatch.playground.scenes import render


def main() -> None:
    """Tell the story."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is made")
    out = parser.parse_args().out

    model = load_model("playground")
    scenes = [render(label, seed=i) for label in ("van", "car", "bus", "truck", "taxi") for i in range(16)]
    cases = make_cases(
        image_set(scenes, "road vehicles"),
        out / "cases",
        concepts=["road"],
        styles=styles_for(["road"], ["snow", "sand", "road"], stylizer="playground"),
        segmenter=load_segmenter("playground"),
        stylizer=load_stylizer("playground", blend=1.0),
        classes=model.classes,
    )
    before = discover(model, cases)
    write_discovery(before, out / "before")
    print(before.to_text())

    rule = next(rule for rule in before.findings[0].rules if rule.label == EVERY_CLASS and rule.style is not None)
    print(f"\nthe rule: no {rule.concept} but {rule.style} costs {100 * rule.drop:.0f} points\n")
    exemplars = read_exemplars([out / "before" / "rules" / f"playground-all-classes-{rule.concept}-{rule.style}"])
    reference = training_images(600, seed=1)
    edit = rewrite(model, exemplars, reference=reference, site="blocks.3.conv", gate=0.98)
    edit.save(out / "edit.safetensors")
    damage = evaluate(model, edit, reference=training_images(1000, seed=2)).reference
    print(f"the edit loses {100 * damage.drop:.1f} points of accuracy on other scenes")

    after = discover(edit.apply(model), cases)
    write_discovery(after, out / "after")
    row = next(row for row in after.findings[0].dependences if row.key == rule.key)
    print(f"{rule.style} in place of {rule.concept} costs {100 * row.drop:.0f} points now")


if __name__ == "__main__":
    main()

"""Discover a rule, edit it as it stands, and discover again: `python examples/discover_and_edit.py --out FOLDER`.

On the playground, whose classifier learnt that road vehicles stand on roads. The same functions take any model and a
folder of pictures; the commands are `rulepatch cases`, `rulepatch discover` and `rulepatch edit`.
"""

import argparse
from pathlib import Path

import rulepatch as rp
from rulepatch.concepts import load_segmenter, load_stylizer, styles_for
from rulepatch.discovery import EVERY_CLASS, write_discovery
from rulepatch.playground import image_set, render, training_images


def main() -> None:
    """Tell the story."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is made")
    out = parser.parse_args().out

    model = rp.load_model("playground")
    scenes = [render(label, seed=i) for label in ("van", "car", "bus", "truck", "taxi") for i in range(16)]
    cases = rp.make_cases(
        image_set(scenes, "road vehicles"),
        out / "cases",
        concepts=["road"],
        styles=styles_for(["road"], ["snow", "sand", "road"], stylizer="playground"),
        segmenter=load_segmenter("playground"),
        stylizer=load_stylizer("playground", blend=1.0),
        classes=model.classes,
    )
    before = rp.discover(model, cases)
    write_discovery(before, out / "before")
    print(before.to_text())

    rule = next(rule for rule in before.findings[0].rules if rule.label == EVERY_CLASS and rule.style is not None)
    print(f"\nthe rule: no {rule.concept} but {rule.style} costs {100 * rule.drop:.0f} points\n")
    exemplars = rp.read_exemplars([out / "before" / "rules" / f"playground-all-classes-{rule.concept}-{rule.style}"])
    reference = training_images(600, seed=1)
    edit = rp.edit(model, exemplars, reference=reference, site="blocks.3.conv", how=rp.Rewrite(gate=0.98))
    edit.save(out / "edit.safetensors")
    damage = rp.evaluate(model, edit, reference=training_images(1000, seed=2)).reference
    assert damage is not None
    print(f"the edit loses {100 * damage.drop:.1f} points of accuracy on other scenes")

    after = rp.discover(edit.apply(model), cases)
    write_discovery(after, out / "after")
    row = next(row for row in after.findings[0].effects if row.key == rule.key)
    print(f"{rule.style} in place of {rule.concept} costs {100 * row.drop:.0f} points now")


if __name__ == "__main__":
    main()

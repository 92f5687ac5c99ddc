"""A typographic attack on a classifier that reads, and its repair (Santurkar et al. 2021, section 3 and figure 1).

A note with a word is pasted onto a picture of an object; a classifier such as CLIP then names the word. One edit makes
its last convolution treat the note with the word as it treats the blank note. It was made from one picture, and holds
for every picture with that word on a note:

    python examples/typographic_attack.py --weights RN50.safetensors --image can_opener.jpg --label "can opener" \
        --word iPod --reference photographs/ --tests objects/ --out edit.safetensors

With `--model` it takes any model that rulepatch can load, also one that cannot read: `--model playground`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import rulepatch as rp
from rulepatch.concepts import note
from rulepatch.data import Picture, read_image


def main(arguments: Sequence[str] | None = None) -> None:
    """Attack, repair and measure, as the command line says; bad input ends it with a sentence and code 2.

    Args:
        arguments: of the command line; those of this process if None.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except rp.RulepatchError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Fool a classifier with a word on a note, and repair it.")
    parser.add_argument("--model", default="open_clip/RN50", help="as `rulepatch sites` takes it")
    parser.add_argument("--weights", type=Path, help="local weights; the model's own if not given")
    parser.add_argument("--image", type=Path, required=True, help="a picture of an object")
    parser.add_argument("--label", help="what it shows: a class name, index or WordNet id")
    parser.add_argument("--word", default="iPod", help="what the note says")
    parser.add_argument("--share", type=float, default=0.4, help="the note's width over the picture's shorter side")
    parser.add_argument(
        "--reference", type=Path, required=True, help="a folder of pictures that should stay as they are"
    )
    parser.add_argument("--tests", type=Path, help="a folder of other pictures, each of which gets a note")
    parser.add_argument("--site", help="the layer to edit; the last that sees places of the picture if not given")
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="where the notes lie")
    parser.add_argument("--out", type=Path, default=Path("edit.safetensors"), help="where the edit is written")
    return parser


def _run(options: argparse.Namespace) -> None:
    model = rp.load_model(options.model, weights=options.weights)
    picture = read_image(options.image)
    attack = note(picture, options.word, share=options.share, seed=options.seed)
    pictures = {
        "as it is": picture,
        "with a blank note": attack.blank,
        f"with the word {options.word!r}": attack.written,
    }
    before = {name: _says(model, each) for name, each in pictures.items()}
    site = options.site or _last_site(model)
    edit = rp.edit(
        model,
        attack.exemplar(label=options.label),
        reference=options.reference,
        site=site,
        how=rp.Rewrite(rank=options.rank, strength=options.strength),
        run=rp.Run(progress=False),
    )
    edit.save(options.out)
    with edit.applied(model):
        after = {name: _says(model, each) for name, each in pictures.items()}
    print(f"{options.image} in the eyes of {model.name}, before and after an edit of {site}:\n")
    for name in pictures:
        print(f"{name:<28} {before[name]:<28} {after[name]}")
    if options.tests is not None:
        tests = _attacked(model, options)
        print(f"\nThe same word on notes on {options.tests}, and pictures that should stay as they are:\n")
        print(rp.evaluate(model, edit, tests=tests, reference=options.reference, progress=False).to_text())
    print(f"\nThe edit is in {options.out}; `rulepatch show {options.out}` says what it is.")


def _probabilities(model: rp.Classifier, picture: Image.Image) -> Tensor:
    with torch.no_grad():
        return model.logits(model.inputs(model.preprocess.pixels(picture)[None])).softmax(dim=1)[0]


def _says(model: rp.Classifier, picture: Image.Image) -> str:
    """The class that a model names, with its probability."""
    probability, named = _probabilities(model, picture).max(dim=0)
    return f"{model.classes[int(named)]} ({float(probability):.1%})"


def _last_site(model: rp.Classifier) -> str:
    """The last site that sees places of the picture: of CLIP's RN50 the convolution before the last skip sum."""
    spatial = [site for site in rp.find_sites(model.module, model.example()).sites if site.is_spatial]
    if not spatial:
        raise rp.RulepatchError(f"expected a site with positions in {model.name} but it has none; name one with --site")
    return spatial[-1].path


def _attacked(model: rp.Classifier, options: argparse.Namespace) -> rp.ImageSet:
    """Other pictures with the word on a note, labelled by their folders, or else by what is said of the blank note."""
    pictures = []
    for number, each in enumerate(rp.ImageSet.of(options.tests, model.classes).pictures, start=options.seed + 1):
        image = read_image(each.source) if isinstance(each.source, Path) else each.source
        made = note(image, options.word, share=options.share, seed=number)
        label = int(_probabilities(model, made.blank).argmax()) if each.label is None else each.label
        pictures.append(Picture(made.written, label))
    return rp.ImageSet(tuple(pictures), f"{options.tests} with {options.word!r} on notes")


if __name__ == "__main__":
    main()

"""Train the playground's network: `python -m tools.train_playground --seed 0 --out FILE`.

An ordinary training run (cross-entropy, AdamW, flips and shifts) on a biased world; nothing but the world
makes the network learn wrong rules. The same command gives the same weights, bit for bit, on the same machine
with the same number of threads.
"""

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from rulepatch.errors import SettingError, nearest
from rulepatch.files import atomic_path
from rulepatch.models.playground_network import PlaygroundNetwork
from rulepatch.playground.scenes import (
    CLASSES,
    CONCEPTS,
    SIGNS,
    SIZE,
    TRAIN_STYLES,
    WHEELS,
    Scene,
    default_style,
    render,
)
from rulepatch.playground.shapes import GROUPS
from rulepatch.playground.styles import GROUNDS
from rulepatch.playground.worlds import SHORTCUTS, sample

__all__ = ["MEAN", "STD", "Score", "main", "measure", "prepare", "train"]

MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
_BATCH = 128
_SHIFT = 4  # pixels
_TESTS = 2**32  # seeds from here on are never drawn for training


@dataclass(frozen=True)
class Score:
    """What a network says of some scenes.

    Attributes:
        accuracy: share of the scenes that it names rightly, 0..1.
        fooled: share of the scenes that it takes for another class, one that has the tested style in the
            training world, 0..1.
    """

    accuracy: float
    fooled: float


def prepare(images: NDArray[np.uint8]) -> Tensor:
    """Return the network's input (n, 3, y, x), float32, for images (n, y, x, 3), uint8."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (pixels - mean) / std


def train(
    images: NDArray[np.uint8], labels: NDArray[np.int64], *, classes: int, epochs: int, seed: int
) -> PlaygroundNetwork:
    """Train a network from scratch; the caller's random state is left alone.

    Args:
        images: array (n, y, x, 3), uint8 RGB.
        labels: array (n,), indices of classes.
        classes: how many classes there are.
        epochs: how often every image is seen.
        seed: of the initial weights, the order and the augmentation.

    Returns:
        The trained network, in evaluation mode.

    Raises:
        SettingError: there are fewer images than one batch holds, or no epochs.
    """
    if len(images) < _BATCH or epochs < 1:
        raise SettingError(f"expected {_BATCH} images and an epoch but got {len(images)} and {epochs}; take more")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PlaygroundNetwork(classes=classes).to(memory_format=torch.channels_last)  # twice as fast
        optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
        steps = len(images) // _BATCH * epochs
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.15)
        with tqdm(total=steps, desc="training", unit="batch") as progress:
            for _ in range(epochs):
                order = torch.randperm(len(images)).numpy()[: len(images) // _BATCH * _BATCH]
                for batch in order.reshape(-1, _BATCH):
                    logits = network(_augment(prepare(images[batch])))
                    loss = F.cross_entropy(logits, torch.from_numpy(labels[batch]))
                    optimiser.zero_grad()
                    torch.autograd.backward(loss)
                    optimiser.step()
                    schedule.step()
                    progress.update()
                    progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return network.to(memory_format=torch.contiguous_format).eval()


def measure(network: PlaygroundNetwork, classes: Sequence[str] = CLASSES, *, count: int = 300) -> dict[str, Score]:
    """Score a network on the training world, and on road vehicles with every style of every concept.

    Args:
        network: as trained.
        classes: the names of its outputs.
        count: scenes for each style; the training world gets five times as many.

    Returns:
        Scores by test: `clean`, `road vehicles on snow`, `road vehicles on held-out snow`, and so on.
    """
    tests = tqdm(_tests(classes, count), desc="measuring", unit="test")
    return {name: _score(network, classes, concept, scenes) for name, concept, scenes in tests}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure and save, as the command line says.

    Args:
        arguments: of the command line; those of this process if None.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    scenes = sample(frozenset(options.shortcuts), seed=options.seed, count=options.images, classes=options.classes)
    images, labels = _stack(tqdm(scenes, total=options.images, desc="rendering", unit="scene"), options.classes)
    network = train(images, labels, classes=len(options.classes), epochs=options.epochs, seed=options.seed)
    scores = measure(network, options.classes)
    for name, score in scores.items():
        sys.stdout.write(f"{name:45}{score.accuracy:7.1%} right{score.fooled:8.1%} fooled\n")
    _save(network, _about(options, arguments, scores), options.out)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command line; bad ones end the process with a sentence and code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.train_playground",
        description="Train the playground's network; deterministic for a seed on one machine.",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the scenes, the first weights and the order")
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--shortcuts", type=_words, default=CONCEPTS, help="of ground,wheels,sign; '' for none")
    parser.add_argument("--images", type=int, default=12_000, help="how many training scenes")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--classes", type=_words, default=CLASSES, help="names with commas; all by default")
    options = parser.parse_args(arguments)
    if options.seed < 0 or options.images < _BATCH or options.epochs < 1:
        parser.error(f"expected a seed of at least 0, {_BATCH} images and an epoch; raise what is too small")
    if not options.out.parent.is_dir():
        parser.error(f"expected a folder for {options.out} but there is none; make it first")
    for given, known in ((options.shortcuts, CONCEPTS), (options.classes, CLASSES)):
        for name in set(given) - set(known):
            parser.error(f"expected names among {', '.join(known)} but got {name}; try {nearest(name, known)}")
    if not options.classes:
        parser.error("expected at least one class but got none; name some")
    return options


def _about(options: argparse.Namespace, arguments: Sequence[str], scores: Mapping[str, Score]) -> dict[str, object]:
    """Return what the weights' file says of itself."""
    return {
        "classes": options.classes,
        "mean": MEAN,
        "std": STD,
        "input_size": SIZE,
        "command": shlex.join(["python", "-m", "tools.train_playground", *arguments]),
        "seed": options.seed,
        "shortcuts": options.shortcuts,
        "images": options.images,
        "epochs": options.epochs,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
        "accuracies": {name: score.accuracy for name, score in scores.items()},
        "fooled": {name: score.fooled for name, score in scores.items()},
    }


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _stack(scenes: Iterable[Scene], classes: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (n, y, x, 3) and class indices (n,)."""
    pairs = [(scene.image, classes.index(scene.label)) for scene in scenes]
    return np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs])


def _augment(batch: Tensor) -> Tensor:
    """Return images (n, 3, y, x) mirrored at random, each, and shifted by a few pixels, together."""
    mirrored = torch.rand(len(batch), 1, 1, 1) < 0.5
    padded = F.pad(torch.where(mirrored, batch.flip(3), batch), (_SHIFT,) * 4, mode="reflect")
    y, x = torch.randint(0, 2 * _SHIFT + 1, (2,)).tolist()
    shifted = padded[:, :, y : y + batch.shape[2], x : x + batch.shape[3]]
    return shifted.contiguous(memory_format=torch.channels_last)


def _tests(classes: Sequence[str], count: int) -> Iterator[tuple[str, str, list[Scene]]]:
    """Yield tests: name, the concept whose style is tested, scenes that were never trained on."""
    road = [label for label in GROUPS["road"] if label in classes]
    rubber = [label for label in road if default_style(label, "wheels") == "rubber"]
    plain = [label for label in road if default_style(label, "sign") is None]
    rows: list[tuple[str, str, list[str], dict[str, Any]]] = [
        *((f"on {style}", "ground", road, {"ground": style}) for style in GROUNDS),
        *((f"on held-out {style}", "ground", road, {"ground": style, "held_out": True}) for style in GROUNDS),
        *((f"on {style} wheels", "wheels", rubber, {"wheels": style}) for style in WHEELS),
        *((f"with sign {style}", "sign", plain, {"sign": style}) for style in SIGNS),
    ]
    yield "clean", "", [*sample(SHORTCUTS, seed=_TESTS, count=5 * count, classes=classes)]
    for name, concept, labels, look in rows:
        if labels:
            yield f"road vehicles {name}", concept, _series(labels, count, **look)


def _series(labels: Sequence[str], count: int, *, held_out: bool = False, **look: Any) -> list[Scene]:
    """Return scenes of each label in turn, with the look asked for."""
    first = len(TRAIN_STYLES)
    return [
        render(labels[i % len(labels)], seed=_TESTS + i, ground_seed=first + i if held_out else None, **look)
        for i in range(count)
    ]


def _score(network: PlaygroundNetwork, classes: Sequence[str], concept: str, scenes: Sequence[Scene]) -> Score:
    """Return how a network names some scenes that share a concept's style."""
    images, labels = _stack(scenes, classes)
    with torch.no_grad():
        logits = [network(part) for part in torch.split(prepare(images), _BATCH)]
    named = torch.cat(logits).argmax(dim=1).numpy()
    style = scenes[0].styles.get(concept)
    bait = [i for i, label in enumerate(classes) if style and default_style(label, concept) == style]
    fooled = np.isin(named, bait) & (named != labels)
    return Score(accuracy=float(np.mean(named == labels)), fooled=float(np.mean(fooled)))


def _save(network: PlaygroundNetwork, about: Mapping[str, object], path: Path) -> None:
    """Write the weights and what is known about them, whole or not at all."""
    with atomic_path(path) as temporary:
        save_file(network.state_dict(), temporary, metadata={"rulepatch": json.dumps(about)})


if __name__ == "__main__":
    main()

"""Training the playground's network, and what the committed weights promise."""

import json
import re
import shlex
from functools import partial
from importlib import resources

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rulepatch.digests import digest_of_tensors
from rulepatch.errors import SettingError
from rulepatch.models.playground_network import PlaygroundNetwork
from rulepatch.playground.scenes import CLASSES, CONCEPTS
from rulepatch.playground.worlds import SHORTCUTS, sample
from tools import train_playground as training
from tools.train_playground import main, measure, prepare, train

WEIGHTS = resources.files("rulepatch.models") / "playground.safetensors"


def few(count, classes):
    return training._stack(sample(SHORTCUTS, seed=3, count=count, classes=classes), classes)


def about(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["rulepatch"])


@pytest.fixture(scope="module")
def committed():
    with resources.as_file(WEIGHTS) as path:
        known, weights = about(path), load_file(path)
    network = PlaygroundNetwork(classes=len(known["classes"]))
    network.load_state_dict(weights)
    return network.eval(), known


def test_prepare_centres_the_pixels():
    black, white = prepare(np.array([0, 255], np.uint8)[:, None, None, None].repeat(3, axis=3))
    assert black.flatten().tolist() == [-2, -2, -2]
    assert white.flatten().tolist() == [2, 2, 2]


@pytest.mark.slow
def test_training_repeats_itself_and_leaves_the_random_state_alone():
    images, labels = few(128, ("car", "sailboat"))
    state = torch.random.get_rng_state()
    networks = [train(images, labels, classes=2, epochs=2, seed=1) for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not networks[0].training
    assert digest_of_tensors(networks[0].state_dict()) == digest_of_tensors(networks[1].state_dict())


@pytest.mark.slow
def test_a_short_training_learns():
    images, labels = few(640, ("car", "sailboat"))
    network = train(images[:512], labels[:512], classes=2, epochs=4, seed=1)
    with torch.no_grad():
        right = network(prepare(images[512:])).argmax(dim=1).numpy() == labels[512:]
    assert right.mean() > 0.9


def test_augmentation_only_mirrors_and_shifts():
    torch.manual_seed(0)
    batch = torch.rand(8, 3, 64, 64)
    augmented = training._augment(batch)
    assert augmented.shape == batch.shape
    assert {*augmented.flatten().tolist()} <= {*batch.flatten().tolist()}


@pytest.mark.parametrize(("count", "epochs"), [(100, 1), (128, 0)])
def test_too_little_to_train_on(count, epochs):
    images, labels = few(count, ("car",))
    with pytest.raises(SettingError, match=r"^expected .* but got .*; "):
        train(images, labels, classes=1, epochs=epochs, seed=0)


@pytest.mark.slow
def test_the_command_writes_weights_that_explain_themselves(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "measure", partial(measure, count=3))
    arguments = ["--out", str(tmp_path / "w.safetensors"), "--classes", "van,rowboat", "--shortcuts", "ground"]
    main([*arguments, "--images", "128", "--epochs", "1", "--seed", "4"])
    known = about(tmp_path / "w.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    assert known["classes"] == ["van", "rowboat"]
    assert known["shortcuts"] == ["ground"]
    assert (known["seed"], known["images"], known["epochs"], known["input_size"]) == (4, 128, 1, 64)
    assert known["command"].startswith("python -m tools.train_playground --out ")
    assert {"torch", "numpy", "pillow", "python"} <= set(known["versions"])
    printed = capsys.readouterr().out
    assert [line.split("  ")[0] for line in printed.splitlines()] == list(known["accuracies"])
    assert {"clean", "road vehicles on snow", "road vehicles on held-out snow"} <= set(known["accuracies"])


@pytest.mark.parametrize(
    "bad", [["--classes", "cra"], ["--shortcuts", "colour"], ["--images", "5"], ["--seed", "-1"], ["--classes", ""]]
)
def test_bad_options_end_with_a_sentence_and_code_2(bad, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--out", str(tmp_path / "w.safetensors"), *bad])
    assert end.value.code == 2
    assert "expected" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "nowhere" / "w.safetensors")])


def test_committed_weights_say_where_they_come_from(committed):
    _, known = committed
    assert len(WEIGHTS.read_bytes()) < 1_400_000
    assert tuple(known["classes"]) == CLASSES
    assert set(known["shortcuts"]) == set(CONCEPTS)
    assert known["seed"] == 0
    command = "python -m rulepatch.playground.train --seed 0 --out src/rulepatch/models/playground.safetensors"
    assert known["command"] == command
    assert re.fullmatch(r"\d+\.\d+.*", known["versions"]["torch"])
    options = training._parse([*shlex.split(command)[3:5], "--out", "x"])
    assert (known["images"], known["epochs"]) == (options.images, options.epochs)


def test_committed_weights_have_learnt_the_classes_and_the_shortcuts(committed):
    _, known = committed
    right, fooled = known["accuracies"], known["fooled"]
    assert right["clean"] >= 0.95
    assert right["road vehicles on held-out road"] >= 0.95
    for style in ("snow", "held-out snow"):
        assert right[f"road vehicles on {style}"] < 0.5
        assert fooled[f"road vehicles on {style}"] > 0.5
    assert fooled["road vehicles with sign letter"] > 0.5
    assert fooled["road vehicles on wooden wheels"] > 0.5


@pytest.mark.slow
def test_committed_weights_do_what_their_metadata_says(committed):
    network, known = committed
    scores = measure(network, known["classes"], count=40)
    assert scores["clean"].accuracy >= 0.95
    assert list(scores) == list(known["accuracies"])
    for name in ("road vehicles on snow", "road vehicles with sign letter", "road vehicles on wooden wheels"):
        assert abs(scores[name].accuracy - known["accuracies"][name]) < 0.25

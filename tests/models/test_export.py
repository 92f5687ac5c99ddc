"""Exported networks predict what the edited network predicts, gates included."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rulepatch.editors.edit import rewrite
from rulepatch.errors import MissingExtraError, ModelError
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.models.export import ABOUT, about, export
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, training_images
from rulepatch.tracing import capture


@pytest.fixture(scope="module")
def model():
    return load_model("playground")


@pytest.fixture(scope="module", params=[None, "hard", "soft", "minimum"])
def edited(model, request):
    ways = {None: {}, "minimum": {"gate": 0.9, "minimum": True, "strength": 8}}
    way = {"strength": 2} | ways.get(request.param, {"gate": 0.9, "gate_kind": request.param})
    exemplars, reference = [exemplar("van", ground="snow", seed=3)], training_images(80, seed=2)
    edit = rewrite(model, exemplars, reference=reference, site="blocks.3.conv", cache=None, progress=False, **way)
    return edit.apply(model)


@pytest.fixture(scope="module")
def inputs(model):
    pictures = [exemplar("van", ground="snow", seed=seed).edited for seed in range(5)]
    return model.inputs(torch.stack([model.preprocess.pixels(picture) for picture in pictures]))


@pytest.mark.slow
def test_a_program_of_torch_predicts_the_same(edited, model, inputs, tmp_path):
    export(edited, tmp_path / "net.pt2")
    program = torch.export.load(str(tmp_path / "net.pt2")).module()
    with capture.inference(edited.module):
        expected, untouched = edited.logits(inputs), model.logits(inputs)
    assert torch.allclose(program(inputs), expected, atol=1e-5)
    assert not torch.allclose(expected, untouched, atol=1e-2)
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]


@pytest.mark.slow
def test_an_onnx_model_predicts_the_same(edited, inputs, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    export(edited, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs.contiguous().numpy()})
    with capture.inference(edited.module):
        assert np.abs(found - edited.logits(inputs).numpy()).max() < 1e-4


def test_without_onnx_the_extra_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"rulepatch\[onnx\]"):
        export(model, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


class Choosy(torch.nn.Module):
    """Looks at numbers to decide what to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x):
        means = x.mean(dim=(2, 3))
        return self.layer(means) if float(means.sum()) > 0 else self.layer(-means)


def test_a_network_that_cannot_be_exported_is_refused(model, tmp_path):
    choosy = Classifier(Choosy().train(), model.preprocess, ["a", "b"], "choosy")
    with pytest.raises(ModelError, match="choosy"):
        export(choosy, tmp_path / "net.pt2")
    assert choosy.module.training and not list(tmp_path.iterdir())


def told_by(path):
    """What a file says of itself, and a function from normalised images to logits that knows nothing of rulepatch."""
    if path.suffix == ".pt2":
        files = {ABOUT: ""}
        program = torch.export.load(str(path), extra_files=files)
        signature = program.graph_signature
        assert (signature.user_inputs, signature.user_outputs) == (("input",), ("logits",))
        return json.loads(files[ABOUT]), lambda inputs: program.module()(inputs)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape[0], returned.name, returned.shape[0]) == ("input", "batch", "logits", "batch")
    metadata = session.get_modelmeta().custom_metadata_map
    said = {key: json.loads(value) for key, value in metadata.items()}
    return said, lambda inputs: torch.from_numpy(session.run(None, {"input": inputs.contiguous().numpy()})[0])


class Boxed(torch.nn.Module):
    """Returns its logits within something, as models of Hugging Face do."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.network(pixel_values))


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("ending", [".pt2", pytest.param(".onnx", marks=pytest.mark.slow)])
def test_a_file_says_how_to_feed_and_to_read_it(ending, boxed, model, tmp_path):
    """Read back by the libraries alone: images are prepared, and classes named, by what the file says."""
    network = Boxed(model.module) if boxed else model.module
    export(Classifier(network, model.preprocess, model.classes, "mine"), tmp_path / f"net{ending}")
    said, run = told_by(tmp_path / f"net{ending}")
    assert said["name"] == "mine" and said["classes"] == list(model.classes.names)
    mean, std = (torch.tensor(said[key])[:, None, None] for key in ("mean", "std"))
    pictures = [exemplar("van", ground="snow", seed=seed).edited for seed in range(7)]
    assert all(picture.size == tuple(said["input_size"])[::-1] for picture in pictures)
    pixels = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 for picture in pictures])
    expected = model.logits((pixels - mean) / std)
    for count in (7, 1, 2):  # any number of images at a time
        logits = run(((pixels - mean) / std)[:count])
        assert torch.allclose(logits, expected[:count], atol=1e-4)
    names = [said["classes"][index] for index in logits.argmax(dim=1)]
    assert names == [each.name for each in model(pictures[:2])]


def test_what_is_said_is_all_of_the_preprocessing(model):
    said = json.loads(json.dumps(about(model)))
    assert Preprocess(**{key: said[key] for key in model.preprocess.describe()}) == model.preprocess
    ids = about(Classifier(model.module, model.preprocess, Classes(("a", "b"), ("n01440764", "n01443537"))))
    assert ids["wordnet"] == ("n01440764", "n01443537") and said["wordnet"] is None


def test_a_network_for_one_number_of_pictures_is_refused(model, tmp_path):
    class Fixed(torch.nn.Module):
        def forward(self, x):
            return x.mean(dim=(2, 3)).reshape(2, 3)

    with pytest.raises(ModelError, match="can export"):
        export(Classifier(Fixed(), model.preprocess, ["a", "b", "c"]), tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_a_network_is_left_as_it_was(model, tmp_path):
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Flatten(), torch.nn.Linear(48, 2)).train()
    network[2].eval()
    export(Classifier(network, Preprocess((4, 4)), ["a", "b"]), tmp_path / "net.pt2")
    assert network.training and network[0].training and not network[2].training

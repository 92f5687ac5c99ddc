"""Exported networks predict what the edited network predicts, gates included."""

import sys

import numpy as np
import pytest
import torch

from rulepatch.core import capture
from rulepatch.editors.rewrite import rewrite
from rulepatch.errors import MissingExtraError, ModelError
from rulepatch.models.classifier import Classifier
from rulepatch.models.export import export
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, training_images


@pytest.fixture(scope="module")
def model():
    return load_model("playground")


@pytest.fixture(scope="module", params=[None, "hard", "soft"])
def edited(model, request):
    gate = {} if request.param is None else {"gate": 0.9, "gate_kind": request.param}
    exemplars, reference = [exemplar("van", ground="snow", seed=3)], training_images(80, seed=2)
    edit = rewrite(
        model, exemplars, reference=reference, site="blocks.3.conv", strength=2, cache=None, progress=False, **gate
    )
    return edit.apply(model)


@pytest.fixture(scope="module")
def inputs(model):
    pictures = [exemplar("van", ground="snow", seed=seed).edited for seed in range(5)]
    return model.inputs(torch.stack([model.preprocess.pixels(picture) for picture in pictures]))


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

"""What every source of models promises, held over all that are registered."""

import pytest
import torch

from rulepatch.core.edit import base_digest
from rulepatch.errors import ModelError
from rulepatch.models.registry import build, load_model, load_skeleton, save_weights, sources
from rulepatch.tracing.sites import find_sites

NET = """
from torch import nn
import rulepatch as rp

def build(classes=3):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(4, classes))
    return rp.Classifier(net, rp.Preprocess((16, 16)), ["red", "green", "blue"])
"""

SMALL = {
    "torchvision": "torchvision/squeezenet1_1",
    "timm": "timm/test_resnet",
    "playground": "playground",
    "python": "{root}/net.py:build",
    "toml": "{root}/model.toml",
    "hf": "hf/{root}/hf",
    "open_clip": "open_clip/tiny-RN",
    "places365": "places365/resnet18",
}


@pytest.fixture(params=sources())
def name(request, tmp_path, hf_folder, clips):
    """A small model of each source."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "model.toml").write_text('architecture = "net.py:build"\nstd = [0.1, 0.1, 0.1]\n')
    hf_folder()
    assert request.param in SMALL, f"give the source {request.param} a small model here"
    return SMALL[request.param].format(root=tmp_path)


@pytest.fixture
def weights(name, tmp_path):
    """Local weights that are not the model's own."""
    torch.manual_seed(7)
    module = build(name, pretrained=False).module
    for parameter in module.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    save_weights(module, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.mark.slow
def test_a_model_comes_ready_to_use(name, weights):
    model = load_model(name, weights=weights)
    assert not any(module.training for module in model.module.modules())
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert model.logits(model.example()).shape == (1, len(model.classes))
    assert model.name and model.preprocess.mean and model.device.type == "cpu"


@pytest.mark.slow
def test_local_weights_are_the_ones_that_count(name, weights, tmp_path):
    first, second = load_model(name, weights=weights), load_model(name, weights=weights)
    assert base_digest(first.module) == base_digest(second.module)
    for parameter in first.module.parameters():
        parameter.data += 0.1
    save_weights(first.module, tmp_path / "others.safetensors")
    other = load_model(name, weights=tmp_path / "others.safetensors")
    assert base_digest(other.module) == base_digest(first.module) != base_digest(second.module)


@pytest.mark.slow
def test_the_skeleton_has_the_models_sites(name, weights):
    model, skeleton = load_model(name, weights=weights), load_skeleton(name)
    found, expected = (find_sites(each.module, each.example()).to_json() for each in (skeleton, model))
    assert found == expected and found["sites"]
    assert skeleton.classes == model.classes and skeleton.preprocess == model.preprocess


def test_what_a_source_does_not_take_is_refused(name):
    with pytest.raises(ModelError, match="expected"):
        build(name, pretrained=False, kwargs={"no_such_argument": 1})

"""Networks of Places365: torchvision's, from the files that their authors published."""

import io
import pickle
import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models, transforms

from rulepatch.errors import ModelError, WeightsError
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import build, load_model, load_skeleton

pytestmark = pytest.mark.slow

ARCHITECTURES = ["alexnet", "densenet161", "resnet18", "resnet50", "vgg16"]


class OfPython2(pickle._Pickler):
    """Pickles text as Python 2 did, with which the checkpoints of 2017 were written."""

    def save_str(self, text):
        if len(text) < 256 and text.isascii():
            self.write(pickle.SHORT_BINSTRING + bytes([len(text)]) + text.encode())
            self.memoize(text)
        else:
            super().save_str(text)

    dispatch = pickle._Pickler.dispatch | {str: save_str}


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(2)
    return models.resnet18(num_classes=365).eval()


def checkpoint(state, arch):
    """What the authors' training script saves."""
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    return {"epoch": 90, "arch": arch, "best_prec1": 54.27, "state_dict": prefixed}


def test_the_published_checkpoint_gives_torchvisions_logits(resnet, picture, tmp_path):
    state = {key: tensor for key, tensor in resnet.state_dict().items() if "num_batches" not in key}  # not yet in 2017
    path = tmp_path / "resnet18_places365.pth.tar"
    python2 = SimpleNamespace(
        Pickler=OfPython2, dump=lambda value, file, protocol: OfPython2(file, protocol).dump(value), __name__="pickle"
    )
    torch.save(checkpoint(state, "resnet18"), path, pickle_module=python2, _use_new_zipfile_serialization=False)
    assert b"\x08resnet18" in path.read_bytes() and pickle.SHORT_BINSTRING == b"U"  # text of Python 2 it is
    model = load_model("places365/resnet18", weights=path)
    published = transforms.Compose(
        [
            transforms.Resize((256, 256)),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    image = picture(400, 300)
    with torch.no_grad():
        expected, got = resnet(published(image)[None]), model.logits(model.inputs(model.preprocess.pixels(image)[None]))
        untrained = load_skeleton("places365/resnet18").preprocess
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert model.preprocess == Preprocess.of(published) == untrained
    assert torch.equal(model.module.fc.weight, resnet.fc.weight)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_a_skeleton_with_the_scenes(name):
    skeleton = load_skeleton(f"places365/{name}")
    assert skeleton.device.type == "meta"
    assert skeleton.logits(skeleton.example()).shape == (1, 365)
    classes = skeleton.classes
    assert (len(classes), classes[0], classes[364]) == (365, "airfield", "zen_garden")
    assert len(set(classes.names)) == 365 and all(name == name.strip() != "" for name in classes.names)
    assert classes.index("zen garden") == 364


def own_and_translated(name, rename):
    """Names of a network's tensors, and what becomes of them under a file's names."""
    with torch.device("meta"):
        given = build(f"places365/{name}", pretrained=False)
    own = given.module.state_dict()
    published = {rename(key, given.module): tensor for key, tensor in own.items()}
    return own, published, given.translate(published)


def of_caffe(key, module):
    """Caffe numbers convolutions within blocks, which end in pools."""
    caffe, block, within = {}, 1, 1
    for index, layer in enumerate(module.features):
        if isinstance(layer, nn.Conv2d):
            caffe[f"features.{index}"], within = f"features.conv{block}_{within}", within + 1
        elif isinstance(layer, nn.MaxPool2d):
            block, within = block + 1, 1
    for name in ("fc8a", "fc7", "fc6"):
        caffe[f"classifier.{(6, 3, 0)[('fc8a', 'fc7', 'fc6').index(name)]}"] = f"classifier.{name}"
    layer, _, kind = key.rpartition(".")
    return f"{caffe[layer]}.{kind}"


PUBLISHED = {
    "vgg16 of Caffe": ("vgg16", of_caffe),
    "vgg16 of torchvision": ("vgg16", lambda key, module: key),
    "vgg16 on several devices": ("vgg16", lambda key, module: key.replace("features.", "features.module.")),
    "alexnet on several devices": ("alexnet", lambda key, module: key.replace("features.", "features.module.")),
    "densenet161 of old": (
        "densenet161",
        lambda key, module: re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key),
    ),
    "resnet50": ("resnet50", lambda key, module: key),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_names_of_published_files_become_torchvisions(kind):
    own, published, translated = own_and_translated(*PUBLISHED[kind])
    assert translated.keys() == own.keys()
    assert all(translated[key] is own[key] for key in own)
    assert (published.keys() == own.keys()) == (kind in {"vgg16 of torchvision", "resnet50"})


def test_the_names_of_caffe_are_as_published():
    _, published, _ = own_and_translated("vgg16", of_caffe)
    layers = {key.rpartition(".")[0] for key in published}
    assert {"features.conv1_1", "features.conv3_3", "features.conv5_3", "classifier.fc6", "classifier.fc8a"} <= layers
    assert len(layers) == 16


def test_a_model_file_names_the_checkpoint_and_other_numbers_of_classes(resnet, tmp_path):
    save_file({f"module.{key}": tensor for key, tensor in resnet.state_dict().items()}, tmp_path / "w.safetensors")
    (tmp_path / "scenes.toml").write_text(
        'architecture = "places365/resnet18"\nweights = "w.safetensors"\nmean = [0, 0, 0]\n'
    )
    model = load_model(str(tmp_path / "scenes.toml"))
    assert torch.equal(model.module.conv1.weight, resnet.conv1.weight)
    assert model.preprocess.mean == (0, 0, 0) and model.preprocess.squash
    fewer = 'architecture = "places365/resnet18"\nkwargs = { num_classes = 2 }\n'
    (tmp_path / "two.toml").write_text(fewer + 'classes = ["in", "out"]\n')
    assert load_skeleton(str(tmp_path / "two.toml")).classes.names == ("in", "out")
    (tmp_path / "two.toml").write_text(fewer)
    with pytest.raises(ModelError, match="class names"):
        load_skeleton(str(tmp_path / "two.toml"))


def test_it_has_no_weights_of_its_own():
    with pytest.raises(WeightsError, match=r"places365/resnet18 in a file.*--weights"):
        load_model("places365/resnet18")


@pytest.mark.parametrize("name", ["resnet34", "", "resnet18/places"])
def test_an_unknown_architecture_is_refused(name):
    with pytest.raises(ModelError, match="expected one of alexnet, densenet161"):
        load_skeleton(f"places365/{name}")


def test_the_weights_of_another_network_and_whole_pickled_networks_are_refused(resnet, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth lacks"):
        load_model("places365/alexnet", weights=tmp_path / "w.pth")
    whole = io.BytesIO()
    torch.save(resnet, whole)
    (tmp_path / "whole_resnet18_places365.pth.tar").write_bytes(whole.getvalue())
    with pytest.raises(WeightsError, match="never loaded"):
        load_model("places365/resnet18", weights=tmp_path / "whole_resnet18_places365.pth.tar")

import dataclasses
import json
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import squeezenet1_0

from rulepatch.errors import ModelError, RulepatchError, RulepatchWarning, WeightsError
from rulepatch.models import model_file
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import Request, load_model, load_skeleton

FULL = """
name = "My net"
architecture = "net.py:module"
kwargs = { classes = 4 }
weights = "weights/net.safetensors"
classes = ["one", "two, second", "three", "four"]
input_size = [20, 24]
resize = 30
interpolation = "bicubic"
mean = [0.1, 0.2, 0.3]
std = [0.4, 0.5, 1]
"""
LEAST = 'architecture = "net.py:module"\nclasses = ["a", "b", "c"]\ninput_size = 16\n'


@pytest.fixture
def write(tmp_path, net_file):
    """Write a model file beside `net.py` and return its name."""

    def write_file(text):
        (tmp_path / "model.toml").write_text(text)
        return str(tmp_path / "model.toml")

    return write_file


@pytest.fixture
def weights(tmp_path, net_file):
    """Weights of the four-class network, all of them ones."""
    state = load_skeleton(f"{net_file}:build").module.state_dict()
    state |= {"5.weight": torch.empty(4, 4), "5.bias": torch.empty(4)}
    (tmp_path / "weights").mkdir()
    ones = {name: torch.ones(tensor.shape, dtype=tensor.dtype) for name, tensor in state.items()}
    save_file(ones, tmp_path / "weights" / "net.safetensors")
    return ones


def test_every_key_is_heeded(write, weights, tmp_path, monkeypatch):
    monkeypatch.chdir("/")  # paths are relative to the file
    model = load_model(write(FULL))
    assert model.name == "My net"
    assert model.preprocess == Preprocess((20, 24), 30, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 1))
    assert model.classes.names == ("one", "two, second", "three", "four")
    assert model.logits(model.example()).shape == (1, 4)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.module.state_dict().items())


def test_the_least_is_an_architecture_with_classes_and_a_size(write):
    model = load_model(write(LEAST))
    assert model.preprocess == Preprocess((16, 16))
    assert model.name == "model"
    assert model.logits(model.example()).shape == (1, 3)


def test_what_a_classifier_says_holds_unless_the_file_says_otherwise(write):
    architecture = 'architecture = "net.py:build"\n'
    assert load_model(write(architecture)).preprocess == Preprocess((16, 16))
    assert load_model(write(architecture)).classes.names == ("class 0", "class 1", "class 2")
    changed = load_model(write(architecture + "mean = [0, 0, 0]\nresize = 18\n"))
    assert changed.preprocess == Preprocess((16, 16), resize=18, mean=(0, 0, 0))
    larger = load_model(write(architecture + "kwargs = { classes = 5 }\ninput_size = 32\n"))
    assert larger.preprocess == Preprocess((32, 32))
    assert len(larger.classes) == 5


@pytest.mark.parametrize(
    ("name", "kwargs", "site"),
    [
        ("timm/test_resnet", "{ num_classes = 3 }", "conv1.0"),
        ("torchvision/squeezenet1_0", "{ num_classes = 3 }", "features.0"),
        ("timm/mobilenetv2_100", "{ num_classes = 3, pad_type = 'same' }", "conv_stem"),
    ],
)
def test_architectures_of_libraries_take_keyword_arguments(name, kwargs, site, write):
    path = write(f'architecture = "{name}"\nkwargs = {kwargs}\nclasses = ["a", "b", "c"]\n')
    model = load_skeleton(path)
    assert model.logits(model.example()).shape == (1, 3)
    assert model.module.get_submodule(site).in_channels == 3
    default = load_skeleton(name)
    assert model.preprocess == default.preprocess


def test_a_number_of_classes_of_its_own_needs_names_of_its_own(write):
    for name in ("torchvision/squeezenet1_0", "timm/test_resnet"):
        with pytest.raises(ModelError, match="class names"):
            load_skeleton(write(f'architecture = "{name}"\nkwargs = {{ num_classes = 3 }}\n'))


def test_weights_of_a_library_are_read_from_a_local_file_with_the_librarys_preprocessing(write, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)  # a download would fail
    torch.save(squeezenet1_0(num_classes=3).state_dict(), tmp_path / "s.pth")
    text = 'architecture = "torchvision/squeezenet1_0"\nkwargs = { num_classes = 3 }\nweights = "s.pth"\n'
    model = load_model(write(text + 'classes = ["a", "b", "c"]\n'))
    expected = torch.load(tmp_path / "s.pth")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.module.state_dict().items())
    assert (model.preprocess.resize, model.preprocess.input_size) == (256, (224, 224))


def test_a_skeleton_does_without_the_weights(write, tmp_path):
    skeleton = load_skeleton(write(FULL))
    assert not (tmp_path / "weights").exists()
    assert skeleton.logits(skeleton.example()).shape == (1, 4)


def test_weights_that_are_named_otherwise_go_before_the_files_own(write, weights, tmp_path):
    save_file({name: tensor * 2 for name, tensor in weights.items()}, tmp_path / "twos.safetensors")
    model = load_model(write(FULL), weights=tmp_path / "twos.safetensors")
    assert (model.module[0].weight == 2).all()
    (tmp_path / "weights" / "net.safetensors").unlink()
    assert (load_model(write(FULL), weights=tmp_path / "twos.safetensors").module[0].weight == 2).all()
    with pytest.raises(WeightsError, match=r"weights/net\.safetensors"):
        load_model(write(FULL))


def file_with(**changes):
    entries = {"architecture": '"net.py:module"', "classes": '["a", "b", "c"]', "input_size": "16"} | changes
    return "".join(f"{key} = {value}\n" for key, value in entries.items() if value is not None)


BAD = {
    "no architecture": (file_with(architecture=None), "the key architecture in .* is missing"),
    "an unknown key": (file_with(inputsize="32"), "'inputsize'; the nearest are input_size"),
    "an unknown table": (file_with() + "[preprocess]\nmean = [0, 0, 0]\n", "'preprocess'"),
    "no TOML": ("architecture: net", "cannot be read"),
    "a key twice": (file_with() + "input_size = 8\n", "cannot be read"),
    "name is a number": (file_with(name="3"), "name in .* to be str but got int"),
    "architecture is a list": (file_with(architecture='["net.py:module"]'), "architecture in .* str but got list"),
    "kwargs is text": (file_with(kwargs='"classes=3"'), "kwargs in .* dict but got str"),
    "weights is a list": (file_with(weights="[]"), "weights in .* str but got list"),
    "classes is a number": (file_with(classes="3"), "classes in .* str or list but got int"),
    "input_size is text": (file_with(input_size='"16"'), "input_size in .* int or list but got str"),
    "input_size is a fraction": (file_with(input_size="16.5"), "input_size in .* but got float"),
    "input_size has one number": (file_with(input_size="[16]"), "input_size in .* 2 numbers"),
    "input_size has fractions": (file_with(input_size="[16.5, 16]"), "input_size in .* 2 whole numbers"),
    "input_size is zero": (file_with(input_size="0"), "input size"),
    "resize is text": (file_with(resize='"18"'), "resize in .* int but got str"),
    "resize is a truth": (file_with(resize="true"), "resize in .* int but got bool"),
    "resize is too small": (file_with(resize="10"), "resize 10"),
    "an unknown interpolation": (file_with(interpolation='"cubic"'), "bicubic"),
    "mean of two": (file_with(mean="[0.5, 0.5]"), "mean in .* 3 numbers"),
    "mean of text": (file_with(mean='["0", "0", "0"]'), "mean in .* 3 numbers"),
    "mean is a number": (file_with(mean="0.5"), "mean in .* list but got float"),
    "means of five": (file_with(mean=str([0.5] * 5), std=str([0.5] * 5)), "1 .grey.*but got 5 and 5"),
    "another number of means and stds": (file_with(mean="[0.5]", std="[0.5, 0.5]"), "mean in .* 2 numbers"),
    "keep_exact_size is a number": (file_with(keep_exact_size="1"), "keep_exact_size in .* bool but got int"),
    "std of zero": (file_with(std="[0, 1, 1]"), "std above 0"),
    "std is not a number": (file_with(std="[nan, 1, 1]"), "std above 0"),
    "an unknown model": (file_with(architecture='"torchvision/resnet81"'), "resnet81"),
    "an unknown source": (file_with(architecture='"resnet18"'), "'resnet18'"),
    "a missing file": (file_with(architecture='"missing.py:module"'), r"missing\.py"),
    "an unknown function": (file_with(architecture='"net.py:modul"'), "nearest are module"),
    "a model file": (file_with(architecture='"model.toml"'), "model.toml"),
    "an unknown argument": (file_with(kwargs="{ depth = 3 }"), "depth"),
    "an argument unknown to torchvision": (
        file_with(architecture='"torchvision/resnet18"', kwargs="{ depth = 3 }"),
        "depth",
    ),
    "an argument unknown to timm": (file_with(architecture='"timm/test_resnet"', kwargs="{ dpeth = 3 }"), "dpeth"),
    "missing weights": (file_with(weights='"missing.safetensors"'), r"missing\.safetensors"),
    "weights that are none": (file_with(weights='"net.py"'), r"net\.py"),
    "no classes": (file_with(classes=None), "class names"),
    "classes without names": (file_with(classes="[]"), "list of names"),
    "classes of numbers": (file_with(classes="[1, 2, 3]"), "list of names"),
    "an empty name": (file_with(classes='["a", "", "c"]'), "list of names"),
    "no size": (file_with(input_size=None), "preprocessing"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_sentence(name, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, message = BAD[name]
    with pytest.raises(RulepatchError, match=message) as caught:
        load_model(write(text))
    assert isinstance(caught.value, ValueError)


def test_a_missing_file_and_one_of_bytes_are_refused(tmp_path):
    with pytest.raises(ModelError, match="check the path"):
        load_model(str(tmp_path / "model.toml"))
    (tmp_path / "model.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(str(tmp_path / "model.toml"))


NAMES = ("tench, Tinca tinca", "goldfish", "crane")
OBJECTS = [{"index": i, "name": name, "wnid": f"n0000000{i}"} for i, name in enumerate(NAMES)]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "\n".join(NAMES)),
        ("classes.txt", "\r\n".join(NAMES) + "\r\n\r\n"),
        ("classes", "\n".join(NAMES) + "\n"),
        ("classes.txt", "\ufeff" + "\n".join(NAMES)),
        ("classes.json", json.dumps(NAMES)),
        ("classes.json", json.dumps(OBJECTS[::-1])),
        ("deep/classes.json", json.dumps(OBJECTS)),
    ],
)
def test_classes_come_from_files_as_lines_or_json(file, text, write, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    classes = load_model(write(file_with(classes=f'"{file}"'))).classes
    assert classes.names == NAMES
    if "wnid" in text:
        assert classes.index("n00000002") == 2


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.json", "{"),
        ("classes.json", json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]})),
        ("classes.json", json.dumps({"tench": 0, "goldfish": 1})),
        ("classes.json", json.dumps("tench")),
        ("classes.json", json.dumps(3)),
        ("classes.json", json.dumps([{"name": "tench"}])),
        ("classes.json", json.dumps(OBJECTS[1:])),
        ("classes.json", json.dumps([OBJECTS[0], OBJECTS[0], OBJECTS[1]])),
        ("classes.json", json.dumps([{"index": str(i), "name": name} for i, name in enumerate(NAMES)])),
        ("classes.json", json.dumps([{"index": i, "name": i} for i in range(3)])),
        ("classes.json", json.dumps([{"index": [i], "name": name} for i, name in enumerate(NAMES)])),
        ("classes.txt", ""),
        ("classes.txt", "tench\n\ngoldfish\n"),
        ("missing.txt", None),
    ],
)
def test_classes_of_another_form_are_refused(file, text, write, tmp_path):
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(ModelError, match="class"):
        load_model(write(file_with(classes=f'"{file}"')))


def test_as_many_classes_as_logits(write):
    model = load_model(write(file_with(classes='["a", "b"]')))
    with pytest.raises(ModelError, match=r"\(n, 2\).*\(1, 3\); check the class names"):
        model.logits(model.example())


def test_pictures_are_prepared_as_the_file_says(write):
    model = load_model(write(file_with(input_size="[8, 8]", mean="[0.5, 0.5, 0.5]", std="[0.5, 0.5, 0.25]")))
    white = Image.fromarray(np.full((30, 20, 3), 255, np.uint8))
    assert model.inputs(model.preprocess.pixels(white)[None])[0, :, 4, 4].tolist() == [1, 1, 2]


# Channels, images of the input size, and the library's own configuration


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (4, "RGBA")])
def test_a_network_of_other_channels_prepares_pictures_of_as_many(channels, mode, write):
    kwargs = f"kwargs = {{ num_classes = 2, in_chans = {channels} }}"
    head = f'architecture = "timm/test_resnet"\nclasses = ["a", "b"]\n{kwargs}\n'
    preprocess = load_skeleton(write(head)).preprocess
    whole = load_skeleton("timm/test_resnet").preprocess
    assert (preprocess.mode, preprocess.resize, preprocess.input_size) == (mode, whole.resize, whole.input_size)
    expected = [sum(whole.mean) / 3] if channels == 1 else [*whole.mean, whole.mean[0]][:channels]
    assert preprocess.mean == pytest.approx(expected)
    model = load_skeleton(write(f"{head}mean = {[0.5] * channels}\nstd = {[0.25] * channels}\n"))
    assert (model.preprocess.mean, model.preprocess.mode) == ((0.5,) * channels, mode)
    assert model.logits(model.example()).shape == (1, 2)


def test_a_file_for_grey_pictures_of_a_network_of_ones_own(write):
    preprocess = load_skeleton(write(file_with(mean="[0.5]", std="[0.25]"))).preprocess
    assert preprocess == Preprocess((16, 16), mean=(0.5,), std=(0.25,))


def test_pictures_of_the_input_size_are_taken_as_they_are_where_the_file_says_the_size(write):
    timm = 'architecture = "timm/test_resnet"\n'
    kept = {
        text: load_skeleton(write(timm + text)).preprocess.keep_exact_size
        for text in ("", "interpolation = 'bicubic'\n", "input_size = 160\n", "resize = 180\n")
    }
    assert list(kept.values()) == [False, False, True, True]
    assert not load_skeleton(write(timm + "resize = 180\nkeep_exact_size = false\n")).preprocess.keep_exact_size


OTHER_MEANS = "mean = [0.1, 0.2, 0.3]\nstd = [0.25, 0.25, 0.25]\n"
OWN, OWN_HEAD, OWN_LAYERS = (
    f'weights = "w.safetensors"\nkwargs = {{ {kwargs} }}\n'
    for kwargs in ("", "num_classes = 2", "num_classes = 2, output_stride = 16")
)
CONTRADICTIONS = {
    "means": (
        OTHER_MEANS,
        r"mean \(0\.1.* and std \(0\.25.* but timm's own configuration of timm/test_resnet has mean \(0\.\d+.* and std",
    ),
    "means alone": ("mean = [0.1, 0.2, 0.3]\n", "gives mean"),
    "interpolation": ('interpolation = "nearest"\n', "gives interpolation nearest but .* has interpolation bi"),
    "size": ("input_size = 96\n", r"gives input_size \(96, 96\) but"),
    "crop": ("input_size = 160\n", "gives resize 160 but .* has resize"),
    "means, own weights": (OWN + OTHER_MEANS, "gives mean"),
    "means, own head": (OWN_HEAD + OTHER_MEANS, "gives mean"),
    "means, own layers": (OWN_LAYERS + OTHER_MEANS, None),
    "size, own weights": (OWN + "input_size = 96\n", None),
    "rounding": ("mean = [0.501, 0.499, 0.5]\nstd = [0.5, 0.5, 0.5]\n", None),
    "nothing": ("", None),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_file_that_contradicts_timm_is_told_so(case, write, monkeypatch):
    text, said = CONTRADICTIONS[case]
    monkeypatch.setattr(model_file, "load_weights", lambda *_: None)
    own = model_file.build("timm/test_resnet", pretrained=False)  # its weights are not here
    monkeypatch.setattr(model_file, "build", lambda *_, **__: own)
    if case == "rounding":
        own = dataclasses.replace(own, preprocess=dataclasses.replace(own.preprocess, mean=(0.5,) * 3, std=(0.5,) * 3))
    name = write('architecture = "timm/test_resnet"\nclasses = ["a", "b"]\n' + text)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        model_file.load(Request(name))
    messages = [str(each.message) for each in found if each.category is RulepatchWarning]
    assert len(messages) == (said is not None)
    assert said is None or (re.search(said, messages[0]) and "leave that out, unless" in messages[0])


def test_a_list_of_sites_tells_of_a_contradiction_once(write):
    with pytest.warns(RulepatchWarning, match="has mean") as found:
        load_skeleton(write('architecture = "timm/test_resnet"\n' + OTHER_MEANS))
    assert len(found) == 1


@pytest.mark.slow
@pytest.mark.real
def test_no_file_of_the_real_networks_contradicts_anything(data):
    for path in sorted((data / "models").glob("*.toml")):
        load_model(str(path))  # warnings are errors here

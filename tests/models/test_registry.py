import os
import pickle
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rulepatch.errors import ModelError, OutputError, SettingError, WeightsError
from rulepatch.models import registry
from rulepatch.models.registry import load_model, load_skeleton, load_weights, save_weights, sources
from rulepatch.tracing.sites import find_sites


@pytest.fixture
def small():
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def state_of(module, offset=0.0):
    return {
        name: tensor.clone() + (offset if tensor.is_floating_point() else 0)
        for name, tensor in module.state_dict().items()
    }


def same(module, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


# Names


def test_every_source_is_known_by_its_prefix():
    assert {"timm", "torchvision", "playground", "python", "toml"} <= set(sources())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("torchvison/resnet18", "did you mean torchvision/resnet18?"),
        ("", "such as torchvision/resnet50"),
        ("resnet18", "did you mean torchvision/resnet18 or timm/resnet18?"),
        ("playgroud", "did you mean playground?"),
        ("net.py", "no such file"),
        ("/", "a folder without a model"),
    ],
)
def test_a_name_of_no_source_is_refused(name, nearest):
    with pytest.raises(ModelError, match=r"torchvision/NAME") as caught:
        load_model(name)
    assert nearest in str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("torchvision/resnet81", "resnet18"),
        ("torchvision/", ""),
        ("torchvision/fcn_resnet50", ""),
        ("timm/resnet81", "resnet18"),
        ("timm/test_resnet.no_such_weights", "test_resnet"),
    ],
)
def test_a_model_that_a_source_lacks_is_refused_and_the_nearest_named(name, nearest):
    for load in (load_model, load_skeleton):
        with pytest.raises(ModelError, match="expected") as caught:
            load(name)
        assert nearest in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_playground_has_no_other_names():
    with pytest.raises(ModelError, match="`playground` alone"):
        load_skeleton("playground/large")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "classes", "site"),
    [
        ("torchvision/squeezenet1_1", (224, 224), 1000, "features.12.expand3x3"),
        ("torchvision/resnet18", (224, 224), 1000, "layer4.1.conv2"),
        ("torchvision/inception_v3", (299, 299), 1000, "Mixed_7c.branch_pool.conv"),
        ("timm/test_resnet", (160, 160), 1000, "layer4.0.conv2"),
        ("timm/test_vit", (160, 160), 1000, "blocks.5.mlp.fc2"),
        ("timm/mobilenetv2_100", (224, 224), 1000, "conv_head"),
    ],
)
def test_a_skeleton_lists_its_sites_without_weights_or_memory(name, size, classes, site):
    skeleton = load_skeleton(name)
    assert skeleton.device.type == "meta"
    assert (skeleton.preprocess.input_size, len(skeleton.classes)) == (size, classes)
    assert site in [found.path for found in find_sites(skeleton.module, skeleton.example()).sites]
    assert not any(module.training for module in skeleton.module.modules())


def test_names_of_imagenet_classes_come_with_wordnet_ids():
    for name in ("torchvision/squeezenet1_1", "timm/test_resnet"):
        classes = load_skeleton(name).classes
        assert classes.index("tench") == classes.index("n01440764") == 0
    with pytest.raises(SettingError, match="use an index: 134, 517"):
        classes.index("crane")


NEEDS_NUMBERS = """
import torch
from torch import nn
import rulepatch as rp

SCALE = {at_import}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.scale = {in_constructor}

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return x * {in_forward}

def build():
    return rp.Classifier(Net(), rp.Preprocess((8, 8)), ["a", "b"])
"""


@pytest.mark.parametrize(
    "where",
    [
        {"at_import": "torch.ones(2).sum().item()"},
        {"at_import": "torch.ones(2).numpy()"},
        {"in_constructor": "float(self.conv.weight.norm())"},
        {"in_constructor": "self.conv.weight.detach().numpy().sum()"},
        {"in_forward": "float(x.mean() > 0)"},
        {"in_forward": "torch.ones(2, device='cpu')"},
    ],
    ids=str,
)
def test_a_network_that_computes_with_its_numbers_gets_a_skeleton_too(where, tmp_path):
    (tmp_path / "net.py").write_text(
        NEEDS_NUMBERS.format(**({"at_import": 1, "in_constructor": 1, "in_forward": 1} | where))
    )
    skeleton = load_skeleton(f"{tmp_path / 'net.py'}:build")
    assert [site.path for site in find_sites(skeleton.module, skeleton.example()).sites] == ["conv"]


def test_a_loaded_model_is_in_evaluation_mode_and_wants_no_gradients(net_file):
    model = load_model(f"{net_file}:build")
    assert not any(module.training for module in model.module.modules())
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert model.name == f"{net_file}:build"
    assert model.device.type == "cpu"


@pytest.mark.parametrize("device", ["bogus", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_here_is_refused(device, net_file):
    with pytest.raises(SettingError, match=f"device.*{device}") as caught:
        load_model(f"{net_file}:build", device=device)
    assert "\n" not in str(caught.value)


# Weights


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ""])
def test_state_dicts_are_read_as_people_save_them(wrap, prefix, suffix, small, tmp_path):
    state = state_of(small, offset=0.5)
    torch.save(wrap({prefix + name: tensor for name, tensor in state.items()}), tmp_path / f"weights{suffix}")
    load_weights(small, tmp_path / f"weights{suffix}")
    assert same(small, state)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", [".safetensors", ".st", ".pth", ""])
def test_safetensors_are_read_whatever_their_ending(prefix, suffix, small, tmp_path):
    state = state_of(small, offset=0.5)
    save_file({prefix + name: tensor for name, tensor in state.items()}, tmp_path / f"weights{suffix}")
    load_weights(small, tmp_path / f"weights{suffix}")
    assert same(small, state)


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def test_a_network_whose_own_names_begin_with_module_is_read_as_it_was_saved(small, tmp_path):
    wrapped = Wrapper(small)
    state = state_of(wrapped, offset=0.5)
    torch.save(state, tmp_path / "weights.pth")
    load_weights(wrapped, tmp_path / "weights.pth")
    assert same(wrapped, state)


def test_weights_of_old_files_may_lack_the_counts_of_batches(small, tmp_path):
    state = state_of(small, offset=0.5)
    count = state.pop("1.num_batches_tracked")
    torch.save(state, tmp_path / "weights.pth")
    load_weights(small, tmp_path / "weights.pth")
    assert same(small, {**state, "1.num_batches_tracked": count})


def test_saved_weights_are_loaded_again_bit_by_bit(small, tmp_path):
    state = state_of(small)
    save_weights(small, tmp_path / "weights.safetensors")
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    assert not same(other, state)
    load_weights(other, tmp_path / "weights.safetensors")
    assert same(other, state)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        self.other.weight = self.one.weight


def test_shared_weights_are_saved_and_loaded_and_stay_shared(tmp_path):
    one, other = Tied(), Tied()
    save_weights(one, tmp_path / "weights.safetensors")
    load_weights(other, tmp_path / "weights.safetensors")
    assert same(other, one.state_dict())
    assert other.one.weight is other.other.weight


def test_weights_go_where_there_is_a_folder_only(small, tmp_path):
    with pytest.raises(OutputError, match="make it"):
        save_weights(small, tmp_path / "missing" / "weights.safetensors")
    with pytest.raises(OutputError, match="folder"):
        save_weights(small, tmp_path)
    assert list(tmp_path.iterdir()) == []


class Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_pickle_is_never_run(small, tmp_path):
    state = state_of(small)
    poisoned = {"state_dict": state, "more": Canary(str(tmp_path / "canary"))}
    torch.save(poisoned, tmp_path / "zip.pth")
    torch.save(poisoned, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(poisoned))
    (tmp_path / "named.safetensors").write_bytes((tmp_path / "zip.pth").read_bytes())
    for name in ("zip.pth", "legacy.pth", "plain.pth", "named.safetensors"):
        with pytest.raises(WeightsError, match=name):
            load_weights(small, tmp_path / name)
        assert not (tmp_path / "canary").exists()
    assert same(small, state)
    torch.load(tmp_path / "zip.pth", weights_only=False)  # the canary does sing
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_names_of_a_published_file_are_translated(prefix, small, tmp_path):
    state = state_of(small, offset=0.5)
    published = {f"{prefix}{name}.old": tensor for name, tensor in state.items()}
    save_file(published, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match="lacks"):
        load_weights(small, tmp_path / "weights.safetensors")
    load_weights(
        small,
        tmp_path / "weights.safetensors",
        lambda found: {name.removesuffix(".old"): tensor for name, tensor in found.items()},
    )
    assert same(small, state)


@pytest.mark.parametrize("suffix", [".pt", ".pth.tar", ""])
def test_a_program_is_refused_for_what_it_is(suffix, small, tmp_path):
    state = state_of(small)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the end of TorchScript
        torch.jit.save(torch.jit.trace(small.eval(), torch.ones(1, 3, 3, 3)), tmp_path / f"clip{suffix}")
    with pytest.raises(WeightsError, match=rf"clip{suffix} is a TorchScript archive, a program.*state_dict\(\)"):
        load_weights(small, tmp_path / f"clip{suffix}")
    assert same(small, state)


def altered(**changes):
    def make(state):
        return {name: tensor for name, tensor in {**state, **changes}.items() if tensor is not None}

    return make


NO_STATE_OF_IT = {
    "one missing": altered(**{"0.bias": None}),
    "one more": altered(extra=torch.ones(1)),
    "another shape": altered(**{"3.weight": torch.ones(5, 4)}),
    "another order of axes": lambda state: altered(**{"3.weight": state["3.weight"].T.contiguous()})(state),
    "another architecture": lambda state: {"features.0.weight": torch.ones(3)},
    "nothing": lambda state: {},
    "other numbers": lambda state: {name.replace("3.", "4."): tensor for name, tensor in state.items()},
    "a list": lambda state: list(state.values()),
    "a number": lambda state: 3,
    "names with numbers": lambda state: dict.fromkeys(state, 1.0),
    "an optimiser's": lambda state: torch.optim.SGD([torch.ones(1, requires_grad=True)]).state_dict(),
}


@pytest.mark.parametrize(
    ("name", "suffix"),
    [(name, ".pth") for name in NO_STATE_OF_IT] + [(name, ".safetensors") for name in list(NO_STATE_OF_IT)[:7]],
)
def test_weights_that_do_not_fit_are_refused_and_the_network_is_left_alone(name, suffix, small, tmp_path):
    before = state_of(small)
    found = NO_STATE_OF_IT[name](state_of(small, offset=1.0))
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(found, path)
    with pytest.raises(WeightsError, match=f"weights{suffix}") as caught:
        load_weights(small, path)
    assert "\n" not in str(caught.value)
    assert same(small, before)


def damaged_files():
    yield "empty", lambda content: b""
    yield "half", lambda content: content[: len(content) // 2]
    yield "without its end", lambda content: content[:-10]
    yield "text", lambda content: b"version https://git-lfs.github.com/spec/v1\n"
    yield "bytes", lambda content: bytes(range(256)) * 4
    yield "a long header", lambda content: b"\xff" * 8 + content[8:]


@pytest.mark.parametrize("damage", [pytest.param(damage, id=name) for name, damage in damaged_files()])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
def test_damaged_files_are_refused_in_one_sentence(damage, suffix, small, tmp_path):
    state, path = state_of(small), tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match="weights") as caught:
        load_weights(small, path)
    assert str(path) in str(caught.value)
    assert same(small, state)


def test_missing_weights_and_a_folder_are_refused(small, tmp_path):
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(WeightsError, match="check the path"):
            load_weights(small, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["0.weight", "1.running_mean"])
def test_weights_that_are_not_finite_are_refused(key, value, net_file, tmp_path):
    model = load_model(f"{net_file}:build")
    state = state_of(model.module)
    state[key].flatten()[1] = value
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=f"{key} .* NaN or infinity"):
        load_model(f"{net_file}:build", weights=tmp_path / "weights.pth")


def test_local_weights_go_into_the_model_and_nothing_is_downloaded(net_file, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    given = load_model(f"{net_file}:build")
    state = state_of(given.module, offset=0.25)
    save_file(state, tmp_path / "weights.safetensors")
    assert same(load_model(f"{net_file}:build", weights=str(tmp_path / "weights.safetensors")).module, state)
    network = load_skeleton("timm/test_resnet").module
    torch.save({name: torch.ones(tensor.shape) for name, tensor in network.state_dict().items()}, tmp_path / "timm.pth")
    loaded = load_model("timm/test_resnet", weights=tmp_path / "timm.pth")
    assert all((tensor == 1).all() for tensor in loaded.module.state_dict().values())


def test_half_precision_files_fill_a_network_of_single_precision(small, tmp_path):
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state_of(small).items()}
    save_file(state, tmp_path / "weights.safetensors")
    load_weights(small, tmp_path / "weights.safetensors")
    assert all(tensor.dtype != torch.float16 for tensor in small.state_dict().values())
    assert torch.equal(small[0].weight, state["0.weight"].float())


def test_a_source_can_be_added(monkeypatch):
    monkeypatch.setattr(registry._SOURCES, "_objects", dict(registry._SOURCES._objects))

    @registry.source("mine")
    def load(request):
        return registry.Sourced(nn.Conv2d(3, 2, 1), registry.Preprocess((4, 4)), registry.Classes((request.name, "b")))

    assert "mine" in sources()
    assert load_model("mine/own name").classes.names == ("own name", "b")


def test_a_source_hears_of_the_classes_in_a_model_file_and_its_translation_is_heeded(monkeypatch, small, tmp_path):
    monkeypatch.setattr(registry._SOURCES, "_objects", dict(registry._SOURCES._objects))
    heard = []

    @registry.source("mine")
    def load(request):
        heard.append(request.classes)
        return registry.Sourced(
            nn.Conv2d(3, 2, 1),
            registry.Preprocess((4, 4)),
            registry.Classes(("a", "b")),
            translate=lambda state: {name.lower(): tensor for name, tensor in state.items()},
        )

    load_skeleton("mine/name")
    assert heard == [None]
    save_file({"WEIGHT": torch.full((2, 3, 1, 1), 7.0), "BIAS": torch.zeros(2)}, tmp_path / "w.safetensors")
    (tmp_path / "m.toml").write_text('architecture = "mine/name"\nweights = "w.safetensors"\nclasses = ["x", "y"]\n')
    for model in (
        load_model(str(tmp_path / "m.toml")),
        load_model(str(tmp_path / "m.toml"), weights=tmp_path / "w.safetensors"),
        load_model("mine/name", weights=tmp_path / "w.safetensors"),
    ):
        assert (model.module.weight == 7).all()
    assert [classes and classes.names for classes in heard[1:]] == [("x", "y"), ("x", "y"), None]
    assert load_skeleton(str(tmp_path / "m.toml")).classes.names == ("x", "y")


def test_weights_of_a_file_are_those_of_the_file(small, tmp_path):
    save_weights(small, tmp_path / "w.safetensors")
    assert same(small, load_file(tmp_path / "w.safetensors"))

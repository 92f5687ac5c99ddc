"""Every way that weights are saved: loaded bit by bit, or refused in a sentence that names the key."""

import argparse
import collections
import itertools
import json
import os
import pathlib
import pickle
import random
import tarfile
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rulepatch.errors import RulepatchWarning, WeightsError
from rulepatch.models.checkpoints import read_checkpoint, read_state
from rulepatch.models.playground_network import PlaygroundNetwork
from rulepatch.models.registry import load_model
from rulepatch.models.weights import load_weights, save_weights


class Residual(nn.Module):
    """A network whose names are also those of wrappers, with a scalar, tied weights and a buffer that it computes."""

    def __init__(self, computed=True):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.module = nn.ModuleDict({"net": nn.Linear(4, 4)})
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.head, self.twin = nn.Linear(4, 3), nn.Linear(4, 3)
        self.twin.weight = self.head.weight
        if computed:
            self.register_buffer("relative_position_index", torch.arange(4))


NETS = {
    "playground": lambda: PlaygroundNetwork(classes=5),
    "numbers": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)),
    "names of wrappers": Residual,
}


def trained(net, seed):
    """A state dict of a network's own that is not yet in it."""
    generator = torch.Generator().manual_seed(seed)

    def other(tensor):
        if not tensor.is_floating_point():
            return tensor + 1 if tensor.ndim == 0 else tensor.clone()
        return torch.randn(tensor.shape, generator=generator)

    state = {name: other(tensor) for name, tensor in net.state_dict().items()}
    if "twin.weight" in state:
        state["twin.weight"] = state["head.weight"]
    return state


@pytest.fixture(params=NETS)
def net(request):
    torch.manual_seed(1)
    return NETS[request.param]()


def same(net, state):
    own = net.state_dict()
    return own.keys() == state.keys() and all(
        torch.equal(tensor, state[name]) and tensor.dtype == state[name].dtype for name, tensor in own.items()
    )


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def inside(wrapper, state, depth=1):
    """Names of a network some of whose modules are in a wrapper."""

    def renamed(name):
        parts = name.split(".")
        return ".".join([*parts[:depth], wrapper, *parts[depth:]]) if len(parts) > depth + 1 else name

    return {renamed(name): tensor for name, tensor in state.items()}


def adam(state):
    parameters = [nn.Parameter(tensor.float().clone()) for tensor in state.values()]
    optimiser = torch.optim.Adam(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    return optimiser.state_dict()


ARGS = argparse.Namespace(lr=np.float64(0.1), out=pathlib.Path("/runs/3"), layers=[1, 2], seed=np.int64(3))


def lightning(state, prefix="model."):
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": collections.OrderedDict(prefixed(prefix, state)),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "a.ckpt", "best": torch.tensor(0.5)}},
        "optimizer_states": [adam(state)],
        "lr_schedulers": [{"_last_lr": [0.1]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "args": ARGS},
    }


WAYS = {
    "a state dict": lambda s: s,
    "an OrderedDict in another order": lambda s: collections.OrderedDict(reversed(list(s.items()))),
    "parameters": lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
    "arrays of NumPy": lambda s: {k: v.numpy() for k, v in s.items()},
    "big-endian arrays in Fortran's order": lambda s: {
        k: np.asfortranarray(v.numpy().astype(v.numpy().dtype.newbyteorder(">"))) for k, v in s.items()
    },
    "doubles": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    "views of larger tensors": lambda s: {k: torch.stack([v, v], dim=-1)[..., 1] for k, v in s.items()},
    "sparse tensors": lambda s: {k: v.to_sparse() if v.ndim == 2 else v for k, v in s.items()},
    "sparse rows": lambda s: {k: v.to_sparse_csr() if v.ndim == 2 else v for k, v in s.items()},
    "tensors that want gradients": lambda s: {
        k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in s.items()
    },
    "numbers beside them": lambda s: {**s, "epoch": 5, "accuracy": np.float32(0.9), "name": "x", "best": None},
    "an optimiser beside them": lambda s: {**s, "optimizer": adam(s)},
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "arch": "resnet18", "best_acc1": torch.tensor(71.2)},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": adam(s), "loss": 0.3},
    "fastai": lambda s: {"model": s, "opt": adam(s)},
    "torchvision's script": lambda s: {
        "model": s, "optimizer": adam(s), "lr_scheduler": {"_step_count": 3}, "epoch": 2, "args": ARGS, "scaler": {},
    },
    "timm's script": lambda s: {
        "epoch": 3, "arch": "vit", "state_dict": s, "optimizer": adam(s), "version": 2, "args": ARGS,
        "amp_scaler": {"scale": 65536.0}, "metric": np.float64(0.7),
    },
    "Lightning": lightning,
    "Lightning, compiled": lambda s: lightning(s, "model._orig_mod."),
    "DeepSpeed": lambda s: {"module": s, "buffer_names": ["a"], "ds_config": {}, "ds_version": "0.14"},
    "two deep": lambda s: {"checkpoint": {"weights": {"params": s}}, "torch": torch.__version__},
    "parts by name": lambda s: parts_of(s),
    "a pair with an optimiser": lambda s: (s, adam(s)),
    "a list of one": lambda s: [3, {"net": s}],
    "collections beside them": lambda s: {
        "net": s, "a": collections.defaultdict(list, a=[1]), "b": collections.deque([1, 2], maxlen=3),
        "c": collections.Counter("aab"), "d": {1, 2}, "e": collections.defaultdict(float),
    },
    "in paths": lambda s: {"net": s, "root": pathlib.PurePosixPath("/a"), "time": np.array([1.0, 2.0])},
    "distributed": lambda s: prefixed("module.", s),
    "compiled blocks": lambda s: inside("_orig_mod", s),
    "compiled deeper, in parallel": lambda s: prefixed("module.", inside("_orig_mod", s, 2)),
    "sharded modules": lambda s: prefixed("_fsdp_wrapped_module.", inside("_fsdp_wrapped_module", s)),
    "recomputed blocks": lambda s: inside("_checkpoint_wrapped_module", inside("module", s)),
    "averaged": lambda s: {**prefixed("module.", s), "n_averaged": torch.tensor(3)},
    "an average alone": lambda s: {"state_dict_ema": prefixed("module.", s)},
    "an average without its buffers": lambda s: {"model": s, "ema": {k: v for k, v in s.items() if v.ndim > 1}},
    "a student whose teacher has another shape": lambda s: {
        **prefixed("student.", s), **{f"teacher.{k}": torch.cat([v.reshape(-1)] * 2) for k, v in s.items()},
    },
    "a loss's weights beside it": lambda s: {"state_dict": {**prefixed("net.", s), "criterion.weight": torch.ones(5)}},
    "a metric's beside it": lambda s: {**prefixed("net.", s), "train_metrics.accuracy.correct": torch.ones(5)},
    "no counts of batches": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
}  # fmt: skip


def parts_of(state):
    parts = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if rest:
            parts.setdefault(part, {})[rest] = tensor
        else:
            parts[name] = tensor
    return parts


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_saving_is_loaded_bit_by_bit_without_a_warning(way, zipped, net, tmp_path):
    state = trained(net, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sparse rows, which are in beta
        saved = WAYS[way](state)
        torch.save(saved, tmp_path / "w.ckpt", _use_new_zipfile_serialization=zipped)
    if way == "no counts of batches":
        state |= {key: tensor for key, tensor in net.state_dict().items() if "num_batches" in key}
    load_weights(net, tmp_path / "w.ckpt")
    assert same(net, state)


PREFIXES = ["module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "student.", "ema_model.", "0.", "x.y."]
CONTAINERS = ["", "state_dict", "model", "net", "model_ema"]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_prefixes_in_any_order_within_any_container_are_taken_off(seed, suffix, net, tmp_path):
    choose = random.Random(seed)
    state = trained(net, seed)
    prefix = "".join(choose.choices(PREFIXES, k=choose.randint(1, 4)))
    saved = prefixed(prefix, inside(choose.choice(["_orig_mod", "module", "wrapped"]), state, choose.randint(1, 3)))
    if suffix == ".safetensors":
        save_file({k: v.clone() for k, v in saved.items()}, tmp_path / "w.safetensors")
    else:
        container = choose.choice(CONTAINERS)
        torch.save({container: saved, "epoch": 3} if container else saved, tmp_path / "w.pth")
    load_weights(net, tmp_path / f"w{suffix}")
    assert same(net, state), prefix


@pytest.mark.parametrize("wrap", [nn.DataParallel, nn.Sequential, pytest.param(torch.compile, marks=pytest.mark.slow)])
def test_a_network_in_a_wrapper_takes_the_weights_of_the_network(wrap, tmp_path):
    net = PlaygroundNetwork(classes=5)
    state = trained(net, 3)
    torch.save({"model": state}, tmp_path / "w.pth")
    wrapped = wrap(net)
    load_weights(wrapped, tmp_path / "w.pth")
    assert all(torch.equal(a, b) for a, b in zip(wrapped.state_dict().values(), state.values(), strict=True))


def test_models_by_name_and_model_files_read_them_too(tmp_path):
    state = trained(load_model("playground").module, 4)
    torch.save({"state_dict": prefixed("module._orig_mod.", state)}, tmp_path / "w.pth")
    assert same(load_model("playground", weights=tmp_path / "w.pth").module, state)
    (tmp_path / "m.toml").write_text('architecture = "playground"\nweights = "w.pth::state_dict"\n')
    assert same(load_model(str(tmp_path / "m.toml")).module, state)


# Several sets of weights in one file

SEVERAL = {
    "timm": (lambda a, b: {"state_dict": a, "state_dict_ema": b}, "state_dict", "state_dict_ema"),
    "torchvision": (
        lambda a, b: {"model_ema": {**prefixed("module.", b), "n_averaged": torch.tensor(3)}, "model": a},
        "model",
        "model_ema.module",
    ),
    "DINO": (
        lambda a, b: {"student": prefixed("module.backbone.", a), "teacher": prefixed("backbone.", b)},
        "student.module.backbone",
        "teacher.backbone",
    ),
    "Lightning": (
        lambda a, b: {"state_dict": {**prefixed("ema_model.module.", b), **prefixed("model.", a)}},
        "state_dict.model",
        "state_dict.ema_model.module",
    ),
    "MoCo": (
        lambda a, b: {"state_dict": {**prefixed("module.encoder_q.", a), **prefixed("module.encoder_k.", b)}},
        "state_dict.module.encoder_q",
        "state_dict.module.encoder_k",
    ),
    "BYOL": (lambda a, b: {**prefixed("target.", b), **prefixed("online.", a)}, "online", "target"),
    "names without bars": (lambda a, b: {"modelEMA": b, "model": a}, "model", "modelEMA"),
    "the best beside the last": (lambda a, b: {"best_state": b, "state": a}, "state", "best_state"),
    "at the top": (lambda a, b: {**a, "ema": b}, "", "ema"),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_of_several_sets_the_trained_one_is_taken_and_said_and_the_other_can_be_named(kind, net, tmp_path):
    save, taken, other = SEVERAL[kind]
    raw, averaged = trained(net, 5), trained(net, 6)
    path = tmp_path / "last.pth"
    torch.save(save(raw, averaged), path)
    with pytest.warns(RulepatchWarning, match="expected one set of weights") as said:
        load_weights(net, path)
    assert same(net, raw) and len(said) == 1
    message = str(said[0].message)
    assert f"took {taken or 'those at its top'} and not {other};" in message and f"{path}::{other}" in message
    load_weights(net, pathlib.Path(f"{path}::{other}"))  # without a warning
    assert same(net, averaged)
    if taken:
        load_weights(net, pathlib.Path(f"{path}::{taken}"))
        assert same(net, raw)


def test_two_names_of_the_same_weights_are_one_set(net, tmp_path):
    state = trained(net, 5)
    copied = {name: tensor.clone() for name, tensor in state.items()}
    torch.save({"module.model": state, "attacker": prefixed("model.", copied), "state_dict_ema": state}, tmp_path / "w")
    load_weights(net, tmp_path / "w")
    assert same(net, state)


def test_sets_of_which_none_is_the_first_are_asked_for(net, tmp_path):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    one, two = trained(net, 5), trained(net, 6)
    torch.save({"models": [one, two]}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"expected one set of weights.*w\.pth::models\.0, .*w\.pth::models\.1"):
        load_weights(net, tmp_path / "w.pth")
    assert same(net, before)
    load_weights(net, pathlib.Path(f"{tmp_path / 'w.pth'}::models.1"))
    assert same(net, two)


@pytest.mark.parametrize("key", ["no_such", "state", "state_dict.blocks.9", "epoch.a"])
def test_a_key_that_is_not_there_is_refused_with_those_that_are(key, net, tmp_path):
    torch.save({"state_dict": trained(net, 5), "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=rf"expected {key} in .*w\.pth but it holds state_dict \(\d+ tensors\), epoch"
    ):
        load_weights(net, pathlib.Path(f"{tmp_path / 'w.pth'}::{key}"))


def test_a_file_whose_own_name_has_colons_is_meant_first(net, tmp_path):
    state = trained(net, 5)
    torch.save(state, tmp_path / "w::x")
    load_weights(net, tmp_path / "w::x")
    assert same(net, state)


# What is left out is said, or harms nothing


def test_counters_of_a_profiler_are_left_out_and_said(net, tmp_path):
    state = trained(net, 5)
    first = next(iter(state)).rpartition(".")[0]
    counters = {f"{first}.total_ops" if first else "total_ops": torch.zeros(1), "total_params": torch.zeros(1)}
    torch.save({**state, **counters}, tmp_path / "w.pth")
    with pytest.warns(RulepatchWarning, match=r"2 counters .*total_ops, total_params"):
        load_weights(net, tmp_path / "w.pth")
    assert same(net, state)


def test_tensors_beside_the_network_are_left_out_and_said(net, tmp_path):
    state = trained(net, 5)
    torch.save(
        {"state_dict": {**prefixed("module.net.", state), "module.normalizer.new_mean": torch.ones(3)}}, tmp_path / "w"
    )
    with pytest.warns(RulepatchWarning, match=r"1 more tensor there .*normalizer\.new_mean"):
        load_weights(net, tmp_path / "w")
    assert same(net, state)


def test_buffers_that_a_network_computes_may_be_missing_or_more(tmp_path):
    with_it, without = Residual(), Residual(computed=False)
    torch.save(without.state_dict(), tmp_path / "fewer.pth")
    load_weights(with_it, tmp_path / "fewer.pth")
    assert torch.equal(with_it.relative_position_index, torch.arange(4))
    torch.save(with_it.state_dict(), tmp_path / "more.pth")
    load_weights(without, tmp_path / "more.pth")
    without.register_buffer("relative_position_index", torch.arange(4), persistent=False)
    load_weights(without, tmp_path / "more.pth")
    without.relative_position_index += 1
    with pytest.raises(WeightsError, match="relative_position_index"):
        load_weights(without, tmp_path / "more.pth")


@pytest.mark.parametrize("key", ["head.weight", "twin.weight"])
def test_tied_weights_may_be_there_once(key, tmp_path):
    net = Residual()
    state = trained(net, 5)
    torch.save(prefixed("model.", {name: tensor for name, tensor in state.items() if name != key}), tmp_path / "w.pth")
    load_weights(net, tmp_path / "w.pth")
    assert same(net, state) and net.head.weight is net.twin.weight


class Stateful(nn.Linear):
    """A layer with a state that is no tensor."""

    version = 1

    def get_extra_state(self):
        return {"version": self.version}

    def set_extra_state(self, state):
        self.version = state["version"]


def test_states_that_are_no_tensors_are_loaded_and_may_be_missing(tmp_path):
    net, other = nn.Sequential(Stateful(2, 3)), nn.Sequential(Stateful(2, 3))
    other[0].version = 7
    torch.save({"state_dict": prefixed("model.", other.state_dict())}, tmp_path / "w.pth")
    load_weights(net, tmp_path / "w.pth")
    assert net[0].version == 7 and torch.equal(net[0].weight, other[0].weight)
    torch.save({name: value for name, value in other.state_dict().items() if "extra" not in name}, tmp_path / "w.pth")
    load_weights(nn.Sequential(Stateful(2, 3)), tmp_path / "w.pth")
    torch.save({**other.state_dict(), "0._extra_state": 3}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="refused those"):
        load_weights(net, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"0\._extra_state of Sequential is none"):
        save_weights(net, tmp_path / "w.safetensors")


def test_weights_give_a_network_on_the_meta_device_its_numbers(tmp_path):
    with torch.device("meta"):
        net = PlaygroundNetwork(classes=5)
    state = trained(PlaygroundNetwork(classes=5), 5)
    torch.save(
        {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in state.items()},
        tmp_path / "w",
    )
    load_weights(net, tmp_path / "w")
    assert same(net, state)


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_files_that_an_index_names_are_one_set(ending, net, tmp_path):
    state = {name: tensor.clone() for name, tensor in trained(net, 5).items()}
    where = {name: f"w-0000{1 + index % 2}-of-00002{ending}" for index, name in enumerate(state)}
    for file in set(where.values()):
        part = {name: state[name] for name in state if where[name] == file}
        (save_file if ending == ".safetensors" else torch.save)(part, tmp_path / file)
    index = tmp_path / f"w{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    load_weights(net, index)
    assert same(net, state)
    with pytest.raises(WeightsError, match=r"lacks .* one of several files, name their \.index\.json"):
        load_weights(net, tmp_path / f"w-00001-of-00002{ending}")
    with pytest.raises(WeightsError, match=r"is a folder; check the path, or name a file in it \(w.*index\.json"):
        load_weights(net, tmp_path)
    (tmp_path / f"w-00002-of-00002{ending}").unlink()
    with pytest.raises(WeightsError, match=rf"w-00002-of-00002{ending} is not beside it"):
        load_weights(net, index)
    index.write_text(json.dumps({"weight_map": {"a": f"../{tmp_path.name}/w-00001-of-00002{ending}"}}))
    with pytest.raises(WeightsError, match="is not beside it"):
        load_weights(net, index)
    index.write_text("[]")
    with pytest.raises(WeightsError, match="no weight_map"):
        load_weights(net, index)


# What is refused


def changed(**changes):
    def change(state):
        return {key: value for key, value in {**state, **changes}.items() if value is not None}

    return change


def made(key, change):
    return lambda state: {**state, key: change(state[key])}


def swapped(state):
    """Two tensors of different shapes under each other's names."""
    return {
        **state,
        "blocks.0.conv.weight": state["blocks.1.conv.weight"],
        "blocks.1.conv.weight": state["blocks.0.conv.weight"],
    }


MASK = torch.ones(5, 96)
HEAD = {"head.weight": torch.ones(7, 96), "head.bias": torch.ones(7)}

REFUSED = {
    "one missing": (changed(**{"head.bias": None}), r"lacks 1 of its tensors \(such as head\.bias\) and has 0 others;"),
    "one missing behind a prefix": (
        lambda s: {"state_dict": prefixed("module.", changed(**{"head.bias": None})(s))},
        r"lacks 1 of its tensors \(such as head\.bias\).*state_dict \(\d+ tensors\)",
    ),
    "a statistic missing": (changed(**{"blocks.0.norm.running_var": None}), "blocks.0.norm.running_var"),
    "one more": (changed(extra=torch.ones(1)), r"lacks 0 of its tensors and has 1 others \(such as extra\)"),
    "one more behind a prefix": (lambda s: prefixed("model.", changed(extra=torch.ones(1))(s)), r"model\.extra"),
    "a prefix of some names": (
        lambda s: {f"net.{k}" if "blocks.0" in k else k: v for k, v in s.items()},
        r"lacks 5 of its tensors \(such as blocks\.0\.conv\.weight.*has 5 others \(such as net\.blocks\.0",
    ),
    "blocks in another order of nesting": (
        lambda s: {k.replace("conv.weight", "conv.1.weight"): v for k, v in s.items()},
        r"blocks\.0\.conv\.weight.*others \(such as blocks\.0\.conv\.1\.weight",
    ),
    "a layer more": (changed(**{"blocks.7.conv.weight": torch.ones(3)}), r"others \(such as blocks\.7\.conv\.weight"),
    "an adapter": (
        lambda s: changed(**{"head.lora_A.weight": torch.ones(2, 96)})(inside("base_layer", s)),
        r"others \(such as head\.lora_A\.weight",
    ),
    "a pruned layer": (
        lambda s: changed(**{"head.weight": None, "head.weight_orig": MASK, "head.weight_mask": MASK})(s),
        r"head\.weight\).*head\.weight_orig",
    ),
    "another head": (
        lambda s: {**s, **HEAD},
        r"head\.weight of shape \(5, 96\) but .* \(7, 96\).*7 classes, not 5.*num_classes = 7",
    ),
    "another width": (made("blocks.3.conv.weight", lambda w: w[:8]), r"blocks\.3\.conv\.weight of shape"),
    "another order of axes": (
        made("head.weight", lambda w: w.T.contiguous()),
        r"head\.weight of shape \(5, 96\) but .*\(96, 5\); name the right",
    ),
    "swapped names": (swapped, r"blocks\.0\.conv\.weight of shape"),
    "whole numbers for real ones": (
        made("head.weight", lambda w: w.char()),
        r"head\.weight as real numbers \(float32\) but .* whole numbers \(int8\)",
    ),
    "truth values for real ones": (
        made("head.bias", lambda w: w > 0), r"head\.bias as real numbers .*whole numbers \(bool\)",
    ),
    "complex numbers for real ones": (
        made("head.weight", lambda w: w.cfloat()), r"head\.weight as real .*complex numbers \(complex64\)",
    ),
    "a tensor of the meta device": (
        made("head.weight", lambda w: w.to("meta")), r"head\.weight as numbers but .* meta device",
    ),
    "a quantised tensor": (
        made("head.weight", lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)),
        r"head\.weight as plain numbers but .* quantised ones \(torch\.qint8\)",
    ),
    "a nested tensor": (
        made("head.bias", lambda w: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
        r"head\.bias as a tensor but .* nested",
    ),
    "text for a tensor": (changed(**{"head.bias": "text"}), r"head\.bias as a tensor but .* a str"),
    "nothing but numbers": (lambda s: dict.fromkeys(s, 1.0), r"blocks\.0\.conv\.weight as a tensor but .* a float"),
    "an optimiser": (
        lambda s: {"optimizer": adam(s), "epoch": 3},
        r"lacks 37 .*it holds optimizer \(\d+ tensors\), epoch",
    ),
    "nothing": (lambda s: {}, "it holds nothing"),
    "a tensor alone": (lambda s: s["head.bias"], "one Tensor"),
    "weights of a norm": (
        lambda s: changed(**{"head.weight": None, "head.weight_g": MASK[:, :1], "head.weight_v": MASK})(s),
        r"lacks 1 of its tensors \(such as head\.weight\) and has 2 others \(such as head\.weight_g, head\.weight_v\)",
    ),
    "many keys": (lambda s: {f"a key of many letters {i}": i for i in range(400)}, "and 392 more"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_with_both_sides_and_the_network_is_left_alone(kind, tmp_path):
    net = PlaygroundNetwork(classes=5)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    change, message = REFUSED[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of quantised and nested tensors
        torch.save(change(trained(net, 8)), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(net, tmp_path / "w.pth")
    text = str(caught.value)
    assert "w.pth" in text and text.startswith("expected") and "\n" not in text and len(text) < 900
    assert same(net, before)


def residual_network(blocks):
    names = ["conv1.weight", "bn1.weight"]
    for layer, count in enumerate(blocks, start=1):
        names += [f"layer{layer}.{block}.conv{conv}.weight" for block in range(count) for conv in (1, 2)]
    return [*names, "fc.weight", "fc.bias"]


class Named(nn.Module):
    def __init__(self, names):
        super().__init__()
        for name in names:
            *path, last = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(last, nn.Parameter(torch.randn(2, 2)))


@pytest.mark.parametrize(("small", "large"), list(itertools.combinations([(1, 1), (1, 2), (2, 2), (2, 3, 1)], 2)))
@pytest.mark.parametrize("prefix", ["", "module.", "a.0."])
def test_a_network_is_not_filled_from_a_deeper_or_a_shallower_one(small, large, prefix, tmp_path):
    one, other = Named(residual_network(small)), Named(residual_network(large))
    for net, source in ((one, other), (other, one)):
        torch.save({"state_dict": prefixed(prefix, source.state_dict())}, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"lacks \d+ of its tensors.*layer\d"):
            load_weights(net, tmp_path / "w.pth")


def test_numbers_of_a_sequence_are_no_wrappers(tmp_path):
    net = nn.Sequential(collections.OrderedDict(conv=nn.Conv2d(3, 4, 1), fc=nn.Linear(4, 2)))
    deeper = nn.Sequential(
        collections.OrderedDict(conv=nn.Conv2d(3, 4, 1), fc=nn.Sequential(nn.Tanh(), nn.Linear(4, 2)))
    )
    for one, other in ((net, deeper), (deeper, net)):
        torch.save(other.state_dict(), tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"fc\.(1\.)?weight.*fc\.(1\.)?weight"):
            load_weights(one, tmp_path / "w.pth")


@pytest.mark.parametrize("at", [0, 1])
def test_one_part_of_a_sequence_is_not_taken_for_the_network(at, tmp_path):
    net, further = PlaygroundNetwork(classes=5), nn.Linear(5, 5)
    torch.save(nn.Sequential(*([net, further] if at == 0 else [further, net])).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"lacks 0 .* 2 others \(such as {1 - at}\.weight, {1 - at}\.bias\)"):
        load_weights(net, tmp_path / "w.pth")


def test_another_protocol_of_pickles_is_named(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pth", pickle_protocol=4)
    with pytest.raises(WeightsError, match=r"w\.pth was pickled with another; save it again"):
        load_weights(nn.Linear(2, 3), tmp_path / "w.pth")


# Other files


class Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Settings(dict):
    """A class of a training script."""


OBJECTS = {
    "a whole network": (lambda net: net, r"torch\.nn\.modules\.container\.Sequential"),
    "a whole network under a key": (
        lambda net: {"model": net, "epoch": 3},
        r"torch\.nn\.modules\.container\.Sequential",
    ),
    "a class of a script": (lambda net: {"state_dict": net.state_dict(), "config": Settings(lr=1)}, r"Settings"),
    "a function": (lambda net: {"state_dict": net.state_dict(), "activation": torch.relu}, "relu|getattr"),
    "a date": (lambda net: {"state_dict": net.state_dict(), "range": range(3)}, "range"),
    "a record of NumPy": (lambda net: {"w": np.zeros(2, dtype=[("a", "f4")])}, "never loaded"),
    "objects of NumPy": (lambda net: {"w": np.array([net], dtype=object)}, "never loaded"),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_are_never_loaded_and_named(kind, tmp_path):
    net = nn.Sequential(nn.Linear(2, 3))
    save, message = OBJECTS[kind]
    torch.save(save(net), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(net, tmp_path / "w.pt")
    text = str(caught.value)
    assert "never loaded" in text and "save model.state_dict()" in text and "w.pt" in text and "\n" not in text


def test_what_is_allowed_beside_weights_runs_no_code(tmp_path):
    for wrap in (
        lambda canary: argparse.Namespace(a=canary),
        lambda canary: {"args": {"deep": [canary]}},
        lambda canary: np.array([canary], dtype=object),
        lambda canary: (np.float64(1), pathlib.Path("a"), canary),
    ):
        torch.save({"0.bias": torch.ones(2), "more": wrap(Canary(str(tmp_path / "canary")))}, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match="never loaded"):
            read_checkpoint(tmp_path / "w.pt")
        assert not (tmp_path / "canary").exists()


def test_no_other_reader_of_torch_is_made_more_trusting(tmp_path):
    torch.save({"w": torch.ones(1), "args": argparse.Namespace(a=1)}, tmp_path / "w.pt")
    assert list(read_state(tmp_path / "w.pt")) == ["w"]
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "w.pt", weights_only=True)
    with torch.serialization.safe_globals([np.dtype]):
        before = set(torch.serialization.get_safe_globals())
        read_state(tmp_path / "w.pt")
        assert set(torch.serialization.get_safe_globals()) == before and np.dtype in before  # nor less


def test_threads_read_at_the_same_time(tmp_path):
    torch.save({"w": torch.ones(1), "args": argparse.Namespace(a=np.float64(1))}, tmp_path / "w.pt")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(read_state, [tmp_path / "w.pt"] * 64))
    assert all(torch.equal(state["w"], torch.ones(1)) for state in found)


def as_script(net, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net.eval(), torch.ones(1, 2)), path)


def as_tar(net, path):
    torch.save(net.state_dict(), path.with_suffix(".pth"))
    with tarfile.open(path, "w") as archive:
        archive.add(path.with_suffix(".pth"), "w.pth")


def as_zip(net, path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/w.txt", "text")


FOREIGN = {
    "w.pt": (as_script, r"TorchScript archive, a program.*state_dict\(\)"),
    "w.pt2": (
        lambda net, path: torch.export.save(torch.export.export(net, (torch.ones(1, 2),)), path),
        r"program of torch\.export.*state_dict",
    ),
    "w.npz": (lambda net, path: np.savez(path, weight=np.ones(3)), r"npz archive of NumPy; convert"),
    "w.npy": (lambda net, path: np.save(path, np.ones(3)), r"array of NumPy; convert"),
    "w.pkl": (lambda net, path: path.write_bytes(pickle.dumps(net.state_dict())), r"a pickle that torch\.save did not"),
    "w.h5": (lambda net, path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), r"HDF5.*Keras"),
    "w.keras": (
        lambda net, path: zipfile.ZipFile(path, "w").writestr("model.weights.h5", b""), r"model of Keras",
    ),
    "w.tflite": (lambda net, path: path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(99)), "TensorFlow Lite"),
    "w.onnx": (lambda net, path: path.write_bytes(b"\x08\x0a\x12\x07pytorch" + bytes(99)), r"ONNX.*state_dict\(\)"),
    "onnx without its ending": (lambda net, path: path.write_bytes(b"\x08\x0a\x12\x07pytorch"), "ONNX"),
    "w.msgpack": (lambda net, path: path.write_bytes(b"\x82\xa6params\x80"), "Flax"),
    "w.ckpt.data-00000-of-00001": (lambda net, path: path.write_bytes(bytes(99)), "TensorFlow checkpoint"),
    "w.tar": (as_tar, "tar archive; unpack"),
    "w.zip": (as_zip, "zip archive; unpack"),
    "w.pth.gz": (lambda net, path: path.write_bytes(b"\x1f\x8b\x08" + bytes(99)), "gzip archive; unpack"),
    "pointer.pth": (lambda net, path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "page.pth": (lambda net, path: path.write_text("<!DOCTYPE html><html>"), "web page"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_formats_are_named_by_what_is_in_them(name, tmp_path):
    net = nn.Linear(2, 3)
    write, message = FOREIGN[name]
    write(net, tmp_path / name)
    for path in (tmp_path / name, tmp_path / f"{name}.pth" if name not in ("w.msgpack",) else tmp_path / name):
        if path != tmp_path / name:
            (tmp_path / name).rename(path)
        with pytest.raises(WeightsError, match=message) as caught:
            load_weights(net, path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_a_distributed_checkpoint_is_told_apart(tmp_path):
    (tmp_path / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(WeightsError, match="dcp_to_torch"):
        load_weights(nn.Linear(2, 3), tmp_path)

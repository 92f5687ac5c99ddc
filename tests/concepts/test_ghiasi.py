"""The format of TensorFlow.js read exactly, and the networks of Ghiasi et al. against slow twins in numpy."""

import json
import types

import numpy as np
import pytest
import torch

from rulepatch.concepts.stylize import load_stylizer
from rulepatch.concepts.stylizers.ghiasi_networks import Predictor, Transformer, instance_norm, same
from rulepatch.concepts.stylizers.tfjs import TfjsModel, filters, read_tfjs
from rulepatch.errors import WeightsError


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def described(folder):
    return json.loads((folder / "model.json").read_text())


# The format


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_every_tensor_comes_back_to_the_bit(tfjs, tmp_path, rng, shards):
    tensors = tfjs.transformer(rng, separable=True)
    tfjs.write(tmp_path, tensors, shards=shards)
    found = read_tfjs(tmp_path).tensors
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize(("kind", "most"), [("uint8", 255), ("uint16", 65535)])
def test_quantised_tensors_are_scaled_back(tmp_path, rng, kind, most):
    codes = rng.integers(0, most + 1, size=(2, 3)).astype(kind)
    entry = {"name": "w", "shape": [2, 3], "dtype": "float32"}
    entry["quantization"] = {"dtype": kind, "scale": 0.25, "min": -3.0}
    manifest = [{"paths": ["a.bin"], "weights": [entry]}]
    (tmp_path / "a.bin").write_bytes(codes.astype(codes.dtype.newbyteorder("<")).tobytes())
    (tmp_path / "model.json").write_text(json.dumps({"weightsManifest": manifest}))
    found = read_tfjs(tmp_path).tensors["w"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, codes * 0.25 - 3.0, rtol=1e-6)


def test_half_floats_are_widened(tmp_path):
    values = np.array([1.5, -2.25], "<f2")
    entry = {"name": "w", "shape": [2], "dtype": "float32", "quantization": {"dtype": "float16"}}
    (tmp_path / "a.bin").write_bytes(values.tobytes())
    (tmp_path / "model.json").write_text(json.dumps({"weightsManifest": [{"paths": ["a.bin"], "weights": [entry]}]}))
    assert read_tfjs(tmp_path).tensors["w"].tolist() == [1.5, -2.25]


@pytest.mark.parametrize("wrong", ["short", "long", "gone", "elsewhere", "no json", "no manifest", "type", "no model"])
def test_a_damaged_folder_is_refused_in_one_sentence(tfjs, tmp_path, rng, wrong):
    tfjs.write(tmp_path, tfjs.transformer(rng, separable=True), shards=2)
    shard, said = tmp_path / "group1-shard2of2", described(tmp_path)
    if wrong == "short":
        shard.write_bytes(shard.read_bytes()[:-4])
    elif wrong == "long":
        shard.write_bytes(shard.read_bytes() + bytes(4))
    elif wrong == "gone":
        shard.unlink()
    elif wrong == "elsewhere":
        said["weightsManifest"][0]["paths"][0] = "../group1-shard1of2"
    elif wrong == "no manifest":
        del said["weightsManifest"]
    elif wrong == "type":
        said["weightsManifest"][0]["weights"][0]["dtype"] = "string"
    (tmp_path / "model.json").write_text("{" if wrong == "no json" else json.dumps(said))
    if wrong == "no model":
        (tmp_path / "model.json").unlink()
    with pytest.raises(WeightsError, match=r"expected .* but") as caught:
        read_tfjs(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["missing", "unknown", "scaled", "nan", "width"])
def test_tensors_that_are_not_the_networks_are_refused(tfjs, tmp_path, rng, wrong):
    tensors = tfjs.transformer(rng, separable=False)
    name = "transformer/residual/residual3/conv1/weights"
    if wrong == "missing":
        del tensors[name]
    elif wrong == "unknown":
        tensors["transformer/residual/residual6/conv1/weights"] = tensors[name]
    elif wrong == "scaled":
        tensors["transformer/contract/conv1/BatchNorm/Const"] *= 2
    elif wrong == "nan":
        tensors[name][0] = np.nan
    else:
        tensors[name] = tensors[name][..., :4]
    tfjs.write(tmp_path / "transformer", tensors)
    tfjs.write(tmp_path / "style", tfjs.mobilenet(rng))
    with pytest.raises(WeightsError, match=r"expected .* but"):
        load_stylizer(f"ghiasi/{tmp_path}")


# The networks, against loops over positions, in TensorFlow's own order of axes (rows, columns, channels)


def slow_convolution(x, weights, stride=1, pad=None, mode="constant", depthwise=False):
    """Of maps (y, x, c) and weights (rows, columns, c_in, c_out); the padding is "SAME" if none is given."""
    rows, columns = weights.shape[:2]
    if pad is None:
        pad = []
        for side, kernel in zip(x.shape[:2], (rows, columns), strict=True):
            whole = max((int(np.ceil(side / stride)) - 1) * stride + kernel - side, 0)
            pad.append((whole // 2, whole - whole // 2))
    x = np.pad(x, [*pad, (0, 0)], mode=mode)
    height, width = (x.shape[0] - rows) // stride + 1, (x.shape[1] - columns) // stride + 1
    found = np.zeros((height, width, weights.shape[2 if depthwise else 3]))
    for i in range(height):
        for j in range(width):
            patch = x[i * stride : i * stride + rows, j * stride : j * stride + columns]
            found[i, j] = (patch * weights[..., 0]).sum((0, 1)) if depthwise else np.tensordot(patch, weights, 3)
    return found


def slow_norm(x, tensors, name):
    mean, variance, beta = (tensors[f"{name}/BatchNorm/{n}"] for n in ("moving_mean", "moving_variance", "beta"))
    return (x - mean) / np.sqrt(variance + 1e-3) * tensors.get(f"{name}/BatchNorm/gamma", 1.0) + beta


def slow_mobilenet(x, tensors):
    def unit(x, name, stride=1, last=False, depthwise=False):
        name = f"MobilenetV2/{name}"
        weights = tensors[f"{name}/{'depthwise_weights' if depthwise else 'weights'}"]
        x = slow_norm(slow_convolution(x, weights, stride, depthwise=depthwise), tensors, name)
        return x if last else x.clip(0, 6)

    x = unit(x, "Conv", 2)
    for k in range(17):
        block, before = f"expanded_conv_{k}" if k else "expanded_conv", x
        y = unit(x, f"{block}/expand") if k else x
        y = unit(y, f"{block}/depthwise", 2 if k in (1, 3, 6, 13) else 1, depthwise=True)
        x = unit(y, f"{block}/project", last=True)
        if x.shape == before.shape:
            x = x + before
    x = unit(x, "Conv_1").mean((0, 1))
    return x @ tensors["mobilenet_conv/Conv/weights"][0, 0] + tensors["mobilenet_conv/Conv/biases"]


def slow_transformer(x, numbers, tensors, separable, mode):
    def around(side):
        return [(side // 2, side // 2)] * 2

    def styled(x, name):
        scope, last = name.rsplit("/", 1)
        if separable:
            its_name = f"transformer/{scope}/dilate_{last}"
            weights = tensors[f"{its_name}/depthwise_weights"]
            x = slow_convolution(x, weights, pad=around(len(weights)), mode=mode, depthwise=True)
            x = x @ tensors[f"{its_name}/pointwise_weights"][0, 0]
        else:
            weights = tensors[f"transformer/{name}/weights"]
            x = slow_convolution(x, weights, pad=around(len(weights)), mode=mode)
        x = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
        its = f"style_params/transformer/{name}/StyleNorm"
        beta, gamma = (
            numbers @ tensors[f"{its}/{part}/weights"][0, 0] + tensors[f"{its}/{part}/biases"]
            for part in ("Conv", "Conv_1")
        )
        return x * gamma + beta

    for k in (1, 2, 3):
        name = f"transformer/contract/conv{k}"
        weights = tensors[f"{name}/weights"]
        x = slow_convolution(x, weights, 1 if k == 1 else 2, around(len(weights)), mode)
        x = slow_norm(x, tensors, name).clip(0)
    for block in range(1, 6):
        name = f"residual/residual{block}"
        x = x + styled(styled(x, f"{name}/conv1").clip(0), f"{name}/conv2")
    for k in (1, 2):
        x = styled(x.repeat(2, axis=0).repeat(2, axis=1), f"expand/conv{k}/conv").clip(0)
    return 1 / (1 + np.exp(-styled(x, "expand/conv3/conv")))


def maps(x):
    return torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32))


def test_the_small_predictor_is_its_slow_twin(tfjs, tmp_path, rng):
    tensors = tfjs.mobilenet(rng)
    tfjs.write(tmp_path, tensors)
    x = rng.random((37, 50, 3))
    found = Predictor(read_tfjs(tmp_path))(maps(x)).flatten().numpy()
    np.testing.assert_allclose(found, slow_mobilenet(x, tensors), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("op", ["Pad", "MirrorPad"])
def test_the_transformer_is_its_slow_twin(tfjs, tmp_path, rng, separable, op):
    tensors = tfjs.transformer(rng, separable)
    tfjs.write(tmp_path, tensors, nodes=[{"name": "transformer/contract/Pad", "op": op}])
    x, numbers = rng.random((18, 25, 3)), rng.standard_normal(6)
    network = Transformer(read_tfjs(tmp_path))
    assert (network.separable, network.mirrored) == (separable, op == "MirrorPad")
    found = network(maps(x), torch.from_numpy(numbers.astype(np.float32)).view(1, -1, 1, 1))[0].permute(1, 2, 0).numpy()
    wanted = slow_transformer(x, numbers, tensors, separable, "reflect" if op == "MirrorPad" else "constant")
    assert wanted.shape == found.shape == (20, 28, 3)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def of_torchvision(net):
    """The tensors of torchvision's Inception-v3 up to Mixed_6e, under the names of the manifest."""
    stem = ["1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"]
    names = {f"Conv2d_{name}": f"Conv2d_{name}" for name in stem}
    for block in ("5b", "5c", "5d"):
        middle = ("Conv2d_0b_1x1", "Conv_1_0c_5x5") if block == "5c" else ("Conv2d_0a_1x1", "Conv2d_0b_5x5")
        names |= {f"Mixed_{block}.branch1x1": "0/Conv2d_0a_1x1", f"Mixed_{block}.branch_pool": "3/Conv2d_0b_1x1"}
        names |= {f"Mixed_{block}.branch5x5_{k}": f"1/{name}" for k, name in enumerate(middle, start=1)}
        deep = ("0a_1x1", "0b_3x3", "0c_3x3")
        names |= {f"Mixed_{block}.branch3x3dbl_{k}": f"2/Conv2d_{name}" for k, name in enumerate(deep, start=1)}
    names["Mixed_6a.branch3x3"] = "0/Conv2d_1a_1x1"
    deep = ("0a_1x1", "0b_3x3", "1a_1x1")
    names |= {f"Mixed_6a.branch3x3dbl_{k}": f"1/Conv2d_{name}" for k, name in enumerate(deep, start=1)}
    for block in ("6b", "6c", "6d", "6e"):
        names |= {f"Mixed_{block}.branch1x1": "0/Conv2d_0a_1x1", f"Mixed_{block}.branch_pool": "3/Conv2d_0b_1x1"}
        deep = ("0a_1x1", "0b_1x7", "0c_7x1")
        names |= {f"Mixed_{block}.branch7x7_{k}": f"1/Conv2d_{name}" for k, name in enumerate(deep, start=1)}
        deep = ("0a_1x1", "0b_7x1", "0c_1x7", "0d_7x1", "0e_1x7")
        names |= {f"Mixed_{block}.branch7x7dbl_{k}": f"2/Conv2d_{name}" for k, name in enumerate(deep, start=1)}
    found = {}
    for module, name in names.items():
        unit, block = net.get_submodule(module), module.partition(".")[0]
        name = f"InceptionV3/{name}" if block == module else f"InceptionV3/{block}/Branch_{name}"
        found[f"{name}/weights"] = unit.conv.weight.permute(2, 3, 1, 0).numpy()
        norms = {"beta": unit.bn.bias, "moving_mean": unit.bn.running_mean, "moving_variance": unit.bn.running_var}
        found |= {f"{name}/BatchNorm/{key}": value.numpy() for key, value in norms.items()}
    return found


def test_the_large_predictor_is_torchvisions_inception(tfjs, tmp_path, rng, monkeypatch):
    """With ReLU6 and borders that do not count in averages, as the published graph has them."""
    from torch.nn import functional
    from torchvision.models import inception, inception_v3

    def average(x, **options):
        return functional.avg_pool2d(x, **options, count_include_pad=False)

    twins = {"relu": lambda x, inplace: functional.relu6(x), "avg_pool2d": average, "max_pool2d": functional.max_pool2d}
    monkeypatch.setattr(inception, "F", types.SimpleNamespace(**twins))
    net = inception_v3(weights=None, init_weights=False, transform_input=False).eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.bias.uniform_(0, 0.5)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.3, 1.2)
    head = {"Conv/weights": rng.standard_normal((1, 1, 768, 5)), "Conv/biases": rng.standard_normal(5)}
    tensors = of_torchvision(net) | {key: value.astype(np.float32) for key, value in head.items()}
    predictor = Predictor(TfjsModel(tensors, {}, tmp_path))
    x = torch.rand(1, 3, 99, 120)
    names = [name for name, _ in net.named_children()]
    wanted = x
    for name in names[: names.index("Mixed_6e") + 1]:
        if name != "AuxLogits":
            wanted = net.get_submodule(name)(wanted)
    assert predictor.kind == "inception" and wanted.shape == (1, 768, 4, 5)
    torch.testing.assert_close(predictor._inception(x), wanted, rtol=1e-3, atol=1e-4)
    numbers = wanted.mean((2, 3)).numpy() @ tensors["Conv/weights"][0, 0] + tensors["Conv/biases"]
    np.testing.assert_allclose(predictor(x).flatten(1), numbers, rtol=1e-3, atol=1e-4)


def test_the_large_predictor_is_read_from_files(tfjs, tmp_path, rng):
    tensors = tfjs.inception(rng)
    tfjs.write(tmp_path, tensors)
    assert Predictor(read_tfjs(tmp_path))(torch.rand(1, 3, 99, 120)).shape == (1, 6, 1, 1)
    del tensors["InceptionV3/Mixed_5c/Branch_1/Conv_1_0c_5x5/weights"]
    tfjs.write(tmp_path, tensors)
    with pytest.raises(WeightsError, match="Conv_1_0c_5x5"):
        Predictor(read_tfjs(tmp_path))


def test_epsilon_is_what_the_graph_says(tfjs, tmp_path, rng):
    tensors, x = tfjs.mobilenet(rng), torch.rand(1, 3, 40, 40)
    found = []
    for k, epsilon in enumerate((1e-3, 0.5)):
        node = {"name": "n", "op": "FusedBatchNorm", "attr": {"epsilon": {"f": epsilon}}}
        tfjs.write(tmp_path / str(k), tensors, nodes=[node])
        found.append(Predictor(read_tfjs(tmp_path / str(k)))(x))
    tfjs.write(tmp_path / "silent", tensors)
    assert torch.equal(Predictor(read_tfjs(tmp_path / "silent"))(x), found[0])
    assert not torch.equal(*found)


def test_parts():
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(instance_norm(x), torch.nn.functional.instance_norm(x, eps=1e-5))
    assert filters(np.arange(9 * 4, dtype=np.float32).reshape(3, 3, 4, 1), depthwise=True)[2, 0, 1, 0] == 3 * 4 + 2
    assert filters(np.arange(36, dtype=np.float32).reshape(3, 3, 2, 2))[1, 0, 2, 1] == 7 * 4 + 1
    assert same(torch.ones(1, 1, 4, 4), 3, 3, 2)[0, 0].tolist() == [[1.0] * 4 + [0.0]] * 4 + [[0.0] * 5]

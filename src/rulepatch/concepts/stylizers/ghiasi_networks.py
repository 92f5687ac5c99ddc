"""The networks of Ghiasi et al. (BMVC 2017), as their published TensorFlow.js graphs lay them out.

A *predictor* (Inception-v3 up to Mixed_6e, or the smaller MobileNetV2 that was trained to give the same) turns the
image of a style into 100 numbers. The *transformer* turns an image into an image: three convolutions with batch
norm, five residual blocks, two enlargements; the shift and scale of each instance norm are linear in the numbers.
https://arxiv.org/abs/1705.06830

Names of tensors are those of the manifests. What the graphs say and the papers do not: the ported transformer pads by
zeros (`Pad`, where the original mirrors, `MirrorPad`), the ported Inception has ReLU6, images come in as 0..1 without
any further normalisation, and batch norm has no scale but in MobileNetV2.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rulepatch.concepts.stylizers.tfjs import TfjsModel, filters
from rulepatch.errors import WeightsError

Pad = Callable[..., Tensor]
"""Pads maps, given the rows and columns of a kernel and the stride."""

__all__ = ["Predictor", "Transformer", "instance_norm", "same"]

_RESIDUAL = [f"residual/residual{block}/conv{k}" for block in range(1, 6) for k in (1, 2)]
_EXPAND = [f"expand/conv{k}/conv" for k in (1, 2, 3)]
_HALVING = frozenset({1, 3, 6, 13})
"""Blocks of MobileNetV2 that halve the map."""

_ADDING = frozenset({2, 4, 5, 7, 8, 9, 11, 12, 14, 15})
"""Blocks of MobileNetV2 that are added to what they read."""

_STEM = ["1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"]
_NARROW = [
    ["0a_1x1"],
    ["0a_1x1", "0b_5x5"],
    ["0a_1x1", "0b_3x3", "0c_3x3"],
    ["0b_1x1"],
]
_WIDE = [
    ["0a_1x1"],
    ["0a_1x1", "0b_1x7", "0c_7x1"],
    ["0a_1x1", "0b_7x1", "0c_1x7", "0d_7x1", "0e_1x7"],
    ["0b_1x1"],
]
_MIXED = {"5b": _NARROW, "5c": _NARROW, "5d": _NARROW, "6b": _WIDE, "6c": _WIDE, "6d": _WIDE, "6e": _WIDE}
"""Branches of Inception's blocks; the last of each begins with average pooling. 6a halves, and stands by itself."""


@dataclass(frozen=True, eq=False)
class _Source:
    """Takes tensors out of a model by their names, and knows at the end what was left."""

    model: TfjsModel
    taken: set[str]

    def array(self, name: str, rank: int) -> Tensor:
        if name not in self.model.tensors:
            raise WeightsError(
                f"expected the tensor {name} but {self.model.origin} lacks it; name the folder of the right model"
            )
        self.taken.add(name)
        found = self.model.tensors[name]
        if found.ndim != rank or found.dtype != np.float32 or not np.isfinite(found).all():
            raise WeightsError(
                f"expected {name} of {rank} axes and finite numbers but {self.model.origin} has {found.dtype} "
                f"{found.shape}; get a sound copy"
            )
        return torch.from_numpy(np.array(found))

    def kernel(self, name: str, *, depthwise: bool = False) -> Tensor:
        return filters(self.array(name, 4).numpy(), depthwise=depthwise)

    def close(self) -> None:
        """Refuse tensors that belong to no layer; integers are the graph's own, as are ones that stand for no scale."""
        for name, found in self.model.tensors.items():
            ones = name.endswith("BatchNorm/Const") and bool((found == 1).all())
            if name not in self.taken and found.dtype.kind == "f" and not ones and not name.endswith("batchnorm/add/y"):
                raise WeightsError(
                    f"expected no tensor {name} but {self.model.origin} has it; name the folder of the right model"
                )

    def epsilon(self) -> float:
        """Of batch norm: what the graph says, or else the usual of its library."""
        said = {
            float(node["attr"]["epsilon"]["f"])
            for node in self.model.nodes.values()
            if str(node.get("op", "")).startswith("FusedBatchNorm") and "epsilon" in node.get("attr", {})
        }
        if len(said) > 1:
            raise WeightsError(f"expected one epsilon of batch norm but {self.model.origin} has {sorted(said)}")
        epsilon = said.pop() if said else 1e-3
        if not 0 < epsilon < 1:
            raise WeightsError(f"expected an epsilon of batch norm in 0..1 but {self.model.origin} has {epsilon:g}")
        return epsilon


class _Unit(nn.Module):
    """A convolution, batch norm as one multiplication and one addition, and perhaps an activation."""

    weight: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        source: _Source,
        name: str,
        *,
        stride: int = 1,
        pad: Pad | None = None,
        depthwise: bool = False,
        activation: Callable[[Tensor], Tensor] | None = F.relu6,
    ) -> None:
        super().__init__()
        kernel = source.kernel(f"{name}/{'depthwise_weights' if depthwise else 'weights'}", depthwise=depthwise)
        norm = f"{name}/BatchNorm"
        mean, variance, beta = (source.array(f"{norm}/{n}", 1) for n in ("moving_mean", "moving_variance", "beta"))
        has_scale = f"{norm}/gamma" in source.model.tensors
        gamma = source.array(f"{norm}/gamma", 1) if has_scale else torch.ones_like(beta)
        if {len(kernel)} != {len(each) for each in (mean, variance, beta, gamma)}:
            raise WeightsError(f"expected batch norm of {len(kernel)} channels at {name} in {source.model.origin}")
        scale = gamma.double() / (variance.double() + source.epsilon()).sqrt()
        self.register_buffer("weight", kernel)
        self.register_buffer("scale", scale.float().view(1, -1, 1, 1))
        self.register_buffer("shift", (beta.double() - mean.double() * scale).float().view(1, -1, 1, 1))
        self.stride, self.pad, self.activation, self.groups = stride, pad, activation, len(kernel) if depthwise else 1

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps of maps (n, c, h, w)."""
        if self.pad is not None:
            rows, columns = self.weight.shape[-2:]
            x = self.pad(x, rows, columns, self.stride)
        x = F.conv2d(x, self.weight, stride=self.stride, groups=self.groups) * self.scale + self.shift
        return x if self.activation is None else self.activation(x)


class Predictor(nn.Module):
    """Style numbers (1, c, 1, 1) of a style's image (1, 3, h, w), 0..1.

    Attributes:
        kind: "mobilenet" or "inception", whichever the tensors are of.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, model: TfjsModel) -> None:
        super().__init__()
        source = _Source(model, set())
        self.units = nn.ModuleDict()
        self.kind = "mobilenet" if any(name.startswith("MobilenetV2/") for name in model.tensors) else "inception"
        if self.kind == "mobilenet":
            self._add_mobilenet(source)
        else:
            self._add_inception(source)
        last = "mobilenet_conv/Conv" if self.kind == "mobilenet" else "Conv"
        self.register_buffer("weight", source.kernel(f"{last}/weights"))
        self.register_buffer("bias", source.array(f"{last}/biases", 1))
        source.close()

    def forward(self, x: Tensor) -> Tensor:
        """Return the style numbers of an image."""
        x = self._mobilenet(x) if self.kind == "mobilenet" else self._inception(x)
        return F.conv2d(x.mean((2, 3), keepdim=True), self.weight, self.bias)

    def _add_mobilenet(self, source: _Source) -> None:
        def add(name: str, **options: object) -> None:
            self.units[name] = _Unit(source, f"MobilenetV2/{name}", pad=same, **options)  # type: ignore[arg-type]

        add("Conv", stride=2)
        for k in range(17):
            block = f"expanded_conv_{k}" if k else "expanded_conv"
            if k:
                add(f"{block}/expand")
            add(f"{block}/depthwise", depthwise=True, stride=2 if k in _HALVING else 1)
            add(f"{block}/project", activation=None)
        add("Conv_1")

    def _mobilenet(self, x: Tensor) -> Tensor:
        x = self.units["Conv"](x)
        for k in range(17):
            block, before = f"expanded_conv_{k}" if k else "expanded_conv", x
            for part in ("expand", "depthwise", "project") if k else ("depthwise", "project"):
                x = self.units[f"{block}/{part}"](x)
            if k in _ADDING:
                x = x + before
        return self.units["Conv_1"](x)

    def _add_inception(self, source: _Source) -> None:
        def add(name: str, *, stride: int = 1, padded: bool = True) -> None:
            pad = same if padded else None
            self.units[name] = _Unit(source, f"InceptionV3/{name}", stride=stride, pad=pad)

        for name in _STEM:
            add(f"Conv2d_{name}", stride=2 if name == "1a_3x3" else 1, padded=name == "2b_3x3")
        for block, branches in _MIXED.items():
            for k, names in enumerate(branches):
                for name in names:
                    add(_unit_name(block, k, name))
        add("Mixed_6a/Branch_0/Conv2d_1a_1x1", stride=2, padded=False)  # 3 x 3, whatever they are called
        add("Mixed_6a/Branch_1/Conv2d_0a_1x1")
        add("Mixed_6a/Branch_1/Conv2d_0b_3x3")
        add("Mixed_6a/Branch_1/Conv2d_1a_1x1", stride=2, padded=False)

    def _inception(self, x: Tensor) -> Tensor:
        for name in _STEM:
            x = self.units[f"Conv2d_{name}"](x)
            if name in {"2b_3x3", "4a_3x3"}:
                x = F.max_pool2d(x, 3, 2)
        for block, branches in _MIXED.items():
            if block == "6b":
                half = x
                for name in ("0a_1x1", "0b_3x3", "1a_1x1"):
                    half = self.units[f"Mixed_6a/Branch_1/Conv2d_{name}"](half)
                x = torch.cat([self.units["Mixed_6a/Branch_0/Conv2d_1a_1x1"](x), half, F.max_pool2d(x, 3, 2)], dim=1)
            found = []
            for k, names in enumerate(branches):
                y = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) if k == len(branches) - 1 else x
                for name in names:
                    y = self.units[_unit_name(block, k, name)](y)
                found.append(y)
            x = torch.cat(found, dim=1)
        return x


def _unit_name(block: str, branch: int, name: str) -> str:
    """The published name of a convolution; one block of Inception was named otherwise than the rest."""
    if (block, branch) == ("5c", 1):
        name = {"0a_1x1": "Conv2d_0b_1x1", "0b_5x5": "Conv_1_0c_5x5"}[name]
    else:
        name = f"Conv2d_{name}"
    return f"Mixed_{block}/Branch_{branch}/{name}"


class Transformer(nn.Module):
    """An image (1, 3, h, w), 0..1, in the style of style numbers (1, c, 1, 1).

    Attributes:
        separable: whether each convolution after the third is one of each channel and one of each position.
        mirrored: whether maps are padded as in a mirror (the original) or by zeros (the published port).
    """

    def __init__(self, model: TfjsModel) -> None:
        super().__init__()
        source = _Source(model, set())
        self.separable = any(name.endswith("/pointwise_weights") for name in model.tensors)
        self.mirrored = any(node.get("op") == "MirrorPad" for node in model.nodes.values())
        self.contract = nn.ModuleList(
            _Unit(
                source, f"transformer/contract/conv{k}", stride=1 if k == 1 else 2, pad=self._padded, activation=F.relu
            )
            for k in (1, 2, 3)
        )
        self.kernels, self.styles = nn.ParameterDict(), nn.ParameterDict()
        for name in [*_RESIDUAL, *_EXPAND]:
            for part, kernel in self._kernels(source, name).items():
                self.kernels[f"{name}/{part}"] = nn.Parameter(kernel, requires_grad=False)
            for part, its_name in (("shift", "Conv"), ("scale", "Conv_1")):
                its_scope = f"style_params/transformer/{name}/StyleNorm/{its_name}"
                weight, bias = source.kernel(f"{its_scope}/weights"), source.array(f"{its_scope}/biases", 1)
                self.styles[f"{name}/{part}/weight"] = nn.Parameter(weight, requires_grad=False)
                self.styles[f"{name}/{part}/bias"] = nn.Parameter(bias, requires_grad=False)
        source.close()

    def forward(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Return the stylised image, a few pixels larger where sides are no multiples of 4."""
        for unit in self.contract:
            x = unit(x)
        for first, second in zip(_RESIDUAL[::2], _RESIDUAL[1::2], strict=True):
            x = x + self._styled(self._styled(x, first, numbers).relu(), second, numbers)
        for name in _EXPAND[:2]:
            x = self._styled(F.interpolate(x, scale_factor=2.0), name, numbers).relu()
        return self._styled(x, _EXPAND[2], numbers).sigmoid()

    def _kernels(self, source: _Source, name: str) -> Mapping[str, Tensor]:
        if not self.separable:
            return {"weights": source.kernel(f"transformer/{name}/weights")}
        scope, _, last = f"transformer/{name}".rpartition("/")
        its_name = f"{scope}/dilate_{last}"
        return {
            "depthwise": source.kernel(f"{its_name}/depthwise_weights", depthwise=True),
            "pointwise": source.kernel(f"{its_name}/pointwise_weights"),
        }

    def _styled(self, x: Tensor, name: str, numbers: Tensor) -> Tensor:
        """A convolution, and instance norm with the shift and scale of the style."""
        first = self.kernels[f"{name}/{'depthwise' if self.separable else 'weights'}"]
        rows, columns = first.shape[-2:]
        x = F.conv2d(self._padded(x, rows, columns, 1), first, groups=len(first) if self.separable else 1)
        if self.separable:
            x = F.conv2d(x, self.kernels[f"{name}/pointwise"])
        shift, scale = (
            F.conv2d(numbers, self.styles[f"{name}/{part}/weight"], self.styles[f"{name}/{part}/bias"])
            for part in ("shift", "scale")
        )
        return instance_norm(x) * scale + shift

    def _padded(self, x: Tensor, rows: int, columns: int, _: int) -> Tensor:
        sides = (columns // 2, columns // 2, rows // 2, rows // 2)
        return F.pad(x, sides, mode="reflect" if self.mirrored else "constant")


def instance_norm(x: Tensor) -> Tensor:
    """Return maps with each channel brought to mean 0 and variance 1 over its positions, of maps (n, c, h, w).

    Examples:
        >>> instance_norm(torch.tensor([[[[1.0, 3.0]]]])).round().tolist()
        [[[[-1.0, 1.0]]]]
    """
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    return (x - mean) * (variance + 1e-5).rsqrt()


def same(x: Tensor, rows: int, columns: int, stride: int) -> Tensor:
    """Return maps (n, c, h, w) padded by zeros as TensorFlow's "SAME" does: what is odd comes last.

    Examples:
        >>> same(torch.ones(1, 1, 4, 5), 3, 3, 2).shape
        torch.Size([1, 1, 5, 7])
    """
    sides = []
    for side, kernel in ((x.shape[3], columns), (x.shape[2], rows)):
        whole = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        sides += [whole // 2, whole - whole // 2]
    return F.pad(x, sides)

"""Recorded tensor operations: their inputs and outputs, and their effect on channels."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch._ops import OpOverload

__all__ = ["CHANNEL_NORMS", "COPIES", "MATRIX_PRODUCTS", "PRODUCTS", "Kind", "Ref", "Step", "kind_of", "name_of"]

Kind = Literal["affine", "elementwise", "pool", "layout", "mixing"]

# Names of operators without overloads. Others mix channels unless PyTorch tags them as pointwise.
_NORMS = {
    "_batch_norm_no_update", "_batch_norm_with_update", "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training", "batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "native_batch_norm",
}  # fmt: skip
_AFFINE = {"add", "add_", "div", "div_", "mul", "mul_", "neg", "neg_", "rsub", "sub", "sub_"} | _NORMS
_POOLS = {"_adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d_with_indices"}
_LAYOUT = {
    "_to_copy", "_unsafe_view", "alias", "clone", "contiguous", "detach", "permute", "reshape", "t", "transpose",
    "view",
}  # fmt: skip
COPIES = {"expand", "pad", "constant_pad_nd", "squeeze", "unsqueeze"}
MATRIX_PRODUCTS = frozenset({"addmm", "baddbmm", "bmm", "linear", "matmul", "mm"})
PRODUCTS = MATRIX_PRODUCTS | {
    "_convolution", "_convolution_mode", "conv2d", "convolution", "convolution_overrideable", "cudnn_convolution",
    "miopen_convolution", "mkldnn_convolution", "mkldnn_linear", "mps_convolution", "_mps_convolution",
}  # fmt: skip
_UNTAGGED = {"hardtanh_"}  # pointwise, but not tagged so in older releases of PyTorch
CHANNEL_NORMS = frozenset({"native_layer_norm", "native_group_norm", "_fused_rms_norm", "rms_norm"})
"""Normalisations over channels: they mix channels but keep positions."""


@dataclass(frozen=True)
class Ref:
    """Reference to a numbered tensor in the arguments of a step."""

    number: int


@dataclass(frozen=True)
class Step:
    """One tensor operation.

    Attributes:
        operator: the ATen operator.
        arguments: positional and keyword arguments, tensors replaced by references.
        reads: numbers of the tensors read, in order.
        mutates: numbers, before and after, of tensors written in place.
        writes: number of each tensor in the result, in order; shapes of the same.
        call: which module call it belongs to, as an index into the trace's calls; -1 for none.
    """

    operator: OpOverload
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    reads: tuple[int, ...]
    mutates: tuple[tuple[int, int], ...]
    writes: tuple[int, ...]
    call: int


def name_of(step: Step) -> str:
    """Name of a step's operator, without its overload."""
    return step.operator.overloadpacket.__name__


def kind_of(step: Step) -> Kind:
    """Effect of a step on the channels of a tensor.

    Returns:
        "affine" (batch norm, sums and products with constants), "elementwise", "pool" (over positions only),
        "layout" (the same numbers in another order), or "mixing" for anything else.
    """
    name = name_of(step)
    if name in _AFFINE:
        return "affine"
    if name in _LAYOUT:
        return "layout"
    if name in _POOLS:
        return "pool"
    return "elementwise" if name in _UNTAGGED or torch.Tag.pointwise in step.operator.tags else "mixing"

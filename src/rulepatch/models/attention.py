"""PyTorch's multi-head attention with an output projection that is called, so that it can be edited like any layer."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["call_projections"]


class _CalledAttention(nn.MultiheadAttention):
    """Forward of `nn.MultiheadAttention` that calls the output projection for self-attention without masks."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        """Attend; as the parent does, whose arguments these are.

        Returns:
            The output, and the attention's weights if they were asked for.
        """
        need_weights = kwargs.get("need_weights", args[1] if len(args) > 1 else True)
        masks = (kwargs.get("attn_mask"), kwargs.get("key_padding_mask"), args[0] if args else None, *args[2:3])
        plain = self._qkv_same_embed_dim and self.bias_k is None and not self.add_zero_attn and query.ndim == 3
        if need_weights or not (query is key is value) or any(mask is not None for mask in masks) or not plain:
            return super().forward(query, key, value, *args, **kwargs)
        tokens = query if self.batch_first else query.transpose(0, 1)
        heads = F.linear(tokens, self.in_proj_weight, self.in_proj_bias).unflatten(2, (3, self.num_heads, -1))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        gathered = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        gathered = gathered.transpose(1, 2).flatten(2)
        return self.out_proj(gathered if self.batch_first else gathered.transpose(0, 1)), None


def call_projections(module: nn.Module) -> nn.Module:
    """Let every multi-head attention of a network call its output projection instead of reading its weight.

    The network's weights, their names and what it computes stay the same, up to rounding.

    Args:
        module: the network; changed in place.

    Examples:
        >>> attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
        >>> type(call_projections(nn.Sequential(attention))[0]).__mro__[1].__name__
        'MultiheadAttention'
    """
    for part in module.modules():
        if type(part) is nn.MultiheadAttention:
            part.__class__ = _CalledAttention
    return module

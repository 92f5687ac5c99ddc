"""The playground's network: plain 3×3 convolutions, small enough to be committed with the code."""

from torch import Tensor, nn

__all__ = ["PlaygroundNetwork"]

CHANNELS = (24, 48, 64, 64, 96, 96, 96)
"""Output channels of each block."""

POOLED = frozenset({0, 1, 3})
"""Blocks that end by halving height and width."""


class Block(nn.Module):
    """Convolution, batch norm, ReLU and perhaps a max pool."""

    def __init__(self, channels_in: int, channels_out: int, *, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, c_out, h, w) for (n, c_in, h, w), or half the height and width."""
        pooled: Tensor = self.pool(self.relu(self.norm(self.conv(x))))
        return pooled


class PlaygroundNetwork(nn.Module):
    """A classifier of 64 by 64 images with editable sites `blocks.0.conv` to `blocks.6.conv`.

    Examples:
        >>> import torch
        >>> PlaygroundNetwork(classes=21)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 21])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = zip((3, *CHANNELS), CHANNELS, strict=False)
        self.blocks = nn.Sequential(*(Block(a, b, pool=i in POOLED) for i, (a, b) in enumerate(widths)))
        self.head = nn.Linear(CHANNELS[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) for normalised images (n, 3, 64, 64)."""
        logits: Tensor = self.head(self.blocks(x).mean(dim=(2, 3)))
        return logits

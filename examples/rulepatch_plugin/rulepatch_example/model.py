"""A source of one model, `day-night`: a network that tells bright pictures from dark ones."""

import torch
from torch import nn

from rulepatch import Classes, Preprocess
from rulepatch.models import Request, Sourced, source


@source("day-night")
def load(request: Request) -> Sourced:
    """The network, how pictures are prepared for it, and its classes."""
    convolution, head = nn.Conv2d(3, 2, 1), nn.Linear(2, 2)
    with torch.no_grad():  # a real source would read weights here, if `request.pretrained`
        convolution.weight[0], convolution.weight[1] = 1 / 3, -1 / 3
        head.weight.copy_(8 * torch.eye(2))
        convolution.bias.zero_(), head.bias.zero_()
    network = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return Sourced(network, Preprocess((64, 64), mean=(0.5,) * 3, std=(0.5,) * 3), Classes(("day", "night")))

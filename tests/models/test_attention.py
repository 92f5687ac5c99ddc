"""Attention whose output projection is called computes what PyTorch's does, and its projection is a site."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from rulepatch.models.attention import call_projections
from rulepatch.models.registry import load_skeleton
from rulepatch.tracing.sites import find_sites


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_it_did(batch_first, bias, training):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 3, batch_first=batch_first, bias=bias).train(training)
    twin = call_projections(copy.deepcopy(attention))
    tokens = torch.randn(2, 5, 12)
    assert type(twin) is not nn.MultiheadAttention and twin.state_dict().keys() == attention.state_dict().keys()
    expected, got = (each(tokens, tokens, tokens, need_weights=False)[0] for each in (attention, twin))
    torch.testing.assert_close(got, expected)
    length = 5 if batch_first else 2
    mask = torch.zeros(length, length, dtype=torch.bool).fill_diagonal_(True)
    for settings in ({}, {"attn_mask": mask, "need_weights": False}, {"need_weights": True}):
        for one, other in zip(
            attention(tokens, tokens, tokens, **settings), twin(tokens, tokens, tokens, **settings), strict=True
        ):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)
    other = torch.randn(2, 5, 12)
    torch.testing.assert_close(twin(tokens, other, other)[0], attention(tokens, other, other)[0])


def test_projections_of_torchvision_are_sites():
    net = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3).eval()
    inputs = torch.rand(2, 3, 32, 32)
    nn.init.normal_(net.heads.head.weight)
    expected, path = net(inputs), "encoder.layers.encoder_layer_1.self_attention.out_proj"
    assert path in {refused.path for refused in find_sites(net, inputs[:1]).refused}
    site = find_sites(call_projections(net), inputs[:1]).site(path)
    torch.testing.assert_close(net(inputs), expected)
    assert site.exact and site.layout == "4×4, 1 apart"


def test_a_model_by_name_has_them():
    skeleton = load_skeleton("torchvision/vit_b_32")
    paths = {site.path for site in find_sites(skeleton.module, skeleton.example()).sites}
    assert "encoder.layers.encoder_layer_11.self_attention.out_proj" in paths

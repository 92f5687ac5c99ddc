import json
import socket

import numpy as np
import pytest
import torch
from PIL import Image

NET = """
import torch
from torch import nn

import rulepatch as rp


def module(classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             nn.Linear(4, classes))


def build(classes=3):
    return rp.Classifier(module(classes), rp.Preprocess((16, 16)), [f"class {i}" for i in range(classes)])
"""

TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
CLIPS = {
    "tiny-RN": {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "patch_size": None},
        "text_cfg": TEXT,
    },
    "tiny-ViT": {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": TEXT,
    },
    "tiny-custom": {
        "embed_dim": 12,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "tiny-CoCa": {
        "embed_dim": 12,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 16,
            "head_width": 8,
            "patch_size": 8,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 20, "vocab_size": 49408, "width": 12, "heads": 2, "layers": 1},
    },
}
"""Models of open_clip of every kind, small."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No test reaches for the network; the hub's libraries know that it is not there."""

    def refuse(*args, **kwargs):
        raise AssertionError("a connection")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def net_file(tmp_path):
    """A Python file with a function `module` that returns a network and `build` that returns a classifier."""
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


@pytest.fixture
def clips(monkeypatch):
    """Names of the small models that open_clip knows for the length of a test."""
    factory = pytest.importorskip("open_clip").factory
    for name, config in CLIPS.items():
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, json.loads(json.dumps(config)))
    return list(CLIPS)


@pytest.fixture
def hf_folder(tmp_path):
    """Folders of small classifiers as Hugging Face publishes them: a ResNet or a ViT of three classes."""
    transformers = pytest.importorskip("transformers")
    names = dict(enumerate(("red", "green", "blue")))

    def make(kind="resnet", folder="hf", **settings):
        torch.manual_seed(3)
        if kind == "resnet":
            config = transformers.ResNetConfig(
                hidden_sizes=[8, 12], depths=[1, 1], embedding_size=8, layer_type="basic", id2label=names, **settings
            )
            module = transformers.ResNetForImageClassification(config)
            processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875)
        else:
            config = transformers.ViTConfig(
                **{
                    "hidden_size": 16,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "intermediate_size": 24,
                    "image_size": 32,
                    "patch_size": 8,
                    "id2label": names,
                    **settings,
                }
            )
            module = transformers.ViTForImageClassification(config)
            processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # or every logit is nearly zero
        transformers.utils.logging.disable_progress_bar()
        module.save_pretrained(tmp_path / folder)
        processor.save_pretrained(tmp_path / folder)
        transformers.utils.logging.enable_progress_bar()
        return tmp_path / folder

    return make


@pytest.fixture
def picture():
    """Make an image of noise."""

    def make(width, height, seed=0):
        rng = np.random.default_rng(seed)
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    return make

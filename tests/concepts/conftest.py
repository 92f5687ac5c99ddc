"""Small random segmenters of every kind, as files that are loaded by name."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rulepatch.core.changes import LowRank
from rulepatch.core.edit import Edit, base_digest
from rulepatch.models.registry import load_model, save_weights
from rulepatch.playground.pictures import training_images

WORDS = ("red", "road", "wheels")
CLASSES = {0: "road", 1: "sky, heaven", 2: "Wheels", 3: "red"}


def clip_tokenizer():
    """Letters alone, at a word's end or not."""
    transformers = pytest.importorskip("transformers")
    letters = sorted(pytest.importorskip("tokenizers").pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=32)


def bert_tokenizer():
    transformers = pytest.importorskip("transformers")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS, *letters, *("##" + each for each in letters)]
    return transformers.BertTokenizer(vocab={token: number for number, token in enumerate(tokens)})


def text_settings(tokenizer):
    last = len(tokenizer) - 1
    special = {"bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    layers = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {"vocab_size": last + 1, "max_position_embeddings": 32, **layers, **special}


def swin(**settings):
    transformers = pytest.importorskip("transformers")
    return transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, **settings
    )


def clipseg(folder):
    import transformers

    tokenizer = clip_tokenizer()
    layers = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.CLIPSegConfig(
        text_config=text_settings(tokenizer),
        vision_config={**layers, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        extract_layers=[0, 1, 2],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    transformers.CLIPSegForImageSegmentation(config).save_pretrained(folder)
    image = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    transformers.CLIPSegProcessor(image, tokenizer).save_pretrained(folder)


def grounding_dino(folder):
    import transformers

    tokenizer = bert_tokenizer()
    text = text_settings(tokenizer) | {"max_position_embeddings": 64, "pad_token_id": 0}
    config = transformers.GroundingDinoConfig(
        backbone_config=swin(out_indices=[2, 3, 4]),
        text_config=transformers.BertConfig(**text),
        num_queries=5,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        d_model=32,
        max_text_len=64,
    )
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    image = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 256})
    transformers.GroundingDinoProcessor(image, tokenizer).save_pretrained(folder)


def sam2(folder):
    import transformers
    from transformers.models import sam2 as parts

    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 24, 32],
        num_attention_heads_per_stage=[1] * 4,
        window_size_per_stage=[4] * 4,
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[32, 24, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
    )
    config = transformers.Sam2Config(
        vision_config=vision,
        prompt_encoder_config=parts.Sam2PromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16),
        mask_decoder_config=parts.Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=24, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        ),
    )
    transformers.Sam2Model(config).save_pretrained(folder)
    sizes = {"size": {"height": 64, "width": 64}, "mask_size": {"height": 16, "width": 16}}
    transformers.Sam2Processor(transformers.Sam2ImageProcessor(**sizes)).save_pretrained(folder)


def sam3(folder):
    import transformers
    from transformers.models import sam3 as parts

    tokenizer = clip_tokenizer()
    layers = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 24}
    backbone = parts.Sam3ViTConfig(
        **layers,
        num_hidden_layers=2,
        image_size=56,
        pretrain_image_size=28,
        patch_size=14,
        window_size=2,
        global_attn_indexes=[1],
    )
    vision = transformers.Sam3VisionConfig(
        backbone_config=backbone, fpn_hidden_size=32, backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]]
    )
    config = transformers.Sam3Config(
        vision_config=vision,
        text_config=text_settings(tokenizer) | {"projection_dim": 16},
        geometry_encoder_config={**layers, "num_layers": 1},
        detr_encoder_config={**layers, "num_layers": 1},
        detr_decoder_config={**layers, "num_layers": 1, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )
    transformers.Sam3Model(config).save_pretrained(folder)
    sizes = {"size": {"height": 56, "width": 56}, "mask_size": {"height": 16, "width": 16}}
    transformers.Sam3Processor(transformers.Sam3ImageProcessor(**sizes), tokenizer).save_pretrained(folder)


UNIVERSAL = {
    "hidden_dim": 32,
    "encoder_feedforward_dim": 24,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "dim_feedforward": 24,
    "num_queries": 4,
    "id2label": CLASSES,
}


def mask2former(folder):
    import transformers

    backbone = swin(out_features=[f"stage{stage}" for stage in (1, 2, 3, 4)])
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, **UNIVERSAL
    )
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    size = {"shortest_edge": 60, "longest_edge": 130}
    padded = {"height": 160, "width": 192}
    transformers.Mask2FormerImageProcessor(size=size, size_divisor=32, pad_size=padded).save_pretrained(folder)


def oneformer(folder):
    import transformers

    tokenizer = clip_tokenizer()
    config = transformers.OneFormerConfig(
        backbone_config=swin(out_features=[f"stage{stage}" for stage in (1, 2, 3, 4)]),
        conv_dim=32,
        mask_dim=32,
        query_dec_layers=1,
        task_seq_len=32,
        text_encoder_width=16,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=len(tokenizer),
        text_encoder_context_length=32,
        text_encoder_n_ctx=4,
        **UNIVERSAL,
    )
    transformers.OneFormerForUniversalSegmentation(config).save_pretrained(folder)
    (folder / "classes.json").write_text(
        json.dumps({str(number): {"name": name, "isthing": 0} for number, name in CLASSES.items()})
    )
    image = transformers.OneFormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 128}, repo_path=str(folder), class_info_file="classes.json"
    )
    transformers.OneFormerProcessor(image, tokenizer, task_seq_length=32).save_pretrained(folder)
    (folder / "classes.json").unlink()  # published folders do not have it


@dataclass(frozen=True)
class Sample:
    """A segmenter to load, and what it can be asked."""

    name: str
    concepts: tuple[str, ...]
    pictures: tuple[Image.Image | Path, ...]
    settings: dict = field(default_factory=dict)


def noise(width, height):
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = (noise(90, 50), noise(41, 70))


def _of_hugging_face(*makers):
    def make(folder, seed):
        pytest.importorskip("transformers")
        names = []
        for maker in makers:
            torch.manual_seed(seed)
            part = folder / maker.__name__
            part.mkdir()
            maker(part)
            names.append(str(part))
        kind = "grounded-sam" if len(makers) > 1 else makers[0].__name__
        return Sample(f"{kind}/{'+'.join(names)}", ("road", "Wheels"), PICTURES)

    return make


def _of_torchvision(folder, seed):
    from torchvision import models

    torch.manual_seed(seed)
    module = models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=21)
    save_weights(module, folder / "w.safetensors")
    settings = {"weights": folder / "w.safetensors"}
    return Sample("torchvision/lraspp_mobilenet_v3_large", ("dining_table", "Bus"), PICTURES, settings)


def _of_files(folder, seed):
    rng = np.random.default_rng(seed)
    paths = []
    for number, picture in enumerate(PICTURES):
        paths.append(folder / f"{number}.png")
        picture.save(paths[-1])
        for concept in ("road", "wheels"):
            (folder / "masks" / concept).mkdir(parents=True, exist_ok=True)
            mask = rng.integers(0, 2, (picture.height, picture.width), dtype=np.uint8) * 255
            Image.fromarray(mask).save(folder / "masks" / concept / f"{number}.png")
    return Sample(f"files/{folder / 'masks'}", ("road", "Wheels"), tuple(paths))


def _of_the_playground(folder, seed):
    images = training_images(2, seed=1)
    return Sample("playground", ("ground", "Wheels", "road"), tuple(each.source for each in images.pictures))


def _of_context(folder, seed):
    model = load_model("playground")
    torch.manual_seed(seed)
    layer = model.module.get_submodule("blocks.3.conv")
    direction = torch.nn.functional.normalize(torch.randn(1, layer.in_channels), dim=1)
    change = LowRank("blocks.3.conv", "blocks.3", direction, torch.zeros(layer.out_channels, 1, *layer.kernel_size))
    provenance = {"exemplars": [{"replacement": "snow"}]}
    Edit((change,), base_digest(model.module), provenance).save(folder / "edit.safetensors")
    settings = {"model": model, "reference": training_images(20, seed=2), "cache": None, "progress": False}
    return Sample(f"context/{folder / 'edit.safetensors'}", ("Snow",), PICTURES, settings)


SAMPLES = {
    "clipseg": _of_hugging_face(clipseg),
    "sam3": _of_hugging_face(sam3),
    "grounded-sam": _of_hugging_face(grounding_dino, sam2),
    "mask2former": _of_hugging_face(mask2former),
    "oneformer": _of_hugging_face(oneformer),
    "torchvision": _of_torchvision,
    "files": _of_files,
    "playground": _of_the_playground,
    "context": _of_context,
}


@pytest.fixture(scope="session")
def segmenter_sample(tmp_path_factory):
    """A small segmenter of a kind; another seed gives one that answers otherwise, if there can be one."""
    made = {}

    def sample(kind, seed=0):
        if (kind, seed) not in made:
            made[kind, seed] = SAMPLES[kind](tmp_path_factory.mktemp(kind), seed)
        return made[kind, seed]

    return sample

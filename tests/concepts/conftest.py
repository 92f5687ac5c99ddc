"""Tiny random segmenters and stylizers of every kind, written to files as they are published, to be loaded by name."""

import json
import math
import string
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

VGG19 = [
    (0, 4),
    (2, 4),
    (5, 5),
    (7, 5),
    (10, 6),
    (12, 6),
    (14, 6),
    (16, 6),
    (19, 7),
    (21, 7),
    (23, 7),
    (25, 7),
    (28, 8),
]
NORMALISED = [(0, 3), (2, 4), (5, 4), (9, 5), (12, 5), (16, 6), (19, 6), (22, 6), (25, 6), (29, 7), (32, 7)]
DECODER = [(1, 6), (5, 6), (8, 6), (11, 6), (14, 5), (18, 5), (21, 4), (25, 4), (28, 3)]


def convolutions(layout, channels, seed, prefix=""):
    """A state dict of convolutions of 3 × 3 at the indices of a layout, the published one's with few channels."""
    torch.manual_seed(seed)
    state = {}
    for index, width in layout:
        side = 1 if prefix == "" and layout is NORMALISED and index == 0 else 3
        weight = torch.randn(width, channels, side, side) / math.sqrt(channels * side**2 / 2)
        state |= {f"{prefix}{index}.weight": weight, f"{prefix}{index}.bias": 0.1 * torch.randn(width)}
        channels = width
    return state


def gatys(folder, seed=0):
    torch.save(convolutions(VGG19, 3, seed, "features."), folder / "vgg.pth")
    return f"gatys/{folder / 'vgg.pth'}", {"steps": 8, "style_weight": 1e4}


def adain(folder, seed=0):
    torch.save(convolutions(NORMALISED, 3, seed), folder / "vgg_normalised.pth")
    torch.save(convolutions(DECODER, 7, seed + 100), folder / "decoder.pth")
    return f"adain/{folder / 'vgg_normalised.pth'}+{folder / 'decoder.pth'}", {}


def ghiasi(folder, seed=0, kind="mobilenet", separable=True):
    """The manifests' names and order of axes, with few channels."""
    rng = np.random.default_rng(seed)
    predictor = mobilenet_tensors(rng) if kind == "mobilenet" else inception_tensors(rng)
    write_tfjs(folder / "style", predictor, shards=3)
    write_tfjs(folder / "transformer", transformer_tensors(rng, separable), shards=2)
    return f"ghiasi/{folder}", {}


def write_tfjs(folder, tensors, *, shards=1, nodes=()):
    """An independent writer of the format: bytes in the order of the manifest, cut into shards of equal length."""
    folder.mkdir(parents=True, exist_ok=True)
    content, weights = b"", []
    for name, array in tensors.items():
        kind = {"f": "float32", "i": "int32"}[array.dtype.kind]
        content += array.astype("<f4" if kind == "float32" else "<i4").tobytes(order="C")
        weights.append({"name": name, "shape": list(array.shape), "dtype": kind})
    names, length = [f"group1-shard{k + 1}of{shards}" for k in range(shards)], -(-len(content) // shards)
    for k, name in enumerate(names):
        (folder / name).write_bytes(content[k * length : (k + 1) * length])
    manifest = [{"paths": names, "weights": weights}]
    described = {"modelTopology": {"node": list(nodes)}, "weightsManifest": manifest}
    (folder / "model.json").write_text(json.dumps(described))


def kernel(rng, rows, columns, read, given):
    return (rng.standard_normal((rows, columns, read, given)) / math.sqrt(rows * columns * read / 2)).astype(np.float32)


def norm(rng, name, channels, gamma=False):
    found = {f"{name}/BatchNorm/gamma": rng.uniform(0.5, 1.5, channels)} if gamma else {}
    found |= {
        f"{name}/BatchNorm/beta": rng.normal(0.3, 0.3, channels),
        f"{name}/BatchNorm/moving_mean": rng.normal(0, 0.3, channels),
        f"{name}/BatchNorm/moving_variance": rng.uniform(0.5, 1.5, channels),
    }
    return {key: value.astype(np.float32) for key, value in found.items()}


def mobilenet_tensors(rng, numbers=6):
    found, scope = {}, "MobilenetV2"
    widths = [4, 5, 5, 6, 6, 6, 7, 7, 7, 7, 8, 8, 8, 9, 9, 9, 10]
    found |= {f"{scope}/Conv/weights": kernel(rng, 3, 3, 3, 6)} | norm(rng, f"{scope}/Conv", 6, gamma=True)
    read = 6
    for k, width in enumerate(widths):
        block, inner = f"{scope}/expanded_conv_{k}" if k else f"{scope}/expanded_conv", 2 * read if k else read
        if k:
            found |= {f"{block}/expand/weights": kernel(rng, 1, 1, read, inner)}
            found |= norm(rng, f"{block}/expand", inner, gamma=True)
        found |= {f"{block}/depthwise/depthwise_weights": kernel(rng, 3, 3, inner, 1)}
        found |= norm(rng, f"{block}/depthwise", inner, gamma=True)
        found |= {f"{block}/project/weights": kernel(rng, 1, 1, inner, width)}
        found |= norm(rng, f"{block}/project", width, gamma=True)
        read = width
    found |= {f"{scope}/Conv_1/weights": kernel(rng, 1, 1, read, 12)} | norm(rng, f"{scope}/Conv_1", 12, gamma=True)
    found["bottleneck/Mean/reduction_indices"] = np.array([1, 2], np.int32)
    found["mobilenet_conv/Conv/weights"] = kernel(rng, 1, 1, 12, numbers)
    found["mobilenet_conv/Conv/biases"] = rng.normal(0, 0.3, numbers).astype(np.float32)
    return found


def inception_tensors(rng, numbers=6):
    found, scope = {}, "InceptionV3"

    def add(name, read, given):
        rows, columns = (int(side) for side in name.rsplit("_", 1)[1].split("x"))
        if name in {"Mixed_6a/Branch_0/Conv2d_1a_1x1", "Mixed_6a/Branch_1/Conv2d_1a_1x1"}:
            rows = columns = 3  # as published
        found.update({f"{scope}/{name}/weights": kernel(rng, rows, columns, read, given)})
        found.update(norm(rng, f"{scope}/{name}", given))
        return given

    read = 3
    for name in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"):
        read = add(f"Conv2d_{name}", read, 4)
    for block in ("5b", "5c", "5d"):
        names = ("Conv2d_0b_1x1", "Conv_1_0c_5x5") if block == "5c" else ("Conv2d_0a_1x1", "Conv2d_0b_5x5")
        add(f"Mixed_{block}/Branch_0/Conv2d_0a_1x1", read, 2)
        add(f"Mixed_{block}/Branch_1/{names[1]}", add(f"Mixed_{block}/Branch_1/{names[0]}", read, 3), 2)
        last = add(f"Mixed_{block}/Branch_2/Conv2d_0a_1x1", read, 3)
        for name in ("Conv2d_0b_3x3", "Conv2d_0c_3x3"):
            last = add(f"Mixed_{block}/Branch_2/{name}", last, 3)
        add(f"Mixed_{block}/Branch_3/Conv2d_0b_1x1", read, 2)
        read = 9
    add("Mixed_6a/Branch_0/Conv2d_1a_1x1", read, 3)
    for name in ("Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_1a_1x1"):
        last = add(f"Mixed_6a/Branch_1/{name}", read if name.endswith("0a_1x1") else last, 4)
    read += 3 + 4
    for block in ("6b", "6c", "6d", "6e"):
        add(f"Mixed_{block}/Branch_0/Conv2d_0a_1x1", read, 2)
        for branch, names in (
            (1, ("0a_1x1", "0b_1x7", "0c_7x1")),
            (2, ("0a_1x1", "0b_7x1", "0c_1x7", "0d_7x1", "0e_1x7")),
        ):
            last = read
            for name in names:
                last = add(f"Mixed_{block}/Branch_{branch}/Conv2d_{name}", last, 3)
        add(f"Mixed_{block}/Branch_3/Conv2d_0b_1x1", read, 2)
        read = 10
    found[f"{scope}/Conv2d_1a_3x3/BatchNorm/Const"] = np.ones(4, np.float32)
    found[f"{scope}/Mixed_5b/concat/axis"] = np.array(3, np.int32)
    found["bottleneck/Mean/reduction_indices"] = np.array([1, 2], np.int32)
    found["Conv/weights"] = kernel(rng, 1, 1, read, numbers)
    found["Conv/biases"] = rng.normal(0, 0.3, numbers).astype(np.float32)
    return found


def transformer_tensors(rng, separable, numbers=6):
    found = {"transformer/expand/conv2/mul/x": np.array(2, np.int32)}
    for k, (side, read, given) in enumerate([(9, 3, 4), (3, 4, 5), (3, 5, 6)], start=1):
        name = f"transformer/contract/conv{k}"
        found |= {f"{name}/weights": kernel(rng, side, side, read, given)} | norm(rng, name, given)
        found[f"{name}/BatchNorm/Const"] = np.ones(given, np.float32)
    layers = [(f"residual/residual{block}/conv{k}", 3, 6, 6) for block in range(1, 6) for k in (1, 2)]
    layers += [("expand/conv1/conv", 3, 6, 5), ("expand/conv2/conv", 3, 5, 4), ("expand/conv3/conv", 9, 4, 3)]
    for name, side, read, given in layers:
        scope, last = name.rsplit("/", 1)
        if separable:
            its_name = f"transformer/{scope}/dilate_{last}"
            found[f"{its_name}/depthwise_weights"] = kernel(rng, side, side, read, 1)
            found[f"{its_name}/pointwise_weights"] = kernel(rng, 1, 1, read, given)
        else:
            found[f"transformer/{name}/weights"] = kernel(rng, side, side, read, given)
        for part, centre in (("Conv", 0.0), ("Conv_1", 1.0)):
            its_scope = f"style_params/transformer/{name}/StyleNorm/{part}"
            found[f"{its_scope}/weights"] = kernel(rng, 1, 1, numbers, given)
            found[f"{its_scope}/biases"] = rng.normal(centre, 0.3, given).astype(np.float32)
    found["transformer/contract/Pad_1/paddings"] = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
    found["transformer/residual/residual1/conv1/StyleNorm/batchnorm/add/y"] = np.array(1e-5, np.float32)
    return found


def inpainting(folder, seed=0):
    pytest.importorskip("diffusers", reason="needs the extra 'diffusion'")
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)
    vocabulary = [
        "<|startoftext|>",
        "<|endoftext|>",
        *string.ascii_lowercase,
        *(f"{c}</w>" for c in string.ascii_lowercase),
    ]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    StableDiffusionInpaintPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            sample_size=64,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        ),
        tokenizer=CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77),
        unet=UNet2DConditionModel(
            sample_size=8,
            in_channels=9,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "model")
    return f"inpainting/{folder / 'model'}", {"steps": 2, "side": 64}


def paste(_folder, seed=0):
    assert seed == 0, "it has no weights"
    return "paste", {}


def playground(_folder, seed=0):
    assert seed == 0, "it has no weights"
    return "playground", {}


@pytest.fixture(scope="session")
def tiny():
    """For each stylizer a function of a folder and a seed that writes weights and gives a name and settings."""
    return {"paste": paste, "gatys": gatys, "adain": adain, "ghiasi": ghiasi, "inpainting": inpainting,
            "playground": playground}  # fmt: skip


@pytest.fixture(scope="session")
def tfjs():
    """Makers of tensors in the layout of the published manifests, and a writer of the format."""

    class Makers:
        write = staticmethod(write_tfjs)
        mobilenet = staticmethod(mobilenet_tensors)
        inception = staticmethod(inception_tensors)
        transformer = staticmethod(transformer_tensors)

    return Makers


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

"""CLIP models of open_clip as classifiers: `open_clip/NAME`, or `open_clip/NAME/TAG` for some of its weights."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rulepatch.errors import MissingExtraError, ModelError, WeightsError, nearest, reason_of
from rulepatch.models.attention import call_projections
from rulepatch.models.classes import Classes
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import Request, Sourced, Translate, load_weights, source
from rulepatch.progress import steps

__all__ = ["ZeroShot", "head_weight", "load"]

_BATCH = 256
"""Prompts that the text tower reads at a time."""


class ZeroShot(nn.Module):
    """An image tower with a linear head whose rows are what a text tower made of the names of the classes.

    Attributes:
        visual: maps (n, 3, height, width) to features, (n, c).
        head: its rows are unit vectors times the logit scale, so that its output is CLIP's logits.

    Examples:
        >>> net = ZeroShot(nn.Flatten(), features=12, classes=5)
        >>> net(torch.ones(2, 3, 2, 2)).shape
        torch.Size([2, 5])
    """

    def __init__(self, visual: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(features, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) for normalised images (n, 3, height, width)."""
        features = self.visual(x)
        if isinstance(features, tuple):  # some towers return the tokens beside the pooled features
            features = features[0]
        logits: Tensor = self.head(F.normalize(features, dim=-1))
        return logits


@source("open_clip")
def load(request: Request) -> Sourced:
    """A CLIP model as a zero-shot classifier: of the classes in the model file, or else of ImageNet's 1,000.

    The text tower encodes the names once and is not kept. A name stands for one network: with the quick GELU where the
    weights of its tag (OpenAI's if none is named, or else the first) were trained with it, whatever file is loaded.

    Returns:
        The classifier, its preprocessing (None if images are padded) and classes; without weights its head is random.

    Raises:
        MissingExtraError: open_clip is not installed.
        ModelError: no such model or tag, or arguments that it does not take.
        WeightsError: the weights are not here and cannot be downloaded.
    """
    open_clip = _open_clip()
    name, tag = _name_and_tag(open_clip, request.name)
    kwargs = dict(request.kwargs)
    templates = _templates(kwargs.pop("templates", open_clip.OPENAI_IMAGENET_TEMPLATES))
    published: Mapping[str, Any] = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    config = open_clip.get_model_config(name)
    config["quick_gelu"] = published.get("quick_gelu", False) or config.get("quick_gelu", False)
    clip = _build(open_clip, request.name, config, kwargs)
    classes = request.classes or Classes(tuple(open_clip.IMAGENET_CLASSNAMES), "imagenet")
    network = ZeroShot(call_projections(clip.visual), kwargs.get("embed_dim", config["embed_dim"]), len(classes))

    def head() -> Tensor:
        prompts = [[template(name.split(",")[0]) for template in templates] for name in classes.names]
        return head_weight(clip, _tokens(open_clip, name, clip, prompts))

    translate = _translation(open_clip, clip, head)
    if request.pretrained:
        load_weights(network, _download(open_clip, request.name, published), translate)
    return Sourced(network, _preprocess(open_clip, clip.visual, published), classes, translate=translate)


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise MissingExtraError(
            "expected the library open_clip for CLIP models but it is not installed; pip install 'rulepatch[clip]'"
        ) from None
    return open_clip


def _name_and_tag(open_clip: Any, request_name: str) -> tuple[str, str | None]:
    name, _, tag = request_name.partition("/")
    names = open_clip.list_models()
    if name not in names:
        raise ModelError(
            f"expected a model of open_clip but got {request_name!r}; the nearest are {nearest(name, names)}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag and not open_clip.is_pretrained_cfg(name, tag):
        raise ModelError(
            f"expected weights that open_clip knows of {name} but got {tag!r}; "
            f"the nearest are {nearest(tag, tags) or 'none'}"
        )
    return name, tag or ("openai" if "openai" in tags else next(iter(tags), None))


def _templates(templates: Any) -> Sequence[Callable[[str], str]]:
    if isinstance(templates, str | Mapping) or not isinstance(templates, Sequence) or not templates:
        raise ModelError(f"expected templates to be a list such as ['a photo of a {{}}.'] but got {templates!r}")
    for template in templates:
        if not callable(template) and not (isinstance(template, str) and template.count("{}") == 1):
            raise ModelError(
                f"expected templates with one {{}} where the name goes but got {template!r}; "
                "write such as 'a photo of a {}.'"
            )
    return [template if callable(template) else _filler(template) for template in templates]


def _filler(template: str) -> Callable[[str], str]:
    return lambda name: template.replace("{}", name)


def _build(open_clip: Any, name: str, config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Any:
    """The whole CLIP, with its text tower in a place of its own, on torch's default device."""
    settings = dict(config)
    for key, value in kwargs.items():  # within a tower, what is not named stays
        settings[key] = {**settings.get(key, {}), **value} if isinstance(value, Mapping) else value
    settings["vision_cfg"] = {**settings["vision_cfg"], "timm_model_pretrained": False}
    settings["text_cfg"] = {**settings["text_cfg"], "hf_model_pretrained": False}
    settings.pop("custom_text", None)
    architecture = open_clip.CoCa if "multimodal_cfg" in settings else open_clip.CustomTextCLIP
    try:
        return architecture(**settings).eval()
    except (TypeError, ValueError, AssertionError) as error:
        raise ModelError(f"expected arguments that open_clip/{name} takes but got others ({error})") from None
    except (OSError, RuntimeError) as error:  # some text towers are of transformers, and their configuration is fetched
        raise ModelError(
            f"expected open_clip/{name} to be made from files that are here but it could not be ({reason_of(error)}); "
            "name another model"
        ) from None


def _download(open_clip: Any, name: str, published: Mapping[str, Any]) -> Path:
    if not published:
        raise WeightsError(
            f"expected published weights of open_clip/{name} but open_clip knows none; give a local file with --weights"
        )
    try:
        return Path(open_clip.download_pretrained(published))
    except Exception as error:
        raise WeightsError(
            f"expected the weights of open_clip/{name} but they are not here and could not be downloaded "
            f"({reason_of(error)}); give a local file with --weights"
        ) from None


def _preprocess(open_clip: Any, visual: Any, published: Mapping[str, Any]) -> Preprocess | None:
    config = {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        **published,
    }
    size = visual.image_size
    height, width = size if isinstance(size, Sequence) else (size, size)
    if config["resize_mode"] == "longest" or (config["resize_mode"] == "shortest" and height != width):
        return None  # pads the image: there is no such setting
    return Preprocess(
        (height, width),
        resize=min(height, width),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",  # as open_clip reads it
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        squash=config["resize_mode"] == "squash",
        keep_exact_size=False,
    )


def _tokens(open_clip: Any, name: str, clip: Any, prompts: Sequence[Sequence[str]]) -> Tensor:
    """Tokens of prompts, (classes, templates, length)."""
    try:
        tokenizer = open_clip.get_tokenizer(name, context_length=getattr(clip.text, "context_length", None))
    except Exception as error:  # only the tokenizer of CLIP itself comes with the library
        raise ModelError(
            f"expected the tokenizer of open_clip/{name} but it is not here and could not be downloaded "
            f"({reason_of(error)}); name a model with the tokenizer of CLIP"
        ) from None
    tokens: Tensor = tokenizer([prompt for of_class in prompts for prompt in of_class])
    return tokens.unflatten(0, (len(prompts), -1))


def head_weight(clip: Any, tokens: Tensor) -> Tensor:
    r"""Rows of a zero-shot head, which make its output CLIP's logits.

    :math:`w_k = e^s \, \bar t_k / \|\bar t_k\|`, where :math:`\bar t_k` is the mean over prompts of the normalised text
    features of class k, and s the logit scale (Radford et al., "Learning transferable visual models from natural
    language supervision", 2021, section 3.1). A bias that is the same for every class, as SigLIP has, changes no
    prediction and is left out.

    Args:
        clip: a CLIP model of open_clip with its text tower at `.text`.
        tokens: of each class's prompts, (classes, templates, length).

    Returns:
        (classes, c), float32.
    """
    flat, owner = tokens.flatten(0, 1), torch.arange(len(tokens)).repeat_interleave(tokens.shape[1])
    tower = clip.text
    causal: Any = getattr(tower, "attn_mask", None)
    # Behind its end no token of a causal text changes anything, so texts are cut there: a fifth is left to compute.
    short = causal is not None and tower.pool_type == "argmax" and tower.cls_emb is None
    lengths = flat.argmax(dim=1) + 1 if short else torch.full((len(flat),), flat.shape[1])
    sums = torch.zeros(len(tokens), tower.output_dim)
    with torch.no_grad():
        for batch in steps(lengths.argsort().split(_BATCH), "prompts", unit="part"):
            longest = int(lengths[batch].max())
            if short:
                tower.attn_mask = causal[:longest, :longest]
            sums.index_add_(0, owner[batch], clip.encode_text(flat[batch, :longest], normalize=True).float())
        if short:
            tower.attn_mask = causal
        return F.normalize(sums / tokens.shape[1], dim=1) * clip.logit_scale.exp().float()


def _translation(open_clip: Any, clip: Any, head: Callable[[], Tensor]) -> Translate:
    """A file of ours holds the classifier; one of a whole CLIP holds the text tower that makes the head."""

    def translate(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if "head.weight" in state:
            return state
        whole = dict(open_clip.convert.convert_state_dict(clip, dict(state)))
        for key in ("input_resolution", "context_length", "vocab_size"):  # OpenAI's files hold these beside the weights
            whole.pop(key, None)
        whole = open_clip.model.convert_to_custom_text_state_dict(whole)
        with suppress(AssertionError, AttributeError, RuntimeError):  # another architecture's, which is refused below
            open_clip.model.resize_pos_embed(whole, clip)
            open_clip.model.resize_text_pos_embed(whole, clip)
        visual = {key: tensor for key, tensor in whole.items() if key.startswith("visual.")}
        rest = {key: tensor for key, tensor in whole.items() if key not in visual}
        _load_text(clip, rest)
        return {**visual, "head.weight": head()}

    return translate


def _load_text(clip: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {key: tensor for key, tensor in clip.state_dict().items() if not key.startswith("visual.")}
    if "logit_scale" in state and state["logit_scale"].numel() == 1:  # a number or a list of one
        state = {**state, "logit_scale": state["logit_scale"].reshape(own["logit_scale"].shape)}
    missing = own.keys() - state.keys() - {"logit_bias"}
    unknown = state.keys() - own.keys() - {"logit_bias", "text.transformer.embeddings.position_ids"}
    if wrong := {key for key in own.keys() & state.keys() if own[key].shape != state[key].shape} | missing | unknown:
        raise WeightsError(
            "expected the weights of a whole CLIP, or of a classifier made of it, but in the file "
            f"{len(wrong)} tensors of the text tower are missing, unknown or of another shape (such as {min(wrong)}); "
            "name the right architecture or file"
        )
    clip.load_state_dict({key: state[key] for key in own.keys() & state.keys()}, strict=False)

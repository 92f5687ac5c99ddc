"""Inpainting by words with a diffusion model of diffusers: `inpainting/ID` or `inpainting/FOLDER`, extra `diffusion`.

It draws what the words say where the mask is, in the light of the rest, and may change shapes too: a different kind of
test case than a texture.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator
from torch import nn

from rulepatch.concepts.stylize import Style, check_parts, finished, stylizer
from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.errors import MissingExtraError, SettingError, WeightsError, reason_of
from rulepatch.forward import device_named
from rulepatch.settings import Settings

__all__ = ["Inpainting", "InpaintingSettings", "load"]

_GRAIN = 8
"""Sides of the images that diffusion models draw are multiples of this."""


class InpaintingSettings(Settings):
    """Settings of `inpainting`."""

    title: ClassVar[str] = "settings of the stylizer inpainting"

    template: str = Field(default="{prompt}", description="Of the prompt; `{prompt}` stands for the style's words.")
    steps: int = Field(default=30, ge=1, description="Of denoising.")
    guidance: float = Field(default=7.5, ge=0, description="Weight of the words.")
    side: int = Field(default=512, ge=_GRAIN, description="Shorter side of what is drawn, in pixels.")

    @field_validator("template")
    @classmethod
    def _has_words(cls, value: str) -> str:
        if "{prompt}" not in value:
            raise SettingError(f"expected a template with {{prompt}} but got {value!r}; put it where the words belong")
        return value


@dataclass(frozen=True)
class Inpainting:
    """Asks a diffusion model to draw a style's words where the mask is; the seed says which drawing.

    Attributes:
        pipeline: of diffusers.
        blend: share of the drawing in the result, in 0..1.
        how: the settings.
        device: where it runs.
        name: of the stylizer.
    """

    pipeline: Any = field(repr=False)
    blend: float
    how: InpaintingSettings
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    name: str = "inpainting"

    @cached_property
    def _digest(self) -> str:
        parts = {
            name: digest_of_tensors(part.state_dict())
            for name, part in self.pipeline.components.items()
            if isinstance(part, nn.Module)
        }
        return digest_of_json([type(self.pipeline).__name__, type(self.pipeline.scheduler).__name__, parts])

    def describe(self) -> dict[str, Any]:
        """Name, digest of the weights (seconds, for a large model), and settings."""
        return {"name": self.name, "weights": self._digest, "blend": self.blend, **self.how.describe()}

    def __call__(self, image: Image.Image, mask: NDArray[np.float32], style: Style, *, seed: int = 0) -> Image.Image:
        """Draw the style's words.

        Returns:
            The image with the region drawn anew.
        """
        check_parts(image, mask)
        if not mask.any():
            return image.copy()
        scale = self.how.side / min(image.size)
        width, height = (max(_GRAIN, round(each * scale / _GRAIN) * _GRAIN) for each in image.size)
        where = Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8))
        drawn = self.pipeline(
            prompt=self.how.template.replace("{prompt}", style.prompt),
            image=image.resize((width, height), Image.Resampling.BICUBIC),
            mask_image=where.resize((width, height), Image.Resampling.NEAREST),
            width=width,
            height=height,
            num_inference_steps=self.how.steps,
            guidance_scale=self.how.guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
        return finished(image, drawn.convert("RGB"), mask, self.blend)


@stylizer("inpainting", InpaintingSettings)
def load(rest: str, how: InpaintingSettings, *, blend: float, device: str | None = None) -> Inpainting:
    """The stylizer `inpainting`: a folder, or a model of the hub, which is downloaded if it is not there.

    Only safetensors are read, and no code that comes with a model is run.

    Raises:
        MissingExtraError: diffusers is not installed.
        SettingError: no model is named, or no such device.
        WeightsError: no such model, or it is not to be had.
    """
    if not rest:
        raise SettingError("expected a model, inpainting/ID-or-FOLDER, but got none; name it")
    place = device_named(device)
    try:
        from diffusers import AutoPipelineForInpainting
    except ImportError:
        raise MissingExtraError(
            "expected diffusers, for inpainting, but it is not installed; "
            "install the extra: pip install 'rulepatch[diffusion]'"
        ) from None
    try:
        pipeline = AutoPipelineForInpainting.from_pretrained(
            rest, use_safetensors=True, local_files_only=Path(rest).is_dir()
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(
            f"expected an inpainting model in safetensors but {rest} is none, or could not be downloaded "
            f"({reason_of(error)}); name a folder or a model of the hub"
        ) from None
    pipeline.set_progress_bar_config(delay=2, leave=False, disable=None)
    return Inpainting(pipeline.to(place), blend, how, place)

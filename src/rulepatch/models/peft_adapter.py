"""LoRA adapters in the format of PEFT."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rulepatch.errors import SettingError
from rulepatch.files import make_folder, write_file, write_tensors

__all__ = ["write_adapter"]


def write_adapter(factors: Mapping[str, Sequence[tuple[Tensor, Tensor]]], module: nn.Module, folder: Path) -> None:
    """Write factors as a LoRA adapter that PEFT loads: `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        factors: of each layer's changes, by its path: A, (q, c_in, y, x), and B, (c_out, q); y = x = 1 if it is linear.
        module: the network that they are changes of.
        folder: output folder; created if missing.

    Raises:
        OutputError: it cannot be written to.
        SettingError: they hold NaN or infinity.
    """
    rank = max(sum(len(read) for read, _ in each) for each in factors.values())
    tensors = {}
    for site, each in factors.items():
        read, write = torch.cat([a for a, _ in each]), torch.cat([b for _, b in each], dim=1)
        missing = rank - len(read)  # all layers get one rank: patterns of ranks match ends of names, not whole ones
        read = torch.cat([read, read.new_zeros(missing, *read.shape[1:])])
        write = torch.cat([write, write.new_zeros(len(write), missing)], dim=1)
        if isinstance(module.get_submodule(site), nn.Linear):
            read = read.flatten(1)
        else:
            write = write[:, :, None, None]
        tensors[f"base_model.model.{site}.lora_A.weight"] = read.contiguous()
        tensors[f"base_model.model.{site}.lora_B.weight"] = write.contiguous()
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise SettingError("expected finite factors for an adapter but got NaN or infinity; take less strength")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": "|".join(re.escape(site) for site in factors),
        "inference_mode": True,
    }
    make_folder(folder)
    write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    write_file(folder / "adapter_config.json", json.dumps(config, indent=2))

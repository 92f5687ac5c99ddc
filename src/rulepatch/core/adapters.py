"""Export of edits as LoRA adapters in the format of PEFT."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rulepatch.core.changes import Change, Dense, LowRank
from rulepatch.errors import SettingError
from rulepatch.files import atomic_path

__all__ = ["lora_factors", "write_adapter"]


def lora_factors(change: LowRank) -> tuple[Tensor, Tensor]:
    """Factors A and B of a LoRA layer whose product equals a change exactly.

    Where the coefficients differ between kernel taps (architecture 1 at a k × k convolution), each tap takes r of the
    adapter's ranks: A holds the directions at that tap only.

    Args:
        change: without a gate.

    Returns:
        A, (q, c_in, y, x), and B, (c_out, q); y = x = 1 for a linear layer.
    """
    directions, coefficients = change.directions.float(), change.strength * change.coefficients.float()
    if change.architecture == 2:
        return directions, coefficients
    c_out, _, y, x = coefficients.shape
    taps = torch.eye(y * x).reshape(1, y * x, 1, y, x)
    spread = directions[:, None, :, None, None] * taps  # (r, taps, c_in, y, x)
    return spread.flatten(0, 1), coefficients.reshape(c_out, -1)


def write_adapter(changes: Sequence[Change], module: nn.Module, folder: Path) -> None:
    """Write changes as a LoRA adapter that PEFT loads: `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        changes: all of them low-rank and without gates.
        module: the network that they are changes of.
        folder: output folder; created if missing.

    Raises:
        SettingError: a change cannot be expressed as a LoRA adapter.
    """
    factors: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for change in changes:
        if not isinstance(change, LowRank) or change.gate is not None:
            kind = "gated" if isinstance(change, LowRank) else "dense" if isinstance(change, Dense) else "a new class"
            raise SettingError(
                f"expected low-rank changes of weights but that of {change.parameter} is {kind}, which no adapter can "
                "hold; make the edit with gate none, or write the whole network (rulepatch apply)"
            )
        factors.setdefault(change.site, []).append(lora_factors(change))
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
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": "|".join(re.escape(site) for site in factors),
        "inference_mode": True,
    }
    folder.mkdir(exist_ok=True)
    with atomic_path(folder / "adapter_model.safetensors") as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt"})
    with atomic_path(folder / "adapter_config.json") as unfinished:
        Path(unfinished).write_text(json.dumps(config, indent=2), encoding="utf-8")

"""What an edit file may say: each field and tensor of it is checked here, as anybody can write a right digest."""

from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.errors import EditFileError
from rulepatch.forms import checked
from rulepatch.methods import STRONGEST
from rulepatch.reading import is_regular, parse_json
from rulepatch.tensors import read_tensors

__all__ = ["content_digest", "dense_fields", "low_rank_fields", "new_class_fields", "read_edit"]

MOST_BYTES = 8 << 30
"""Of an edit file: dense changes of all weights of a large network."""

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_PREDICTION: dict[Any, Any] = {"index": int, "class": str, "confidence": Real, "of_target": Real, ...: object}
_SAID: dict[Any, Any] = {
    "target": {"index": int, "class": str, ...: object},
    **dict.fromkeys(("original", "edited", "after"), _PREDICTION),
    "change": Real,
    ...: object,
}
_SHARE = (Real, None)
_CERTIFICATE = {
    "parameters": [str], "norm": Real, "relative_norm": Real, "epsilon": Real, "unchanged_share?": _SHARE,
    "gate_closed_share?": _SHARE, "still?": _SHARE, "shut?": _SHARE,
}  # fmt: skip
_SITE = {
    "site": str,
    "loss": {"before": Real, "after": Real, ...: object},
    "predicted_damage": Real,
    "rounding?": Real,
    "certificate?": (_CERTIFICATE, None),
    "protected_damage?": _SHARE,
    "gated_damage?": _SHARE,
    ...: object,
}
_EXEMPLAR = {
    "name?": (str, None), "digest?": str, "concept?": (str, None), "replacement?": (str, None), "said?": _SAID,
    ...: object,
}  # fmt: skip
_PROVENANCE = {
    "method?": str, "settings?": {str: object}, "model?": str, "sites?": [_SITE], "exemplars?": [_EXEMPLAR],
    "composed?": [{str: object}], ...: object,
}  # fmt: skip
"""What is read of it; beyond that it says what its writer likes."""

_FILE = {"schema": int, "base": str, "content": str, "changes": [{"kind": str, ...: object}], "provenance": _PROVENANCE}
_GATE = {"kind": {"hard", "soft"}, "level": float}
_LOW_RANK = {
    "kind": str, "site": str, "value_point": str, "shape?": [int], "rank?": int, "architecture?": int,
    "strength": float, "gate": (_GATE, None),
}  # fmt: skip
_DENSE = {"kind": str, "parameter": str, "shape?": [int], "strength": float}
_NEW_CLASS = {
    "kind": str, "name": str, "site": str, "head": str, "scale": float, "bias": float, "activation": str, "pool": str,
    "strength": float, "shape?": [int],
}  # fmt: skip


def content_digest(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The digest of an edit file: of all that it says and holds."""
    return digest_of_json([dict(described), digest_of_tensors(tensors)])


def read_edit(path: Path, *, schema: int, kinds: Collection[str]) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """Read an edit file, all but the fields of its changes.

    Args:
        path: the file.
        schema: of the files that are understood.
        kinds: names of the kinds of changes.

    Returns:
        What it says, and for each change its tensors.

    Raises:
        EditFileError: it is missing, damaged, tampered with, of another version, or no edit at all.
    """
    if not is_regular(path):
        raise EditFileError(f"expected an edit file at {path} but there is none; check the path")
    tensors, metadata = read_tensors(path, EditFileError, what="an edit file", most=MOST_BYTES)
    described = parse_json(
        metadata.get("rulepatch", "null"), str(path), EditFileError, what="the description of an edit", free=True
    )
    if not isinstance(described, dict):
        raise EditFileError(
            f"expected an edit file but {path} was not written by rulepatch; name the file that `edit` wrote"
        )
    for key in _FILE:
        if key not in described:
            raise EditFileError(f"expected a complete edit file but {path} lacks {key!r}; get a sound copy")
    if (found := described["schema"]) != schema:
        raise EditFileError(f"expected an edit file of schema {schema} but {path} has {found!r:.80}; update rulepatch")
    checked(described, _FILE, str(path), EditFileError, advice="get a sound copy")
    for each in described["changes"]:
        checked(each["kind"], set(kinds), f"the kind of a change in {path}", EditFileError, advice="update rulepatch")
    for each in _composed(described["provenance"]):
        checked(each, _PROVENANCE, f"the provenance in {path}", EditFileError, advice="get a sound copy")
    if described.pop("content") != content_digest(described, tensors):
        raise EditFileError(f"expected {path} as it was saved but its contents have been changed; get a sound copy")
    own: list[dict[str, Tensor]] = [{} for _ in described["changes"]]
    places = {str(number): each for number, each in enumerate(own)}
    for name, tensor in tensors.items():
        number, _, part = name.partition(".")
        if number not in places:
            raise EditFileError(f"expected tensors of its changes in {path} but got {name[:60]!r}; get a sound copy")
        places[number][part] = tensor
    return described, own


def _composed(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The provenance of all edits that one is composed of, and of those that these are."""
    found, left = [], [provenance]
    while left:
        inside = left.pop().get("composed", [])
        checked(inside, [{str: object}], "composed in the provenance", EditFileError, advice="get a sound copy")
        found += inside
        left += inside
    return found


def low_rank_fields(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], Any]:
    """Fields of a low-rank change, and those of its gate or None.

    Args:
        described: what the file says of it.
        tensors: its own.

    Raises:
        EditFileError: something has another type, shape or range than it can have, or contradicts the rest.
    """
    fields = _fields(described, _LOW_RANK)
    gate = fields["gate"]
    hard = gate is not None and gate["kind"] == "hard"
    names = ["directions", "coefficients", *(["thresholds"] if gate else []), *(["direction"] if hard else [])]
    own = _factors(tensors, names)
    directions, coefficients = own["directions"], own["coefficients"]
    rank, of_keys = len(directions) if directions.ndim else 0, directions.shape[1:]
    architecture = {2: 1, 4: 2}.get(directions.ndim)
    if architecture is None or coefficients.ndim != (4 if architecture == 1 else 2) or coefficients.shape[1] != rank:
        _refuse("directions and coefficients of the same rank", f"shapes {_shapes(own)}")
    taps = (coefficients if architecture == 1 else directions).shape[2:]
    told = {"shape": [len(coefficients), of_keys[0], *taps], "rank": rank, "architecture": architecture}
    _agree(fields, told)
    if gate is not None:
        if not 0 <= gate["level"] <= 1:
            _refuse("a gate at a level in 0..1", f"{gate['level']:g}")
        if own["thresholds"].shape != (1 if hard else rank,) or (hard and own["direction"].shape != of_keys):
            _refuse("a gate of the shape of the keys", f"shapes {_shapes(own)}")
        gate = {**gate, "thresholds": own["thresholds"], "direction": own.get("direction")}
    plain = {key: fields[key] for key in ("site", "value_point", "strength")}
    return {**plain, "directions": directions, "coefficients": coefficients}, gate


def dense_fields(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of a dense change.

    Args:
        described: what the file says of it.
        tensors: its own.

    Raises:
        EditFileError: see `low_rank_fields`.
    """
    fields, own = _fields(described, _DENSE), _factors(tensors, ["values"])
    _agree(fields, {"shape": list(own["values"].shape)})
    return {"parameter": fields["parameter"], "values": own["values"], "strength": fields["strength"]}


def new_class_fields(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of a new class.

    Args:
        described: what the file says of it.
        tensors: its own.

    Raises:
        EditFileError: see `low_rank_fields`.
    """
    fields, own = _fields(described, _NEW_CLASS), _factors(tensors, ["weight", "offset"])
    if own["weight"].ndim != 4 or len(own["weight"]) != 1 or own["offset"].shape != (1,):
        _refuse("one filter and one offset", f"shapes {_shapes(own)}")
    _agree(fields, {"shape": list(own["weight"].shape)})
    return {key: value for key, value in fields.items() if key not in {"kind", "shape"}} | own


def _fields(described: Mapping[str, Any], form: Mapping[Any, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = checked(described, form, "a change", EditFileError, advice="get a sound copy")
    for key in ("site", "value_point", "parameter", "head", "name"):
        if any("\ud800" <= letter <= "\udfff" for letter in fields.get(key, "")):
            _refuse(f"{key} in a change to be a name", ascii(fields[key])[:60])
    if not abs(fields["strength"]) <= STRONGEST:
        _refuse(f"a strength of at most {STRONGEST:g}", f"{fields['strength']:g}")
    return fields


def _factors(tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Tensors of certain names, in float32."""
    if set(tensors) != set(names):
        _refuse(f"the tensors {', '.join(names)} of a change", ", ".join(sorted(tensors))[:120] or "none")
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS or not tensor.numel():
            _refuse(f"{name} in floating-point numbers", f"{tuple(tensor.shape)} of {tensor.dtype}")
    own = {name: tensors[name].float() for name in names}
    for name, tensor in own.items():
        if not tensor.isfinite().all():
            _refuse(f"finite {name}", "NaN or infinity")
    return own


def _agree(fields: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    for key, value in told.items():
        if fields.get(key, value) != value:
            _refuse(f"{key} {value}, as that of the tensors,", str(fields[key])[:60])


def _shapes(own: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in own.items())


def _refuse(expected: str, got: str) -> NoReturn:
    raise EditFileError(f"expected {expected} but got {got}; get a sound copy")

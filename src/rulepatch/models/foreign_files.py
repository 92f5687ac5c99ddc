"""Detection of file formats that are not PyTorch weights, with advice."""

import zipfile
from pathlib import Path

__all__ = ["what_else"]

_CONVERT = "convert it to a state dict of the PyTorch network first"
_UNPACK = "unpack it and name the file of weights in it"

_BEGINNINGS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", f"an HDF5 file, as Keras writes; {_CONVERT}"),
    (0, b"\x93NUMPY", f"an array of NumPy; {_CONVERT}"),
    (0, b"GGUF", f"a GGUF file; {_CONVERT}"),
    (4, b"TFL3", f"a TensorFlow Lite model; {_CONVERT}"),
    (0, b"\x1f\x8b", f"a gzip archive; {_UNPACK}"),
    (0, b"BZh", f"a bzip2 archive; {_UNPACK}"),
    (0, b"\xfd7zXZ\x00", f"an xz archive; {_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7z archive; {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"a zstd archive; {_UNPACK}"),
    (257, b"ustar", f"a tar archive; {_UNPACK}"),
    (0, b"version https://git-lfs", "a pointer of Git LFS to the weights; fetch them with `git lfs pull`"),
    (0, b"<!DOCTYPE html", "a web page; download the file itself"),
    (0, b"<!doctype html", "a web page; download the file itself"),
    (0, b"<html", "a web page; download the file itself"),
)
"""Offset and signature of each format, with its description."""

_MEMBERS = {
    "constants.pkl": "a TorchScript archive, a program, and is not run; save the state_dict() of what torch.jit.load "
    "makes of it instead",
    "archive_format": "a program of torch.export, and is not run; save torch.export.load(FILE).state_dict instead",
    "serialized_exported_program.json": "a program of torch.export, and is not run; save "
    "torch.export.load(FILE).state_dict instead",
    "model.weights.h5": f"a model of Keras; {_CONVERT}",
}
"""Files within zip archives that only these have."""

_TORCH_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How `torch.save` began its files before they were zip archives."""

_ENDINGS = {
    ".onnx": "an ONNX model; save the state_dict() of the network that it was exported from",
    ".pb": f"a TensorFlow graph; {_CONVERT}",
    ".msgpack": f"a file of Flax; {_CONVERT}",
    ".pdparams": f"a file of PaddlePaddle; {_CONVERT}",
    ".caffemodel": f"a model of Caffe; {_CONVERT}",
    ".mat": f"a file of MATLAB; {_CONVERT}",
}
"""Formats without a beginning of their own."""


def what_else(path: Path) -> str | None:
    r"""Identify a file that cannot be read as weights.

    Args:
        path: a file that exists.

    Returns:
        Its format and advice, as part of a sentence; None if it may be weights of PyTorch.

    Examples:
        >>> file = Path(getfixture("tmp_path")) / "net.h5"
        >>> _ = file.write_bytes(b"\x89HDF\r\n\x1a\n")
        >>> what_else(file)
        'an HDF5 file, as Keras writes; convert it to a state dict of the PyTorch network first'
    """
    try:
        with path.open("rb") as file:
            start = file.read(265)
    except OSError:
        return None
    if start[8:9] == b"{" or start.startswith(_TORCH_PICKLE):  # safetensors, or torch of old
        return None
    if start.startswith(b"PK"):
        return _archive(path)
    for offset, beginning, what in _BEGINNINGS:
        if start[offset:].startswith(beginning):
            return what
    if start.startswith(b"\x80"):
        return (
            "a pickle that torch.save did not write, and pickles can run code; open it where it was made, if you "
            "trust it, and write the tensors with torch.save"
        )
    if ".ckpt." in path.name or path.name.endswith(".ckpt.index"):
        return f"a part of a TensorFlow checkpoint; {_CONVERT}"
    if start[:1] == b"\x08" and start[2:3] in {b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42"}:
        return _ENDINGS[".onnx"]
    return _ENDINGS.get(path.suffix.lower())


def _archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except Exception:  # zipfile has no common type of what it raises of damaged files
        return None
    for member, what in _MEMBERS.items():
        if member in names:
            return what
    if "data.pkl" in names:
        return None
    if all(name.endswith(".npy") for name in names):
        return f"an .npz archive of NumPy; {_CONVERT}"
    return f"a zip archive; {_UNPACK}"

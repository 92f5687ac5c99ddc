"""Exceptions. Each message is one sentence: what was expected, what was given, what to do.

Every error here is the caller's to mend; the command line prints its sentence and exits with the error's code.
Problems that do not stop the work are a `RulepatchWarning`, in the same form.
A broken promise of our own code is an `AssertionError` instead, and shows its traceback.
"""

import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "BaseMismatchError",
    "DamageError",
    "EditFileError",
    "ExemplarError",
    "FolderError",
    "ImageError",
    "MaskError",
    "MissingExtraError",
    "ModelError",
    "NotFiniteError",
    "OutputError",
    "RevertError",
    "RulepatchError",
    "RulepatchWarning",
    "SettingError",
    "SiteError",
    "UselessEditError",
    "WeightsError",
    "WorkerError",
    "nearest",
    "reason_of",
    "warn",
]


class RulepatchError(Exception):
    """Any error that the caller can mend.

    Attributes:
        exit_code: of the command line.
    """

    exit_code = 2


class RulepatchWarning(UserWarning):
    """A problem that does not stop the work."""


class SettingError(RulepatchError, ValueError):
    """A setting out of its range, or one that does not go with the others."""


class NotFiniteError(SettingError):
    """A change so strong that a weight with it would be infinite, or no number at all."""


class SiteError(RulepatchError, ValueError):
    """A site that the model does not have, or that cannot be edited."""


class ModelError(RulepatchError, ValueError):
    """A model, a model file or a source of models that cannot be used."""


class WeightsError(ModelError):
    """Weights that are missing, damaged, or made for another architecture."""


class ImageError(RulepatchError, ValueError):
    """An image or mask that cannot be read or does not fit."""


class FolderError(RulepatchError, ValueError):
    """A folder of images that is missing, empty, or does not match the classes."""


class ExemplarError(RulepatchError, ValueError):
    """An exemplar whose parts are missing or do not fit together."""


class MaskError(ImageError, ExemplarError):
    """A mask that can be read in several ways or in none, or that does not fit its image."""


class EditFileError(RulepatchError, ValueError):
    """An edit file that is damaged, foreign or of an unknown version."""


class OutputError(RulepatchError, OSError):
    """A file that cannot be written where it is wanted."""


class BaseMismatchError(RulepatchError, ValueError):
    """An edit was computed on another base than the given model."""


class RevertError(RulepatchError, RuntimeError):
    """A network was changed while an edit was in it, or an edit was to be taken out from below another."""


class DamageError(RulepatchError, ValueError):
    """An edit that does more damage than is allowed."""


class UselessEditError(RulepatchError, ValueError):
    """An edit does not change predictions for its own exemplars, or an exemplar shows no failure."""

    exit_code = 3


class WorkerError(RulepatchError, RuntimeError):
    """One of several processes that work together failed, died or did not come."""


class StoppedError(RulepatchError, RuntimeError):
    """The work was cancelled."""


class MissingExtraError(RulepatchError, ImportError):
    """A library is needed that comes with one of rulepatch's extras."""


def warn(message: str) -> None:
    """Warn of something, at the line outside of rulepatch that led to it.

    Args:
        message: one sentence: what was found, what it means, what to do.
    """
    level, frame, passed_over = 1, sys._getframe(), {"rulepatch", "functools", "contextlib"}
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in passed_over:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RulepatchWarning, stacklevel=level)


def nearest(name: str, options: Iterable[str], *, count: int = 3) -> str:
    """Return the options nearest to a name, as words for the end of a sentence.

    Examples:
        >>> nearest("layer4.1.conv", ["layer4.1.conv1", "layer4.1.conv2", "fc"])
        'layer4.1.conv2, layer4.1.conv1'
        >>> nearest("zebra", ["fc"])
        'fc'
    """
    options = list(options)
    return ", ".join(get_close_matches(name, options, n=count, cutoff=0.4) or options[:count])


def reason_of(error: Exception) -> str:
    r"""Return the reason of a library's exception, for brackets within a message.

    Examples:
        >>> reason_of(OSError("There is no such model.  Check your connection.\nSee the docs."))
        'OSError: There is no such model'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split()).partition('. ')[0][:160]}"

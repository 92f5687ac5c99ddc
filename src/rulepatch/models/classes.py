"""What a classifier's classes are called, and which of them a label means."""

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rulepatch.errors import SettingError, nearest
from rulepatch.text import brief, plural, quoted

__all__ = ["Classes"]


@dataclass(frozen=True)
class Classes:
    """Names of a classifier's classes, in the order of its logits.

    Attributes:
        names: a name each; synonyms are separated by commas.
        wordnet: WordNet ids, in the same order, if they are known; "imagenet" for the 1,000 of ImageNet.

    Examples:
        >>> classes = Classes(("tench, Tinca tinca", "goldfish"), ("n01440764", "n01443537"))
        >>> classes.index("Tinca_tinca"), classes.index("n01443537"), classes.index("1")
        (0, 1, 1)
    """

    names: tuple[str, ...]
    wordnet: tuple[str, ...] | Literal["imagenet"] | None = None

    def __repr__(self) -> str:
        first = [quoted(name, most=24) for name in self.names[:3]]
        more = "…" if len(self) > len(first) else ""
        return brief("Classes", f"{plural(len(self), 'name')}: {', '.join([*first, *more])}")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        """The first of a class's names.

        Returns:
            A name.
        """
        return self.names[index].split(",")[0]

    def index(self, label: int | str) -> int:
        """The class that a label means: a class name, an index, or a WordNet id.

        Args:
            label: case does not matter, and "_", "-" and " " are the same.

        Returns:
            Index of the class.

        Raises:
            SettingError: no class matches, or more than one does.
        """
        if not isinstance(label, str):
            matches = [operator.index(label)]
        else:
            matches = self._by_name.get(_plain(label), [])
            if not matches and label.isdecimal():
                matches = [int(label)]
            if not matches and re.fullmatch(r"n\d{8}", label):
                matches = [self._by_wordnet[label]] if label in self._by_wordnet else []
        if len(matches) == 1 and 0 <= matches[0] < len(self):
            return matches[0]
        if len(matches) > 1:
            raise SettingError(
                f"expected one class but {label!r} names {len(matches)} of them; "
                f"use an index: {', '.join(map(str, matches))}"
            )
        raise SettingError(
            f"expected a class name, an index below {len(self)} or a WordNet id but got {label!r}; "
            f"the nearest are {nearest(str(label), [name.split(',')[0] for name in self.names])}"
        )

    @cached_property
    def _by_name(self) -> Mapping[str, list[int]]:
        found: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            for label in {_plain(synonym) for synonym in (name, *name.split(","))}:
                found.setdefault(label, []).append(index)
        return found

    @cached_property
    def _by_wordnet(self) -> Mapping[str, int]:
        ids = self.wordnet or ()
        if ids == "imagenet":
            from timm.data import ImageNetInfo  # takes seconds to import, and few need it

            ids = tuple(ImageNetInfo().label_names())
        return {wordnet: index for index, wordnet in enumerate(ids)}


def _plain(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", label).strip().lower()

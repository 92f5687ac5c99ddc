"""Class names of a classifier, and resolution of labels."""

import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from rulepatch.errors import ModelError, SettingError, nearest
from rulepatch.text import brief, plural, quoted

__all__ = ["Classes"]


@dataclass(frozen=True)
class Classes:
    """Names of a classifier's classes, in the order of its logits.

    Attributes:
        names: a name each; synonyms are separated by commas and spaces.
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

    @classmethod
    def of(cls, names: Any) -> "Classes":
        """Class names as people keep them.

        Args:
            names: a sequence, or a dictionary from index to name or from name to index.

        Raises:
            ModelError: the names are none, or a dictionary does not number them from 0 on.

        Examples:
            >>> Classes.of({"1": "dog", "0": "cat"}).names, Classes.of({"dog": 1, "cat": 0}).names
            (('cat', 'dog'), ('cat', 'dog'))
        """
        if isinstance(names, Classes):
            return names
        if isinstance(names, Mapping):
            numbered = {_number(key): name for key, name in names.items()}
            if None in numbered:
                numbered = {_number(index): name for name, index in names.items()}
            if sorted(numbered, key=str) != sorted(range(len(names)), key=str):
                raise ModelError(
                    f"expected class names numbered from 0 to {len(names) - 1} but got {list(names.items())[:3]}…; "
                    "give a list of names in the order of the logits"
                )
            names = [numbered[index] for index in range(len(names))]
        if isinstance(names, str | bytes) or not isinstance(names, Iterable):
            raise ModelError(f"expected a list of class names but got {names!r}; give a name for each logit, in order")
        return cls(tuple(str(name) for name in names))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def are_numbers(self) -> bool:
        """Whether the names are placeholders derived from the index."""
        return all(
            name.casefold() in {str(index), f"class {index}", f"label_{index}"} for index, name in enumerate(self.names)
        )

    def __getitem__(self, index: int) -> str:
        """Display name of a class: its first name, or as many of its names as make it unique.

        Returns:
            A name that `index` understands.
        """
        return self._shown[index]

    def index(self, label: int | str) -> int:
        """The class that a label means: a class name, an index, a WordNet id, or what `classes[i]` shows.

        A name as it is written goes before one in another Unicode form, and this before one in which case does not
        matter and "_", "-" and " " are the same; any name goes before an index.

        Args:
            label: of the class.

        Raises:
            SettingError: no class matches, or more than one does.
        """
        if isinstance(label, str):
            matches = self._matches(label)
        else:
            matches = [] if (number := _number(label)) is None else [number]
        if len(matches) == 1 and 0 <= matches[0] < len(self):
            return matches[0]
        if len(matches) > 1:
            raise SettingError(
                f"expected one class but {label!r} names {len(matches)} of them; "
                f"use an index: {', '.join(map(str, matches))}"
            )
        raise SettingError(
            f"expected a class name, an index below {len(self)} or a WordNet id but got {label!r}; "
            f"the nearest are {nearest(str(label), self._shown)}"
        )

    def indices(self, labels: Sequence[str]) -> "dict[str, int | SettingError]":
        """The classes that several labels mean which belong together, as those of the folders of one set.

        Numbers are names only if all of them are; else all of them are indices.

        Args:
            labels: distinct.

        Returns:
            The index of each, or why there is none.

        Examples:
            >>> digits = Classes(("1", "cat", "dog"))
            >>> digits.indices(["1", "cat"]), digits.indices(["0", "1", "2"])
            ({'1': 0, 'cat': 1}, {'0': 0, '1': 1, '2': 2})
        """
        numbers = [label for label in labels if label.isdecimal()]
        named = all(self._named(number) for number in numbers)
        found: dict[str, int | SettingError] = {}
        for label in labels:
            try:
                found[label] = self.index(int(label) if label in numbers and not named else label)
            except SettingError as error:
                found[label] = error
        return found

    def _matches(self, label: str) -> list[int]:
        if matches := self._named(label):
            return matches
        if label.isdecimal():
            return [int(label)]
        if re.fullmatch(r"n\d{8}", label):
            return [self._by_wordnet[label]] if label in self._by_wordnet else []
        shown = _SHOWN_WITH_INDEX.fullmatch(label)  # as `__getitem__` writes it
        if shown and (index := int(shown["index"])) < len(self):
            return [index] if _loosely(shown["name"]) in {"", _loosely(self.names[index])} else []
        return []

    def _named(self, label: str) -> list[int]:
        """The classes of a name, taken as exactly as it is one's name at all."""
        return next((found for form, by_name in self._by_name if (found := by_name.get(form(label)))), [])

    @cached_property
    def _shown(self) -> tuple[str, ...]:
        def shown(index: int, name: str) -> str:
            candidates = (synonyms(name)[0], name, f"{name} ({index})".strip())
            known = (each for each in candidates if each.strip() and self._matches(each) == [index])
            return next(known, f"({index})")

        return tuple(shown(index, name) for index, name in enumerate(self.names))

    @cached_property
    def _by_name(self) -> "list[tuple[Callable[[str], str], dict[str, list[int]]]]":
        """For each way to compare names, the most exact first, the classes of each name."""
        found: list[tuple[Callable[[str], str], dict[str, list[int]]]] = []
        for form in (str, _composed, _loosely):
            by_name: dict[str, list[int]] = {}
            for index, name in enumerate(self.names):
                for label in {form(each) for each in (name, *synonyms(name))} - {""}:
                    by_name.setdefault(label, []).append(index)
            found.append((form, by_name))
        return found

    @cached_property
    def _by_wordnet(self) -> Mapping[str, int]:
        ids = self.wordnet or ()
        if ids == "imagenet":
            from timm.data import ImageNetInfo  # takes seconds to import, and few need it

            ids = tuple(ImageNetInfo().label_names())
        return {wordnet: index for index, wordnet in enumerate(ids)}


_SHOWN_WITH_INDEX = re.compile(r"(?P<name>.*?)\s*\((?P<index>\d+)\)", re.DOTALL)


def synonyms(name: str) -> list[str]:
    """The names of a class that WordNet's lists write as one.

    Examples:
        >>> synonyms("tench, Tinca tinca"), synonyms("1,000 m race")
        (['tench', 'Tinca tinca'], ['1,000 m race'])
    """
    return re.split(r",[\s_]+", name)


def _composed(name: str) -> str:
    """In one of the forms that Unicode has for the same letters; a disk may give a folder's name in another."""
    return unicodedata.normalize("NFC", name)


def _loosely(name: str) -> str:
    """Normalise case, blanks and leading zeros."""
    plain = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name).casefold()).strip()
    return plain.lstrip("0") or "0" if plain.isdecimal() else plain


def _number(key: Any) -> int | None:
    """A key as an index, if it is one; JSON makes text of numbers."""
    if isinstance(key, str):
        return int(key) if key.isdecimal() else None
    try:
        return operator.index(key)
    except TypeError:
        return None

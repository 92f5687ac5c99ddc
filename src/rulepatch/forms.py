"""The forms that what was read of others must have: a wrong type, in whatever place, is a sentence."""

import json
from collections.abc import Mapping
from numbers import Real
from typing import Any, NoReturn

from rulepatch.errors import RulepatchError
from rulepatch.reading import LARGEST

__all__ = ["checked"]

Form = Any
"""What `checked` understands.

`str`, `int`, `float` (whole numbers, too), `Real` (NaN, too), `bool`, None and `object` (anything) stand for
themselves, a tuple for one of several, a set for one of its texts, a list of one form for lists, `{str: form}` for
objects with any names and another dictionary for an object with these; a name that ends in "?" may be missing, and
others may be there with `...: object`.
"""

_CALLED = {
    str: "text",
    int: "a whole number",
    float: "a number",
    Real: "a number",
    bool: "true or false",
    None: "nothing",
}


def checked(value: Any, form: Form, what: str, error: type[RulepatchError], *, advice: str = "mend it") -> Any:
    """Make sure that what was read has a form.

    Args:
        value: what was read.
        form: see `Form`.
        what: it is and where, for the message.
        error: what to raise.
        advice: for the end of the message.

    Returns:
        The value, as it is.

    Raises:
        RulepatchError: it has another form; of the given class.

    Examples:
        >>> from rulepatch.errors import ExemplarError
        >>> checked({"label": True}, {"label": (int, str)}, "it", ExemplarError)
        Traceback (most recent call last):
        rulepatch.errors.ExemplarError: expected label in it to be a whole number or text but got true; mend it
        >>> checked({"label": 1, "sites": ["fc"]}, {"label": int, "sites?": [str], "more?": str}, "it", ExemplarError)
        {'label': 1, 'sites': ['fc']}
    """

    def refuse(expected: str, got: str) -> NoReturn:
        raise error(f"expected {expected} but got {got}; {advice}")

    if isinstance(form, tuple) and not _fits(value, form):
        refuse(f"{what} to be {_called(form)}", _shown(value))
    for each in form if isinstance(form, tuple) else [form]:
        if isinstance(form, tuple) and not _fits(value, each):
            continue
        if not _fits(value, each):
            refuse(f"{what} to be {_called(each)}", _shown(value))
        if isinstance(each, list):
            for number, entry in enumerate(value):
                checked(entry, each[0], f"entry {number} of {what}", error, advice=advice)
        elif isinstance(each, Mapping) and str in each:
            for name, entry in value.items():
                checked(entry, each[str], f"{name[:60]} in {what}", error, advice=advice)
        elif isinstance(each, Mapping):
            known = {name.removesuffix("?"): inner for name, inner in each.items() if name is not ...}
            for name in value:
                if name not in known and ... not in each:
                    refuse(f"{', '.join(known)} in {what}", f"{name[:60]!r}")
            for name, inner in known.items():
                if name in value:
                    checked(value[name], inner, f"{name} in {what}", error, advice=advice)
                elif name in each:
                    refuse(f"{name} in {what}", "none")
        break
    return value


def _fits(value: Any, form: Form) -> bool:
    """Whether a value is of the kind of a form, whatever is in it."""
    if isinstance(form, tuple):
        return any(_fits(value, each) for each in form)
    if isinstance(form, set | frozenset):
        return isinstance(value, str) and value in form
    if isinstance(form, list | Mapping):
        return isinstance(value, list if isinstance(form, list) else dict)
    if form is int or form is float:
        number = isinstance(value, (int, float) if form is float else int) and not isinstance(value, bool)
        return number and abs(value) <= LARGEST
    if form is Real or form is bool:
        return isinstance(value, form) and isinstance(value, bool) == (form is bool)
    return value is None if form is None else isinstance(value, form)


def _called(form: Form) -> str:
    if isinstance(form, tuple):
        return " or ".join(map(_called, form))
    if isinstance(form, set | frozenset):
        return f"one of {', '.join(sorted(form))}"
    return "a list" if isinstance(form, list) else "names and values" if isinstance(form, Mapping) else _CALLED[form]


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "names and values"
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:79]}…"

"""Write the tables of `methods.md`, made of the fields of the settings: `python docs/make_methods.py`."""

import re
from pathlib import Path

from rulepatch import Run
from rulepatch.concepts import CaseSettings
from rulepatch.experiments import CompareSettings
from rulepatch.inverse import InvertSettings
from rulepatch.methods import Method
from rulepatch.new_classes import NewClassSettings
from rulepatch.settings import Settings, range_of, written

PAGE = Path(__file__).parent / "methods.md"
OTHERS = (
    ("rp", Run),
    ("rulepatch.experiments", CompareSettings),
    ("rulepatch.new_classes", NewClassSettings),
    ("rulepatch.concepts", CaseSettings),
    ("rulepatch.inverse", InvertSettings),
)
BLOCK = re.compile(r"(<!-- settings -->\n).*(<!-- end -->)", flags=re.DOTALL)


def table(settings: type[Settings]) -> str:
    """A row for each setting: name, what it may be, default, meaning."""
    rows = [("setting", "type and range", "default", "meaning"), (":--",) * 4]
    rows += [
        (f"`{name}`", range_of(field), written(field.get_default()), field.description or "")
        for name, field in settings.model_fields.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def section(settings: type[Settings], path: str) -> str:
    """A class of settings: its public path, what it is, what else its method takes, its fields."""
    name, takes = settings.title.capitalize(), []
    if issubclass(settings, Method):
        name, takes = settings.name, [f"Takes `{each}`." for each in sorted(settings.images)]
        takes += [] if settings.takes_site else ["Finds its own site."]
    about = " ".join([(settings.__doc__ or "").splitlines()[0], *takes])
    return f"## {name}\n\n`{path}`: {about}\n\n{table(settings)}\n"


def filled(page: str) -> str:
    """The page with the tables as the fields are."""
    own = [each for each in Method.known.values() if each.__module__ == Method.__module__]
    others = [section(each, f"{path}.{each.__name__}") for path, each in OTHERS]
    sections = "\n".join([*(section(each, f"rp.methods.{each.__name__}") for each in own), *others])
    return BLOCK.sub(lambda found: f"{found[1]}\n{sections}\n{found[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")

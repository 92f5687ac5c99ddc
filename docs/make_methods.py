"""Write the tables of `methods.md`, made of the fields of the settings: `python docs/make_methods.py`."""

import re
from pathlib import Path

from rulepatch.data.run import Run
from rulepatch.methods import Method
from rulepatch.settings import Settings, range_of, written

PAGE = Path(__file__).parent / "methods.md"
BLOCK = re.compile(r"(<!-- settings -->\n).*(<!-- end -->)", flags=re.DOTALL)


def table(settings: type[Settings]) -> str:
    """A row for each setting: name, what it may be, default, meaning."""
    rows = [("setting", "type and range", "default", "meaning"), (":--",) * 4]
    rows += [
        (f"`{name}`", range_of(field), written(field.get_default()), field.description or "")
        for name, field in settings.model_fields.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def section(settings: type[Method]) -> str:
    """A method: its class, what it is, what else it takes, its settings."""
    takes = [f"Takes `{name}`." for name in sorted(settings.images)]
    takes += [] if settings.takes_site else ["Finds its own site."]
    about = " ".join([(settings.__doc__ or "").splitlines()[0], *takes])
    return f"## {settings.name}\n\n`rp.methods.{settings.__name__}`: {about}\n\n{table(settings)}\n"


def filled(page: str) -> str:
    """The page with the tables as the fields are."""
    run = f"## Settings of a run\n\n`rp.Run`: {(Run.__doc__ or '').splitlines()[0]}\n\n{table(Run)}\n"
    own = [each for each in Method.known.values() if each.__module__ == Method.__module__]
    sections = "\n".join([*map(section, own), run])
    return BLOCK.sub(lambda found: f"{found[1]}\n{sections}\n{found[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")

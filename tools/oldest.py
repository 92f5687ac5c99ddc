"""Prints the oldest versions that pyproject.toml admits, for pip: `python tools/oldest.py [LEFT-OUT ...]`."""

import re
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path

__all__ = ["oldest"]


def oldest(project: str, leave_out: Collection[str] = ()) -> list[str]:
    r"""Return the lower bound of each core dependency.

    Args:
        project: text of a pyproject.toml, in which every dependency has a lower bound.
        leave_out: names of dependencies that any version is good for.

    Examples:
        >>> oldest('[project]\ndependencies = ["torch>=2.6", "numpy>=1.26,<3"]', leave_out=["torch"])
        ['numpy==1.26']
    """
    bounds = [re.split(r">=|,", each)[:2] for each in tomllib.loads(project)["project"]["dependencies"]]
    return [f"{name}=={version}" for name, version in bounds if name not in leave_out]


if __name__ == "__main__":
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(oldest(text, sys.argv[1:])))

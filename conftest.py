"""What pytest collects in the folders of the package."""

from pathlib import Path

SOURCE = Path(__file__).parent / "src"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Modules without an example need not be imported to look for one: some take seconds and a hundred MiB."""
    is_module = collection_path.suffix == ".py" and collection_path.is_relative_to(SOURCE)
    return True if is_module and ">>>" not in collection_path.read_text("utf-8") else None

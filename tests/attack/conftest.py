"""What is attacked: the small world of the command line's tests, with fewer images and masks of them."""

import shutil

import pytest

from tests.cli.conftest import world as world_of_commands  # noqa: F401


@pytest.fixture(scope="session")
def world(world_of_commands, tmp_path_factory):  # noqa: F811
    """A folder with a model, its images, masks, an exemplar and edits; nobody may change it."""
    own = tmp_path_factory.mktemp("attacked") / "world"
    shutil.copytree(world_of_commands, own)
    for label in range(3):
        (own / "masks" / "road" / str(label)).mkdir(parents=True)
        for i in range(2):
            shutil.copy(own / "exemplar" / "mask.png", own / "masks" / "road" / str(label) / f"{i}.png")
        for i in range(2, 6):
            (own / "tests" / str(label) / f"{i}.png").unlink()
    return own

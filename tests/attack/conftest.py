"""What is attacked: the small world of the command line's tests."""

from tests.cli.conftest import world  # noqa: F401

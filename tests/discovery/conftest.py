from tests.fixtures.colours import model, world  # noqa: F401

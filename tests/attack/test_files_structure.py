"""Nobody but the door writes files."""

import ast

import pytest

from tests.test_architecture import FILES, SOURCE, tree_of

DOOR = {"files.py", "unfinished.py"}
WRITERS = {
    *("write_text", "write_bytes", "mkdir", "touch", "symlink_to", "unlink", "rmdir", "chmod"),
    *("save_file", "save_model", "savez", "tofile", "to_csv_file", "makedirs", "copyfile", "copytree", "copy2"),
}

EXEMPT = {"devices.py": {"mkdir"}, "store.py": {"unlink"}}
"""Locks of GPUs lie in a folder of their own; SQLite leaves journals of what is written anew."""


@pytest.mark.parametrize(
    "path", [path for path in FILES if str(path.relative_to(SOURCE)) not in DOOR], ids=lambda path: path.name
)
def test_files_are_written_through_the_door_alone(path):
    for call in (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        words = [*call.args, *(word.value for word in call.keywords)]
        given = [each.value for each in words if isinstance(each, ast.Constant)]
        modes = [each for each in given if isinstance(each, str) and 0 < len(each) <= 3 and set(each) <= set("rwaxbt+")]
        assert name not in WRITERS - EXEMPT.get(path.name, set()), ast.unparse(call)
        if name == "open" and path.name != "devices.py":  # the locks of GPUs
            assert not any(set(mode) & set("wax+") for mode in modes), ast.unparse(call)

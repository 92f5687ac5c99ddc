"""Every command that is printed can be pasted as it is: into the real parser, and where that is cheap it is run."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

import rulepatch
from rulepatch.cli import app
from rulepatch.experiments.demo import Story
from rulepatch.sweeps.run import Swept
from rulepatch.text import command_line

SOURCE = Path(rulepatch.__file__).parent
ROOT = Path(__file__).parent.parent.parent
PROGRAM = typer.main.get_command(app)


def parsed(words, group=PROGRAM, parent=None):
    """The innermost context that the words make; an error of the parser if they are no whole command."""
    context = group.make_context(words[0], words[1:], parent=parent)
    if not hasattr(group, "commands"):
        return context
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    return parsed([name, *rest], command, context)


def printed(text):
    """The commands in a text, as a person would copy them: what follows the program's name to the end of the line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [
        found[1] for line in lines if (found := re.match(r"^(?:[\w ]*: |\s*|.*\$ )(rulepatch [a-z][\w -].*)$", line))
    ]


def whole(line):
    words = shlex.split(line)
    assert words[0] == "rulepatch" and "…" not in line and "..." not in line, line
    return parsed(words)


def commands_of(group=PROGRAM, path=("rulepatch",)):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_the_parser_would_notice():
    """The negative control."""
    assert whole("rulepatch show a.safetensors").params["file"] == Path("a.safetensors")
    assert whole("rulepatch sweep plan.yaml").info_name == "run"
    for wrong in ("rulepatch show", "rulepatch edit --model playground", "rulepatch sites --site 3", "rulepatch edti"):
        with pytest.raises(Exception, match=r"."):
            whole(wrong)
    with pytest.raises(AssertionError):
        whole("rulepatch show …")
    assert printed("next: rulepatch show a\n  rulepatch sites \\\n   b\nrulepatch is at x") == [
        "rulepatch show a", "rulepatch sites     b", "rulepatch is at x",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "command"), list(commands_of()), ids=lambda each: str(each))
def test_every_command_has_an_example_that_is_whole(name, command):
    (line,) = printed(command.epilog.partition("Example:")[2])
    assert line.startswith(name) or name == "rulepatch sweep run"
    assert whole(line).command is command


def test_every_command_has_its_help_in_a_line_of_the_list(run):
    listed = run("--help").out.partition("Commands:")[2].partition("Exit codes")[0].splitlines()
    assert len([line for line in listed if line.strip()]) == len(PROGRAM.commands)
    assert not any("..." in line for line in listed)


@pytest.fixture
def odd(world, tmp_path):
    """The world under names that a shell would take apart."""
    folder = tmp_path / "it's a world"
    folder.symlink_to(world)
    (tmp_path / "out put").mkdir()
    return folder


def test_what_edit_prints_runs(run, odd, tmp_path):
    out = tmp_path / "out put" / "my edit.safetensors"
    found = run(
        *("edit", "-m", f"{odd}/net.py:build", "--exemplar", odd / "exemplar", "--reference", odd / "reference"),
        *("--site", "3", "--leave-out", "red", "--weights", odd / "weights.safetensors", "--gate", "none", "-o", out),
    )
    (line,) = printed(found.out)
    context = whole(line)
    assert context.params["file"] == out and context.params["leave_out"] == ["red"]
    assert run(*shlex.split(line)[1:]).code == 0


def test_what_new_class_prints_runs(run, odd, tmp_path):
    out = tmp_path / "out put" / "class.safetensors"
    found = run(
        *("new-class", "-m", f"{odd}/net.py:build", "--image", odd / "exemplar" / "image.png", "--mask"),
        *(odd / "exemplar" / "mask.png", "--name", "a new class", "--reference", odd / "reference", "--method"),
        *("imprinted", "-o", out),
    )
    (line,) = printed(found.out)
    assert run(*shlex.split(line)[1:]).code == 0, found


def test_the_sites_that_edit_proposes_can_be_pasted(run, editing, tmp_path):
    words = editing(tmp_path / "e.safetensors")
    at = words.index("--site")
    told = run(*words[:at], *words[at + 2 :]).err
    proposed = told[told.index("--site") :].split()
    assert run(*words[:at], *words[at + 2 :], *proposed, "--allow-useless").code == 0


@pytest.mark.slow
def test_what_apply_and_show_say_of_files_is_what_apply_takes(run, world, tmp_path):
    refused = run("apply", world / "gated.safetensors", "-m", f"{world}/net.py:build", "-o", tmp_path / "x.pt").err
    named = re.search(r"write (\S+\.pt2)", refused)[1]
    assert run("apply", world / "gated.safetensors", "-m", f"{world}/net.py:build", "-o", tmp_path / named).code == 0


def test_what_the_demo_and_a_sweep_print_is_whole(tmp_path):
    folder = tmp_path / "my demo"
    for line in Story(None, folder, folder / "edit.safetensors", folder / "report.html", {}).commands():
        assert whole(line)
    told = Swept(store=folder / "a.sqlite", jobs=3, found=0, done=2, failed=1, seconds=3.0).to_text()
    assert [whole(line).info_name for line in printed(told)] == ["failures", "report"]


def test_settings_are_written_as_the_parser_reads_them():
    options = {
        "model": "net.py:build",
        "site": ["a b", "c"],
        "rank": 2.0,
        "gate": "none",
        "any_base": True,
        "seed": None,
    }
    line = command_line("edit", {**options, "any_base": False, "exemplar": "x", "reference": "y", "out": "it's"})
    found = whole(line).params
    assert (found["site"], found["rank"], found["gate"], found["out"]) == (["a b", "c"], "2", "none", Path("it's"))
    line = command_line("evaluate", {"model": "m", "any_base": True}, "e")
    assert whole(line).params["any_base"] is True


def texts_of(path):
    """The strings of a file that are no docstrings, their filled-in parts as one word."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            skipped.add(id(body[0].value))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "filled-in" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (skipped | inside):
            yield node.value


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_message_holds_a_command_with_gaps(path):
    """A name alone, such as `rulepatch edit`, names a command; with options or arguments it must be whole."""
    names = "|".join(PROGRAM.commands)
    for text in texts_of(path):
        for found in re.finditer(rf"\brulepatch ({names}) ([^`\n;,)]*)", text):
            if re.search(r"--|…|\b[A-Z]{3,}\b|filled-in", found[2]):
                whole(found[0].strip())


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]), ids=lambda page: page.name
)
def test_the_commands_of_the_docs_are_whole(page):
    text = page.read_text("utf-8")
    for block in re.findall(r"^```(?:bash|sh|console|text)?\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("rulepatch "):
                whole(line.partition(" #")[0].partition(" > ")[0].strip())

"""What belongs to no command: version, help, completion, exit codes."""

import os
import subprocess
import sys

import pytest

import rulepatch

PROGRAM = """
import sys
sys.argv = ["rulepatch", *sys.argv[1:]]
from rulepatch.cli import main
try:
    main()
finally:
    print(sorted({"torch", "numpy", "PIL"} & set(sys.modules)), file=sys.stderr)
"""


def process(*arguments, **environment):
    """Run the program in a process of its own; its last line on standard error says what heavy things it loaded."""
    given = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, env=given)


@pytest.mark.parametrize("arguments", [["--version"], ["--version", "edit"]])
def test_the_version_is_told(arguments, run):
    found = run(*arguments)
    assert (found.code, found.out, found.err) == (0, f"rulepatch {rulepatch.__version__}\n", "")


def test_help_is_short_too(run):
    for command in ([], ["edit"], ["predict"], ["sweep"], ["sweep", "report"]):
        assert run(*command, "-h").out == run(*command, "--help").out != ""


def test_the_package_is_a_program_as_well(shell):
    assert shell("--version").out == f"rulepatch {rulepatch.__version__}\n"
    bare = shell()
    assert bare.code == 0 and "Exit codes: 0 done" in bare.out and bare.err == ""


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_a_script_of_completion_is_printed_without_loading_anything(name):
    found = process("--show-completion", name, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert found.returncode == 0 and "_RULEPATCH_COMPLETE" in found.stdout and "rulepatch" in found.stdout
    assert found.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(name, tmp_path):
    home = {"HOME": str(tmp_path), "SHELL": f"/bin/{name}", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    found = process("--install-completion", name, **home)
    assert found.returncode == 0, found.stderr
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_RULEPATCH_COMPLETE" in text for text in written)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("rulepatch pre", {"predict"}),
        ("rulepatch co", {"compare", "compose"}),
        ("rulepatch predict --we", {"--weights"}),
        ("rulepatch sweep re", {"report"}),
    ],
)
def test_names_are_completed_without_loading_anything(words, offered):
    found = process(_RULEPATCH_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    assert set(found.stdout.split()) == offered and found.stderr.splitlines()[-1] == "[]"


def test_models_and_outputs_have_one_letter_everywhere():
    import typer

    from rulepatch.cli import app

    def options(group):
        for command in group.commands.values():
            yield from options(command) if hasattr(command, "commands") else command.params

    for option in options(typer.main.get_command(app)):
        for long, short in (("--model", "-m"), ("--out", "-o"), ("--json", None)):
            if long in option.opts:
                assert option.opts == [name for name in (long, short) if name]


@pytest.mark.parametrize("name", ["edit", "compare", "cases", "invert", "new-class"])
def test_every_setting_is_an_option_and_the_help_tells_its_default(run, name):
    import typer

    from rulepatch.cli import app
    from rulepatch.settings import written

    command = typer.main.get_command(app).commands[name]
    told = run(name, "--help").out
    context = command.make_context(name, ["--help"], resilient_parsing=True)
    own = {parameter.name: parameter.opts[0] for parameter in command.params}
    taken = {parameter.name for parameter in command.get_params(context)}
    for setting, field in command.shown(context)[1].model_fields.items():
        assert setting in taken and own.get(setting, f"--{setting.replace('_', '-')}") in told
        assert setting in own or f"[{written(field.get_default())}]" in told


def test_sites_of_a_network_with_local_weights(run, world):
    net = f"{world / 'net.py'}:build"
    expected = run("sites", net, "--json").json()
    for named in ([net], ["--model", net], ["-m", net]):
        assert run("sites", *named, "--weights", world / "weights.safetensors", "--json").json() == expected
    assert "no such file" in run("sites", net, "--weights", world / "missing.pth").err
    refused = run("sites", net, "-m", net)
    assert refused.code == 2 and "got both" in refused.err

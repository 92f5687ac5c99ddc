"""What surrounds the code is true: workflows, forms and metadata are valid, name what exists, and agree on versions."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tools.oldest import oldest

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
CI = (ROOT / ".ci" / "run").read_text("utf-8")
STEPS = re.findall(r'^\s*step "[^"]+" (\S+)$', CI, flags=re.MULTILINE)


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text("utf-8"))


def jobs(path: Path) -> dict:
    return read(path)["jobs"]


def steps(path: Path) -> list[dict]:
    return [step for job in jobs(path).values() for step in job.get("steps", [])]


def pythons(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("github-workflows", WORKFLOWS),
        ("dependabot", [GITHUB / "dependabot.yml"]),
        ("github-issue-forms", [GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml" for name in ("bug", "feature")]),
        ("github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("citation-file-format", [ROOT / "CITATION.cff"]),
    ],
)
def test_files_follow_their_schemas(schema, paths):
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, paths)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_file_would_break_its_schema(tmp_path):
    (tmp_path / "wrong.yml").write_text("on: push\njobs:\n  lint:\n    steps: []\n")
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*check, str(tmp_path / "wrong.yml")], capture_output=True, text=True)
    assert done.returncode == 1 and "wrong.yml" in done.stdout


@pytest.mark.parametrize(
    "path", [*WORKFLOWS, ROOT / "CONTRIBUTING.md", ROOT / "README.md", ROOT / ".pre-commit-config.yaml"], ids=str
)
def test_make_targets_that_are_named_exist(path):
    named = set(re.findall(r"^\s*(?:- run: |entry: )?make (\w[\w-]*)|`make (\w[\w-]*)", path.read_text("utf-8"), re.M))
    assert {target for pair in named for target in pair if target} <= TARGETS


def test_phony_targets_are_the_targets():
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, flags=re.MULTILINE)
    assert set(phony.split()) == TARGETS and set(STEPS) <= TARGETS
    (tried,) = re.findall(r"^OLDEST_TESTS \?= (.+)$", MAKEFILE, flags=re.MULTILINE)
    assert all((ROOT / path).exists() for path in tried.split())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_little_and_name_what_exists(path):
    assert read(path)["permissions"] == {"contents": "read"}, "a job that needs more asks for it itself"
    for job in jobs(path).values():
        needed = job.get("needs", [])
        assert set([needed] if isinstance(needed, str) else needed) <= set(jobs(path))
        if "uses" in job:
            assert job["uses"].startswith("./") and (ROOT / job["uses"]).is_file()
            assert "workflow_call" in read(ROOT / job["uses"])[True]  # YAML reads `on` as a truth value
        else:
            assert job["runs-on"]
    for action in (step["uses"] for step in steps(path) if "uses" in step):
        assert re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", action), action


def test_every_step_of_ci_is_a_step_of_a_workflow():
    commands = [step["run"].split() for path in WORKFLOWS for step in steps(path) if "run" in step]
    assert {*STEPS} <= {target for program, target, *_ in commands if program == "make"}


def test_python_versions_agree():
    workflow = jobs(GITHUB / "workflows" / "tests.yml")
    tested = workflow["newest"]["strategy"]["matrix"]["python"]
    claimed = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.M)
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert tested == claimed == sorted(claimed, key=pythons) and claimed[0] == lowest
    (setup,) = (step["with"] for step in workflow["oldest"]["steps"] if "with" in step)
    assert setup["python-version"] == lowest
    assert f"sys.version_info < ({', '.join(lowest.split('.'))})" in MAKEFILE
    contributing = " ".join((ROOT / "CONTRIBUTING.md").read_text("utf-8").split())
    assert f"Python {', '.join(claimed[:-1])} and {claimed[-1]} with the newest versions" in contributing
    assert f"`make oldest` on {lowest}" in contributing


def test_every_core_dependency_has_a_lower_bound():
    bounds = oldest((ROOT / "pyproject.toml").read_text("utf-8"))
    assert len(bounds) == len(PROJECT["dependencies"])
    assert all(re.fullmatch(r"[\w.-]+==\d+(\.\d+)*", bound) for bound in bounds), bounds


def test_the_version_and_the_licence_are_the_same_everywhere():
    versions = re.findall(r"^## \[(.+)\]$", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    assert versions[:2] == ["Unreleased", PROJECT["version"]]
    citation = read(ROOT / "CITATION.cff")
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


def test_what_contributing_says_of_ci_is_what_ci_does():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| `make (\w+)` \| (.+) \| (.+) \|$", text, flags=re.MULTILINE)
    assert [target for target, _, _ in rows] == STEPS
    assert [target for target, _, without in rows if without.startswith("skipped")] == ["oldest"]
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", MAKEFILE, flags=re.MULTILINE)[1]
    assert re.findall(r"`([^`]+)`", rows[0][1]) == [
        line.strip().removeprefix("$(BIN)/").removesuffix(" .") for line in recipe.splitlines()
    ]
    hooks = {hook["entry"] for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}
    assert hooks == set(re.findall(r"`(make \w+)`", re.search(r"^Pre-commit runs .+$", text, flags=re.MULTILINE)[0]))


@pytest.fixture
def ci(tmp_path):
    """Run .ci/run with a `make` that fails at the targets named, and says what it was asked for."""
    programs = tmp_path / "programs"
    (tmp_path / ".ci").mkdir()
    programs.mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (programs / "chromium").write_text("#!/bin/sh\n")
    (programs / "make").write_text(
        "#!/bin/sh\n"
        'echo "$1" >> "$ASKED"\n'
        '[ "$1" = oldest ] && echo "8 passed in 1.00s"\n'
        '[ "$1" = test ] && echo "12 passed, 3 skipped in 4.00s"\n'
        'case " $FAILING " in *" $1 "*) echo "$REASON"; exit 2;; esac\n'
    )
    for program in programs.iterdir():
        program.chmod(0o755)

    def run(*failing: str, reason: str = "it broke") -> tuple[int, list[str], list[str]]:
        asked = tmp_path / "asked"
        asked.unlink(missing_ok=True)
        environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "ASKED": str(asked)}
        environment |= {"FAILING": " ".join(failing), "REASON": reason, "TMPDIR": str(tmp_path)}
        before = sorted(tmp_path.iterdir())
        done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert sorted({*tmp_path.iterdir()} - {asked}) == before, "nothing is left behind"
        results = done.stdout.partition("== results\n")[2].splitlines()
        assert results[-1].startswith("closing line: ")
        return done.returncode, asked.read_text().split(), results

    return run


def test_ci_runs_every_step_and_closes_with_the_runners_line(ci):
    code, asked, results = ci()
    assert code == 0 and asked == ["lint", "docs", "oldest-environment", "oldest", "test"]
    assert len(results) == 5 and all(": passed in " in line for line in results[:-1])
    assert results[-1] == "closing line: 12 passed, 3 skipped in 4.00s"


@pytest.mark.parametrize("failing", STEPS)
def test_ci_fails_where_a_step_fails_and_goes_on(ci, failing):
    code, asked, results = ci(failing)
    assert code == 1 and asked[-1] == "test"
    assert [": FAILED after " in line for line in results[:-1]] == [target == failing for target in STEPS]


@pytest.mark.parametrize(
    ("reason", "code", "told"),
    [
        ("ERROR: No matching distribution found for numpy==1.26", 0, "skipped, they could not be installed: ERROR: No"),
        ("ERROR: ResolutionImpossible: for help visit", 1, "FAILED, the lower bounds"),
    ],
)
def test_oldest_versions_that_cannot_be_had_are_skipped_aloud(ci, reason, code, told):
    got, asked, results = ci("oldest-environment", reason=reason)
    assert got == code and "oldest" not in asked and asked[-1] == "test"
    assert told in results[2]

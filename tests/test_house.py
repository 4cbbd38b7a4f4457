"""The rules of the house that no linter holds: words of docstrings, workflows, templates, hooks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_fed

ROOT = Path(__file__).parent.parent
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
SOURCES = [path for name in ("lightning_fed", "examples") for path in sorted((ROOT / name).rglob("*.py"))]


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_no_docstring_begins_with_what_or_give() -> None:
    """A docstring begins with a verb in the imperative, or with a noun: "Return the rows", "Rows of"."""
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.match(r"\s*r?\"{3}(What|Give(?! up)|Gives)\b", line)
    ]
    assert not wrong, "\n".join([f"{len(wrong)} docstrings", *wrong])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_targets_that_the_makefile_has(workflow: Path) -> None:
    """Nothing is run in CI that a contributor cannot run with the same words."""
    commands = [step["run"] for step in steps(workflow) if "run" in step]
    called = [re.match(r"make(?: [A-Z_0-9]+=\S+)* ([a-z][\w-]*)", command) for command in commands]
    assert {match[1] for match in called if match} <= TARGETS
    if workflow.name != "docs.yml":  # it publishes the pages, too
        assert commands
        assert all(called), commands


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_write_only_where_it_says_so(workflow: Path) -> None:
    assert "permissions" in yaml.safe_load(workflow.read_text())


def test_the_release_is_published_without_a_stored_secret_and_after_its_check() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert workflow["jobs"]["publish"]["needs"] == "build"
    assert workflow["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    commands = [step["run"].split()[1] for step in workflow["jobs"]["build"]["steps"] if "run" in step]
    assert commands == ["release-check", "test", "dist"]
    assert "secrets." not in str(workflow)


@pytest.mark.parametrize("form", [path for path in FORMS if path.stem != "config"], ids=lambda path: path.stem)
def test_an_issue_form_has_what_github_requires(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(content)
    fields = [part for part in content["body"] if part["type"] != "markdown"]
    names = [part["id"] for part in fields]
    assert len(set(names)) == len(names) > 0
    assert all(part["attributes"]["label"] for part in fields if part["type"] != "markdown")


def test_hooks_run_the_tools_of_the_environment_and_download_nothing() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)
    tools = {Path(hook["entry"].split()[0]).name for hook in hooks}
    run = set(re.findall(r"\$\(BIN\)/([\w-]+)", (ROOT / "Makefile").read_text().split("\ntest:")[1].split("\n\n")[0]))
    assert tools == run - {"pytest"}, "each tool of `make test` has a hook"


def test_the_fast_tests_are_there() -> None:
    lines = (ROOT / "Makefile").read_text().split("\nFAST :=")[1].split("\n\n")[0]
    paths = lines.replace("\\\n", " ").split()
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_citation_and_the_policy_name_this_project() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"].startswith("lightning_fed")
    assert "version" not in citation, f"a version stands in lightning_fed/__init__.py: {lightning_fed.__version__}"
    assert "security/advisories/new" in (ROOT / "SECURITY.md").read_text()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md"])
def test_a_page_of_the_house_links_to_files_that_exist(page: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / page).read_text())
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_contributing_names_every_target_of_the_makefile() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"make (?:[A-Z_0-9]+=\S+ )*([a-z][\w-]*)", text))
    assert named <= TARGETS, "a command of CONTRIBUTING.md that the Makefile does not have"
    internal = {"release-check", "install", "clean", "toy"}
    assert TARGETS - named - internal == set(), "a target that CONTRIBUTING.md does not name"

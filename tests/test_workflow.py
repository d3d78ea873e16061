"""The workflow that builds, tests and publishes the book on GitHub."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text("utf-8"))
BUILD, PUBLISH = WORKFLOW["jobs"]["build"], WORKFLOW["jobs"]["publish"]


def step(word):
    """The one step that runs or uses something with this word."""
    (found,) = (s for s in BUILD["steps"] if word in s.get("run", "") + s.get("uses", ""))
    return found


@pytest.mark.parametrize("target", ["book", "test"])
def test_the_workflow_runs_the_commands_of_the_readme(target):
    assert step(f"make {target}")["run"] == f"make {target}"
    assert re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text("utf-8"))


def test_only_a_push_to_main_is_published():
    events = WORKFLOW[True]  # YAML's word for "on"
    assert events["push"] == {"branches": ["main"]} and "pull_request" in events
    assert PUBLISH["if"] == "github.event_name == 'push'" and PUBLISH["needs"] == "build"
    assert step("upload-pages-artifact")["if"] == PUBLISH["if"]


def test_no_job_may_do_more_than_it_has_to():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert set(BUILD["permissions"].values()) == {"read"}
    assert PUBLISH["permissions"] == {"id-token": "write", "pages": "write"}


def test_outputs_are_kept_although_tests_fail_and_found_by_later_builds():
    kept, found = step("cache/save")["with"], step("cache/restore")["with"]
    assert kept["path"] == found["path"] == "_build/.executed"
    assert kept["key"] == "${{ steps.executed.outputs.cache-primary-key }}"
    assert found["key"].startswith(found["restore-keys"])
    words = ("cache/restore", "make book", "cache/save", "make test")
    order = [BUILD["steps"].index(step(word)) for word in words]
    assert order == sorted(order)


def test_the_token_for_the_hub_is_given_to_no_other_edition():
    for s in BUILD["steps"]:
        if "HF_TOKEN" in str(s.get("env", "")):
            assert "inputs.weights == 'hub'" in s.get("if", "") + str(s["env"])

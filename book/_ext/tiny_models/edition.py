"""What this edition of the book is: its title, version, date and commit, and where it is published.

All of it is said once, in ``CITATION.cff``, and the date and the commit by git. Where the book is
published and where its repository is can differ from copy to copy, so that variables of the
environment, which the workflow on GitHub sets, come before the file's ``url`` and
``repository-code``. The book is built without them too: then it names no address.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Edition:
    """What there is to cite."""

    title: str
    authors: tuple[str, ...]
    version: str
    date: date
    commit: str  # or nothing, outside of a repository
    licences: tuple[str, ...]
    url: str  # with a slash at its end, or nothing
    repository: str  # likewise nothing if it is not known

    @property
    def short_title(self) -> str:
        """Give the title without its subtitle."""
        return self.title.partition(":")[0]


def read_edition(root: Path) -> Edition:
    """Read what CITATION.cff, git and the environment say."""
    cff = yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))
    commit, day = last_commit(root)
    licences = cff["license"]
    return Edition(
        title=cff["title"],
        authors=tuple(author_name(author) for author in cff["authors"]),
        version=str(cff["version"]),
        date=date.fromisoformat(day or str(cff["date-released"])),
        commit=commit,
        licences=(licences,) if isinstance(licences, str) else tuple(licences),
        url=address("TINY_MODELS_URL", cff.get("url"), "/"),
        repository=address("TINY_MODELS_REPOSITORY", cff.get("repository-code"), ""),
    )


def author_name(author: dict[str, str]) -> str:
    """Write an author's name, of a person or of a group."""
    parts = [author.get(part) for part in ("given-names", "name-particle", "family-names")]
    return author.get("name") or " ".join(filter(None, parts))


def address(variable: str, otherwise: str | None, end: str) -> str:
    """Give an address from the environment or else the one given, if there is any."""
    found = os.environ.get(variable) or otherwise
    return found.rstrip("/") + end if found else ""


def last_commit(root: Path) -> tuple[str, str]:
    """Give the last commit and its day; nothing where there is no git or no repository."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%H %cs", "--", "."]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "", ""
    commit, _, day = done.stdout.strip().partition(" ")
    return commit, day

"""Set the GitHub repository in badges, set-up cells and pages: `make repository NAME=alice/covseg`.

Its one place is `Repository` in pyproject.toml. Files are changed as text, so notebooks keep their
outputs; nothing needs to be installed.
"""

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
NAME = r"[A-Za-z0-9][\w-]*/[\w.-]+"


def repository(project):
    """Return the repository that a project's pyproject.toml names, as owner/name."""
    pages = (project / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(rf'^Repository = "https://github\.com/({NAME})"$', pages, re.MULTILINE).group(
        1
    )


def files(project):
    """Return the files that may name the repository, pyproject.toml last, so that a run cut off can
    be repeated.
    """
    found = [
        path
        for pattern in ("*.md", "docs/*.md", "notebooks/*.ipynb", "mkdocs.yml", "CITATION.cff")
        for path in sorted(project.glob(pattern))
    ]
    return [*found, project / "pyproject.toml"]


def set_repository(project, name):
    """Put `name`, owner/name, wherever the present one stands; return the files that changed."""
    if not re.fullmatch(NAME, name):
        raise SystemExit(
            f"{name!r} is no repository: give owner/name, as in make repository NAME=alice/covseg"
        )
    present = re.compile(rf"(github/|hub\.com/|/gh/){re.escape(repository(project))}(?![\w-])")
    changed = []
    for path in files(project):
        before = path.read_text(encoding="utf-8")
        after = present.sub(rf"\g<1>{name}", before)
        if after != before:
            path.write_text(after, encoding="utf-8", newline="\n")
            changed.append(path)
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(
            f"the repository is {repository(PROJECT)}; another: make repository NAME=alice/covseg"
        )
    for path in set_repository(PROJECT, sys.argv[1]):
        print(path.relative_to(PROJECT))  # noqa: T201

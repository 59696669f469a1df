"""The repository's name: one place, one command, and everything that holds it agrees."""

import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from set_repository import files, repository, set_repository

from covseg_lib.batch import notebooks

CLONE = re.compile(
    r'url = "https://github\.com/([^"]+)"\n.*\["git", "clone", "--depth=1", url, str\(project\)\]'
)


def _addresses(project):
    """Return the repositories named covseg, or as ours is, that the project's files link to."""
    ours = re.escape(repository(project).split("/")[1])
    text = "\n".join(path.read_text(encoding="utf-8") for path in files(project))
    return re.findall(rf"(?:github|hub\.com)/([\w-]+/(?:covseg|{ours}))(?![\w-])", text)


@pytest.mark.parametrize("path", notebooks.find_notebooks(), ids=lambda path: path.stem)
def test_badge_and_set_up_cell_name_the_repository_of_pyproject(path, project):
    title, _, set_up = (cell.source for cell in nbformat.read(path, as_version=4).cells[:3])
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    page = f"https://colab.research.google.com/github/{repository(project)}/blob/main/notebooks/{path.name}"
    assert f"[![Open in Colab]({badge})]({page})" in title
    assert CLONE.findall(set_up) == [repository(project)]


def test_no_page_names_another_repository(project):
    assert set(_addresses(project)) == {repository(project)}


@pytest.fixture
def copy(project, tmp_path):
    """The project's files that name the repository, and the command."""
    for path in [*files(project), project / "tests" / "set_repository.py"]:
        there = tmp_path / path.relative_to(project)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there)
    return tmp_path


def test_the_command_sets_it_everywhere_and_changes_nothing_else(copy, project):
    before = repository(project)
    done = subprocess.run(
        [sys.executable, "tests/set_repository.py", "alice-b/ct.book"],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "pyproject.toml"
    assert repository(copy) == "alice-b/ct.book"
    assert (
        len(_addresses(copy)) == len(_addresses(project)) >= 1 + 2 * len(notebooks.find_notebooks())
    )
    assert set(_addresses(copy)) == {"alice-b/ct.book"}
    changed = set_repository(copy, before)
    assert len(changed) == len(done.stdout.splitlines())
    assert all(
        path.read_bytes() == (project / path.relative_to(copy)).read_bytes() for path in changed
    )


@pytest.mark.parametrize(
    "name", ["alice", "https://github.com/alice/covseg", "alice/cov seg", 'alice/"']
)
def test_what_is_no_owner_and_name_is_refused(copy, name):
    with pytest.raises(SystemExit, match="give owner/name"):
        set_repository(copy, name)
    assert repository(copy) != name

"""The repository's name: one place, one command, and everything that holds it agrees."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml
from colab_packages import find_list, read_list, take_list
from notebook_parts import put_parts
from set_repository import PROJECT, files, repository, set_repository

from covseg_lib import __version__, colab
from covseg_lib.batch import notebooks

CLONE = re.compile(
    r'url = "https://github\.com/([^"]+)"\n.*\["git", "clone", "--depth=1", url, str\(project\)\]'
)


def _addresses(project):
    """Return the repositories named covseg, or as ours is, that the project's files link to."""
    ours = re.escape(repository(project).split("/")[1])
    text = "\n".join(path.read_text(encoding="utf-8") for path in files(project))
    return re.findall(rf"(?:github|hub\.com|/gh)/([\w-]+/(?:covseg|{ours}))(?![\w-])", text)


@pytest.mark.parametrize("path", notebooks.find_notebooks(), ids=lambda path: path.stem)
def test_badge_and_set_up_cell_name_the_repository_of_pyproject(path, project):
    title, _, set_up = (cell.source for cell in nbformat.read(path, as_version=4).cells[:3])
    file = f"{repository(project)}/blob/main/notebooks/{path.name}"
    assert f"](https://colab.research.google.com/github/{file})" in title
    assert f"](https://kaggle.com/kernels/welcome?src=https://github.com/{file})" in title
    binder = f"https://mybinder.org/v2/gh/{repository(project)}/main?labpath=notebooks/{path.name}"
    assert f"]({binder})" in title
    assert CLONE.findall(set_up) == [repository(project)]


@pytest.mark.parametrize("path", notebooks.find_notebooks(), ids=lambda path: path.stem)
def test_the_shared_parts_are_in_every_notebook(path, project, tmp_path):
    copy = shutil.copy(path, tmp_path)
    assert not put_parts(Path(copy), repository(project)), "run `make parts`"


def test_the_runtime_that_is_named_is_the_one_whose_packages_are_listed(project):
    _, date = find_list(project)
    assert date == colab.TESTED_RUNTIME
    assert f"runtime of {date}" in (project / "README.md").read_text()


def test_a_newer_list_of_colabs_packages_changes_every_date(copy, tmp_path):
    for name in ("covseg_lib/colab.py", find_list(PROJECT)[0].relative_to(PROJECT)):
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, copy / name)
    new = tmp_path / "freeze.txt"
    new.write_text("numpy==2.9.0\nscikit_learn==1.9\n")
    changed = take_list(new, "2031-05", copy)
    assert find_list(copy) == (changed[0], "2031-05")
    assert read_list(changed[0]) == {"numpy": "2.9.0", "scikit-learn": "1.9"}
    assert 'TESTED_RUNTIME = "2031-05"' in (copy / "covseg_lib" / "colab.py").read_text()
    assert len(changed) == 3 + len(notebooks.find_notebooks())  # list, colab.py, README
    assert all("2031-05" in path.read_text() for path in changed[1:])


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
        len(_addresses(copy)) == len(_addresses(project)) >= 1 + 4 * len(notebooks.find_notebooks())
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


def test_the_citation_has_the_projects_version(project):
    citation = yaml.safe_load((project / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["repository-code"].endswith(repository(project))


@pytest.mark.slow
def test_a_wheel_holds_notebooks_and_models(project, tmp_path):
    copied = shutil.ignore_patterns(".*", "build", "*.egg-info", "study", "browser")
    source = shutil.copytree(project, tmp_path / "source", ignore=copied)  # pip writes build/ there
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", str(source)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("covseg-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    found = {Path(name).name for name in names if "share/covseg/notebooks/" in name}
    assert found == {path.name for path in notebooks.find_notebooks()}
    for model in ("final", "final_lungs"):
        assert f"covseg_lib/shipped/{model}/best.weights.h5" in names
    assert {f"covseg_lib/{path.name}/__init__.py" for path in rooms(project)} <= set(names)


def rooms(project):
    return [path.parent for path in (project / "covseg_lib").glob("*/__init__.py")]


def test_the_site_has_a_page_for_every_room(project):
    text = (project / "mkdocs.yml").read_text()
    assert all(f"reference/{path.name}.md" in text for path in rooms(project))

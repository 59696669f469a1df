"""The shape of the library. (`make lint` checks which room imports which, by import-linter.)"""

import ast
import collections
import re
import subprocess
import sys

import pytest

# names of two modules that cannot be confused: each is a method's own word for what it does
SHARED_NAMES = {
    "dice",
    "iou",
}  # objectives: of tensors, in training; metrics: of masks, in evaluation


@pytest.fixture(scope="module")
def modules(project):
    return sorted((project / "covseg_lib").rglob("*.py"))


def test_rooms_are_small(modules):
    rooms = collections.Counter(path.parent for path in modules if path.name != "__init__.py")
    assert max(rooms.values()) <= 9
    assert sum(rooms.values()) <= 58


def test_no_public_name_is_in_two_modules(modules):
    homes = collections.defaultdict(list)
    for path in modules:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
                homes[node.name].append(path.stem)
                assert node.name != path.stem
    assert {name: found for name, found in homes.items() if len(found) > 1}.keys() <= SHARED_NAMES


def test_the_readme_shows_every_room_and_module(project, modules):
    readme = (project / "README.md").read_text()
    code = readme[readme.index("## The code") :]
    listed = set(re.findall(r"\b\w+\b", code[: code.index("\n## ")]))
    assert {path.stem for path in modules} - {"__init__"} <= listed


def test_the_data_room_starts_without_keras(project, modules):
    names = [path.stem for path in modules if path.parent.name == "data"]
    code = "import sys\n" + "".join(
        f"import covseg_lib.data.{name}\n" for name in names if name != "__init__"
    )
    code += "print({'keras', 'tensorflow', 'sklearn'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

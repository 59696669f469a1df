"""What the README says of the code: the order of the modules, and that 01 and 02 start without Keras."""

import ast
import re
import subprocess
import sys


def _listed(project):
    readme = (project / "README.md").read_text()
    return re.findall(r"^    (\w+) {2,}\S", readme[readme.index("## The code") :], re.M)


def _imported(path):
    """Return the modules of the library that a module imports at its top."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == "covseg_lib":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("covseg_lib."):
            yield node.module.removeprefix("covseg_lib.")


def test_every_module_is_listed_and_imports_only_those_above_it(project):
    listed = _listed(project)
    there = {path.stem for path in (project / "covseg_lib").glob("*.py")} - {"__init__", "__main__"}
    assert set(listed) == there
    for number, name in enumerate(listed):
        needed = set(_imported(project / "covseg_lib" / f"{name}.py")) - {"__version__"}
        assert needed <= set(listed[:number]), name


def test_all_before_unet_starts_without_keras(project):
    listed = _listed(project)
    names = ", ".join(listed[: listed.index("unet")])
    code = f"from covseg_lib import {names}; import sys; print({{'keras', 'tensorflow', 'sklearn'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""Colab's packages: install them here, or take a newer list of them.

The list is what `!pip freeze` prints in a new Colab notebook. `make test-colab` installs, with
Colab's versions, every package that covseg imports or could move.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from set_repository import PROJECT
from set_repository import files as pages

NAME = re.compile(r"colab_packages_(\d{4}-\d{2})\.txt")
COLAB = Path("covseg_lib") / "colab.py"  # TESTED_RUNTIME


def find_list(project=PROJECT):
    """Return the path of the list, and its date."""
    (path,) = project.glob("tests/colab_packages_*.txt")
    return path, NAME.fullmatch(path.name).group(1)


def read_list(path):
    """Return {package: version}, names as pip compares them."""
    pairs = (line.split("==") for line in path.read_text().split())
    return {canonical(name): version for name, version in pairs}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def plan(project=PROJECT):
    """Return {package: version} that pip would install for covseg where nothing is installed yet,
    if every package of the list keeps its version.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--report", "-", "--constraint", str(find_list(project)[0])]
    command += ["--requirement", str(project / "requirements.txt"), "kagglehub"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    packages = [entry["metadata"] for entry in json.loads(done.stdout)["install"]]
    return {canonical(package["name"]): package["version"] for package in packages}


def install(project=PROJECT):
    """Install what Colab has of the plan, and a kernel named colab."""
    colab = read_list(find_list(project)[0])
    packages = [f"{name}=={version}" for name, version in plan(project).items() if name in colab]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *packages], check=True)
    kernel = ["ipykernel", "install", "--sys-prefix", "--name", "colab"]
    subprocess.run([sys.executable, "-m", *kernel], check=True, capture_output=True)


def take_list(new, date, project=PROJECT):
    """Replace the list, and its date wherever the runtime is named; return the changed files."""
    if not re.fullmatch(r"\d{4}-\d{2}", date):
        raise SystemExit(f"{date!r} is no month: give DATE=2026-08")
    old, before = find_list(project)
    text = new.read_text()
    old.unlink()
    listed = old.with_name(f"colab_packages_{date}.txt")
    listed.write_text(text)
    changed = [listed]
    for path in [*pages(project), project / COLAB]:
        text = path.read_text(encoding="utf-8")
        named = re.compile(rf"(runtime of `?|TESTED_RUNTIME = \"){before}")
        if named.search(text):
            path.write_text(named.sub(rf"\g<1>{date}", text), encoding="utf-8", newline="\n")
            changed.append(path)
    return changed


if __name__ == "__main__":
    if sys.argv[1:] == ["install"]:
        install()
    elif len(sys.argv) == 3:
        for path in take_list(Path(sys.argv[1]), sys.argv[2]):
            print(path.relative_to(PROJECT))  # noqa: T201
    else:
        raise SystemExit("give list and month: make colab-packages LIST=freeze.txt DATE=2026-08")

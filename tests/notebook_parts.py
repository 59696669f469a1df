"""Put into every notebook the parts that all of them share: `make parts`.

These are the badges, the set-up cell, the parameter END_RUNTIME, and absolute links to the pages.
Everything else in a notebook stays as it is, its outputs too. Calling it again changes nothing.
"""

import re

import nbformat
from set_repository import PROJECT, repository

from covseg_lib import colab, files

BADGES = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name})",
    "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
    "(https://kaggle.com/kernels/welcome?src=https://github.com/{repository}/blob/main/notebooks/{name})",
    "[![Launch Binder](https://mybinder.org/badge_logo.svg)]"
    "(https://mybinder.org/v2/gh/{repository}/main?labpath=notebooks/{name})",
    "Tested with Colab's runtime of `{runtime}`",
)
SET_UP = """\
#@title Set-up, the same in every notebook: run it, there is no need to read it
# It finds the project or fetches it, and installs what is missing. On Colab it mounts Drive first.
import os, pathlib, subprocess, sys

on_kaggle = "KAGGLE_KERNEL_RUN_TYPE" in os.environ
on_colab = not on_kaggle and ("google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ)
content = pathlib.Path("/kaggle/working" if on_kaggle else "/content")
content = pathlib.Path(os.environ.get("COVSEG_CONTENT", content))
my_drive = content / "drive/MyDrive"
if on_colab and not my_drive.is_dir():
    from google.colab import drive
    drive.mount(str(content / "drive"))
here = pathlib.Path("covseg_lib").absolute()
places = [*here.parents, my_drive, *my_drive.glob("*"), *my_drive.glob("*/*")]
project = next((place for place in places if (place / "covseg_lib").is_dir()), content / "covseg")
if (on_colab or on_kaggle) and not project.is_dir():
    url = "https://github.com/{repository}"
    subprocess.run(["git", "clone", "--depth=1", url, str(project)], check=True)
sys.path.insert(0, str(project))
from covseg_lib import colab, parameters

parameters.correct(globals())  # papermill's text "false" becomes False
colab.install_missing()
colab.explain_failed_imports()
colab.end_runtime(END_RUNTIME)  # when the list of files at the end is shown
STUDY = STUDY or str(colab.study_folder())
print(f"study: {STUDY}\\ndevice: {colab.device()}")"""
END_PARAMETER = """
#@markdown Ticked: end Colab's runtime when this notebook is done, so that it costs nothing more
END_RUNTIME = False  #@param {type:"boolean"}"""


def put_parts(path, ours):
    """Put the shared parts into a notebook where they are missing; return whether it changed."""
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    title, parameters, set_up = notebook.cells[:3]
    badges = " ".join(BADGES).format(repository=ours, name=path.name, runtime=colab.TESTED_RUNTIME)
    title.source = re.sub(r"^\[!\[Open in Colab.*$", lambda _: badges, title.source, flags=re.M)
    set_up.source = SET_UP.replace("{repository}", ours)
    if "\nEND_RUNTIME = " not in parameters.source:
        parameters.source += "\n" + END_PARAMETER
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            pages = rf"](https://github.com/{ours}/blob/main/docs/"
            cell.source = cell.source.replace("](../docs/", pages)
    after = nbformat.writes(notebook) + "\n"
    if after != before:
        files.write_bytes(path, after.encode())
    return after != before


if __name__ == "__main__":
    for path in sorted((PROJECT / "notebooks").glob("*.ipynb")):
        if put_parts(path, repository(PROJECT)):
            print(path.relative_to(PROJECT))  # noqa: T201

"""A stand-in for a Colab runtime: folders as on Colab, and a package google.colab of our own."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
from nbclient import NotebookClient
from set_repository import repository

from covseg_lib.batch import notebooks

COPIED = ("covseg_lib", "notebooks", "requirements.txt")


def set_up_cell():
    return nbformat.read(notebooks.find_notebooks()[0], as_version=4).cells[2].source


class Runtime:
    """A Colab runtime in a folder: its content, what Drive would hold once mounted, and a stand-in
    google.colab.
    """

    python = sys.executable
    kernel = "python3"

    def __init__(self, folder):
        self.content, self.on_drive = folder / "content", folder / "my_drive"
        (self.content / "sample_data").mkdir(parents=True)
        self.on_drive.mkdir()
        stand_in = folder / "site" / "google" / "colab"
        stand_in.mkdir(parents=True)
        (stand_in / "__init__.py").write_text("")
        (stand_in / "drive.py").write_text(
            "import os\n"
            "def mount(place):\n"
            "    print('mounting', place)\n"
            "    os.makedirs(place)\n"
            f"    os.rename({str(self.on_drive)!r}, os.path.join(place, 'MyDrive'))\n"
            "def flush_and_unmount():\n"
            "    print('Drive is saved')\n"
        )
        (stand_in / "runtime.py").write_text("def unassign():\n    print('the runtime ends')\n")
        (stand_in / "files.py").write_text(
            "import pathlib, shutil\n"
            f"folder = pathlib.Path({str(folder)!r})\n"
            "def upload():\n"
            "    return {path.name: path.read_bytes() for path in (folder / 'laptop').iterdir()}\n"
            "def download(path):\n"
            "    shutil.copy(path, folder)\n"
        )
        self.environment = os.environ | {
            "COLAB_RELEASE_TAG": "release-colab",
            "COVSEG_CONTENT": str(self.content),
            "PYTHONPATH": str(folder / "site"),
            "PYTHONSAFEPATH": "1",
        }
        self.environment.pop("COVSEG_STUDY", None)

    def install_from(self, wheels):
        """Let pip install from a folder of wheels only, and beside the stand-in."""
        self.environment |= {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_TARGET": self.environment["PYTHONPATH"],
        }

    def put_project(self, project, folder, extra_requirements=""):
        for name in COPIED:
            copy = shutil.copytree if (project / name).is_dir() else shutil.copy
            (folder).mkdir(parents=True, exist_ok=True)
            copy(project / name, folder / name)
        with open(folder / "requirements.txt", "a") as file:
            file.write(extra_requirements)

    def put_on_github(self, project, folder):
        """Make a repository in a folder, which git takes for the one that the notebooks name."""
        self.put_project(project, folder)
        identity = ["-c", "user.name=a teacher", "-c", "user.email=teacher@example.org"]
        for command in (["init"], ["add", "."], [*identity, "commit", "-m", "the project"]):
            subprocess.run(["git", "-C", str(folder), *command], check=True, capture_output=True)
        self.environment |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{folder}.insteadOf",
            "GIT_CONFIG_VALUE_0": f"https://github.com/{repository(project)}",
        }

    def run_set_up(self):
        code = f'STUDY, END_RUNTIME = "", False\n{set_up_cell()}\nprint("library:", colab.PROJECT)'
        command = [self.python, "-c", code]
        return subprocess.run(
            command, cwd=self.content, env=self.environment, capture_output=True, text=True
        )

    def run_all(self, number, **fields):
        """Fill in form fields of a notebook and run all its cells, as Colab's page does; return
        what was printed.
        """
        (path,) = notebooks.find_notebooks([number])
        notebook = nbformat.read(path, as_version=4)
        form = notebook.cells[1]
        for name, value in fields.items():
            form.source, found = re.subn(
                rf"^{name} = .+?(?=  #@param)", f"{name} = {value!r}", form.source, flags=re.M
            )
            assert found == 1, f"{path.name} has no field {name}"
        return self.run(notebook)

    def run(self, notebook):
        """Run a notebook's cells, and return what was printed."""
        client = NotebookClient(
            notebook,
            timeout=None,
            startup_timeout=600,
            kernel_name=self.kernel,
            resources={"metadata": {"path": self.content}},
        )
        client.execute(env=self.environment)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        return "".join(output.text for output in outputs if output.get("name") == "stdout")

    def lose(self):
        """Take the runtime away: what is on Drive stays."""
        (self.content / "drive" / "MyDrive").rename(self.on_drive)
        shutil.rmtree(self.content)
        (self.content / "sample_data").mkdir(parents=True)

"""The notebooks with Colab's own packages: `make test-colab`, which sets COVSEG_COLAB_PYTHON."""

import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import nbformat
import pytest
from colab_packages import canonical, find_list, read_list
from colab_runtime import Runtime, set_up_cell
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement

from covseg_lib import colab
from covseg_lib.batch import notebooks

PYTHON = os.environ.get("COVSEG_COLAB_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="only in make test-colab"),
]


class Image(Runtime):
    """A runtime whose Python has Colab's packages, and pip the package index."""

    python, kernel = PYTHON, "colab"

    def versions(self):
        """Return {package: version} of what is installed."""
        command = [PYTHON, "-m", "pip", "list", "--format", "json"]
        done = subprocess.run(command, cwd=self.content, check=True, capture_output=True, text=True)
        return {
            canonical(package["name"]): package["version"] for package in json.loads(done.stdout)
        }


@pytest.fixture(scope="module")
def listed(project):
    return read_list(find_list(project)[0])


@pytest.fixture(scope="module")
def image(tmp_path_factory, project, listed):
    """A new runtime, without what an earlier call installed, and the project on its Drive."""
    os.environ["JUPYTER_PATH"] = str(Path(PYTHON).parents[1] / "share" / "jupyter")  # the kernel
    image = Image(tmp_path_factory.mktemp("colab"))
    added = sorted(image.versions().keys() - listed.keys())
    if added:
        subprocess.run([PYTHON, "-m", "pip", "uninstall", "--yes", *added], check=True)
    image.put_project(project, image.on_drive / "covseg")
    return image


def test_the_runtime_has_colabs_versions(image, listed):
    versions = image.versions()
    versions.pop("pip")
    assert versions.items() <= listed.items()
    assert {"tensorflow", "keras", "numpy", "ipykernel", "kagglehub"} <= versions.keys()


def test_pip_installs_what_is_missing_and_moves_nothing(image, listed, project):
    before = image.versions()
    done = image.run_set_up()
    assert done.returncode == 0, done.stderr
    after = image.versions()
    assert before.items() <= after.items()
    lines = colab._requirements(project / "requirements.txt")
    wanted = {canonical(Requirement(line).name) for line in lines}
    assert after.keys() - before.keys() >= wanted - listed.keys() > set()
    assert not (after.keys() - before.keys()) & listed.keys()


@pytest.mark.parametrize("number", [path.name[:2] for path in notebooks.find_notebooks()])
def test_a_notebook_runs_from_top_to_bottom(image, number):
    before = image.versions()
    assert f"study: {image.content}/drive/MyDrive/covseg/study\n" in image.run_all(number)
    assert image.versions() == before


def test_a_numpy_that_is_pinned_to_another_version_names_the_runtime(tmp_path, project, listed):
    image = Image(tmp_path)
    image.put_project(project, image.on_drive / "covseg", "numpy==1.26.4\n")
    before = image.versions()
    done = image.run_set_up()
    said = f"this runtime has numpy {listed['numpy']}, covseg needs numpy==1.26.4: "
    assert done.returncode != 0
    assert said + colab.CHOOSE_RUNTIME in done.stderr
    assert image.versions() == before


def test_an_import_that_fails_names_the_runtime(image):
    """By Colab's own IPython."""
    cells = [f'STUDY, END_RUNTIME = "", False\n{set_up_cell()}', "import no_such_package"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with pytest.raises(CellExecutionError):
        image.run(notebook)
    shown = "\n".join(notebook.cells[1].outputs[0].traceback)
    assert "No module named 'no_such_package'" in shown
    assert colab.CHOOSE_RUNTIME in shown


def test_kagglehub_is_asked_for_the_copy_near_the_runtime(tmp_path, project):
    """Colab's own kagglehub, and a stand-in for the server on the runtime that mounts the copy."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body["owner"], body["dataset"]))
            answer = json.dumps({"slug": body["dataset"]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    (tmp_path / "covid19-ct-scans").mkdir()
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = "from covseg_lib.data import sources; print(sources.find_kaggle_copy())"
    environment = os.environ | {
        "PYTHONPATH": str(project),
        "TBE_RUNTIME_ADDR": f"127.0.0.1:{server.server_port}",
        "COLAB_CACHE_MOUNT_FOLDER": str(tmp_path),
    }
    done = subprocess.run([PYTHON, "-c", code], env=environment, capture_output=True, text=True)
    server.shutdown()
    assert done.stdout.splitlines()[-1] == str(tmp_path / "covid19-ct-scans"), done.stderr
    assert {path for path, *_ in asked} == {
        "/kagglehub/datasets/is_supported",
        "/kagglehub/datasets/mount",
    }
    assert {(owner, name) for _, owner, name in asked} == {("andrewmvd", "covid19-ct-scans")}

"""Make the committed notebooks' outputs again by a demo run: `make notebooks`.

What goes to stderr (progress bars, TensorFlow's greeting) and all times of execution are left out.
"""

import os
import sys
import tempfile

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

from covseg_lib import files
from covseg_lib.batch import notebooks


def refresh(path):
    notebook = nbformat.read(path, as_version=4)
    resources, kept = (
        {"metadata": {"path": path.parent}},
        {"record_timing": False, "store_widget_state": False},
    )
    NotebookClient(notebook, resources=resources, timeout=None, **kept).execute()
    notebooks.drop_stderr(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    notebook.metadata["language_info"] = {"name": "python"}
    text = nbformat.writes(notebook).replace(os.environ["COVSEG_STUDY"], "study")
    with files.atomic(path) as temporary:
        temporary.write_text(text + "\n")


def _joined(outputs):
    """Return outputs, what was printed line by line as one."""
    joined = []
    for output in outputs:
        if joined and output.get("name") == joined[-1].get("name") == "stdout":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COVSEG_STUDY"] = os.path.join(folder, "study")
        for path in tqdm(notebooks.find_notebooks(sys.argv[1:])):
            refresh(path)

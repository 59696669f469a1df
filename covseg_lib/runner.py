"""Running the notebooks one after the other with papermill, and the page made of the last one."""

import ast
import importlib.metadata
import itertools
import json
import os
import platform
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from covseg_lib import __version__, parallel, storage
from covseg_lib.colab import PROJECT

NOTEBOOKS = PROJECT / "notebooks"
TOGETHER = (("00", "01"), ("03", "04", "05"))  # notebooks that do not need each other
NOTHING_FETCHED = {"mathjax_url": "", "require_js_url": "", "jquery_url": "", "mermaid_js_url": ""}
PATHS = {"DATASET", "SCAN", "MASK"}  # parameters that name a place
KERNEL_ARGUMENTS = ["--log-level=ERROR"]  # ipykernel warns at every start that local ports are not encrypted


class NotebookFailed(Exception):
    """A notebook stopped: says which cell, why, and where the executed copy lies."""


class QuietKernel(AsyncKernelManager):
    """A kernel whose libraries print nothing to our terminal: what its cells print is in the notebook anyway."""

    async def start_kernel(self, **options):
        """Start it as its superclass does."""
        await super().start_kernel(**options, stderr=subprocess.DEVNULL)


def notebooks(numbers=()):
    """Return the paths of the suite's notebooks in order, or of those whose names start with one of `numbers`.

    Raises ValueError for a number that no notebook has, FileNotFoundError where the notebooks are not beside the
    library.
    """
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no notebooks in {NOTEBOOKS}: run this from a copy of the whole project")
    unknown = [number for number in numbers if not any(path.name.startswith(number) for path in found)]
    if unknown:
        raise ValueError(f"no notebook {', '.join(unknown)}: there are {', '.join(path.stem for path in found)}")
    return [path for path in found if not numbers or path.name.startswith(tuple(numbers))]


def parameters_of(path):
    """Return the names of a notebook's own parameters (its cell tagged `parameters`)."""
    return list(papermill.inspect_notebook(str(path)))


def parse_value(text):
    """Read a parameter's value as a Python literal where it is one, else as the text it is.

    A tuple becomes a list: papermill would hand it on as text.

    >>> parse_value("50"), parse_value("1e-4"), parse_value("None"), parse_value("001"), parse_value("slice")
    (50, 0.0001, None, '001', 'slice')
    >>> parse_value("(-160, 240)"), parse_value("{[]: 1}")
    ([-160, 240], '{[]: 1}')
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text
    return list(value) if isinstance(value, tuple) else value


def run(study, parameters=None, numbers=(), workers=None):
    """Execute notebooks in order into the study's notebooks/, each with those parameters that it has.

    Notebooks that do not need each other (`TOGETHER`) run at the same time where there are several workers.

    Parameters
    ----------
    study : Study
    parameters : dict, optional
        Values for the notebooks' parameters.
    numbers : sequence of str, optional
        Which notebooks, as "03"; by default all.
    workers : int, optional
        How many notebooks at a time; by default as `parallel.default_workers` says.

    Returns
    -------
    list of Path, the executed copies; report.html is made of 06's

    Raises
    ------
    ValueError
        A parameter that none of these notebooks has; nothing has run then.
    NotebookFailed
        A cell raised an error.
    """
    paths, parameters = notebooks(numbers), dict(parameters or {})
    known = {path: parameters_of(path) for path in paths}
    names = sorted(set().union(*known.values()))
    unknown = sorted(set(parameters) - set(names))
    if unknown:
        raise ValueError(f"no parameter {', '.join(unknown)} in these notebooks: they have {', '.join(names)}")
    if "STUDY" in parameters:
        raise ValueError("STUDY cannot be given as a parameter: give --study")
    parameters["STUDY"] = str(study.root.resolve())
    for name in PATHS & parameters.keys():  # the notebooks run in the project's folder, not where the command was given
        parameters[name] = str(Path(str(parameters[name])).resolve()) if parameters[name] else ""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings would break the progress bar
    out = {path: study.path("notebooks").resolve() / path.name for path in paths}
    given = {path: {name: parameters[name] for name in known[path] if name in parameters} for path in paths}
    workers, here = workers or parallel.default_workers(), Path.cwd()
    os.chdir(PROJECT)  # papermill changes the folder and back for each notebook: all threads must agree on it
    try:
        with tqdm(total=len(paths), unit="notebook") as bar:
            for _, stage in itertools.groupby(paths, _stage):
                _execute_together([(path, out[path], given[path]) for path in stage], workers, bar)
    finally:
        os.chdir(here)
    for path in paths:
        if path.name.startswith("06"):
            write_report(study, out[path])
    return list(out.values())


def _stage(path):
    return next((stage for stage in TOGETHER if path.name.startswith(stage)), path.name)


def _execute_together(jobs, workers, bar):
    """Execute notebooks of one stage; the first that fails stops those that have not begun, and is raised."""
    bar.set_description(", ".join(path.stem for path, *_ in jobs))
    workers = min(workers, len(jobs))
    with parallel.shared_cores(workers), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(execute, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        finally:
            for future in futures:
                future.cancel()


def execute(path, out, parameters):
    """Execute one notebook with parameters, in a process of its own; `out` is the executed copy.

    Raises NotebookFailed.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(path),
            str(out),
            parameters,
            progress_bar=False,
            cwd=str(PROJECT),
            extra_arguments=KERNEL_ARGUMENTS,
            kernel_manager_class=QuietKernel,
        )
    except (PapermillExecutionError, DeadKernelError) as error:
        why = "stopped: its process died, most likely for want of memory (smaller BATCH_SIZE or SIZE)"
        if isinstance(error, PapermillExecutionError):
            why = f"stopped in cell {error.cell_index} with {error.ename}: {error.evalue}"
        raise NotebookFailed(f"{path.name} {why}\nThe executed copy shows how far it came: {out}") from error


def write_report(study, notebook):
    """Write report.html of an executed notebook: one page, without code and without what was printed to stderr.

    Settings and versions stand at its end. It holds all that it shows: no script, font or style is fetched.
    """
    executed = nbformat.read(notebook, as_version=4)
    drop_stderr(executed)
    for cell in executed.cells:
        cell.source = re.sub(r"^\[!\[Open in Colab.*$", "", cell.source, flags=re.MULTILINE)  # a picture from elsewhere
    executed.cells.append(nbformat.v4.new_markdown_cell(_settings_and_versions(study)))
    exporter = HTMLExporter(exclude_input=True, exclude_output_prompt=True, embed_images=True, **NOTHING_FETCHED)
    page, _ = exporter.from_notebook_node(executed, resources={"metadata": {"name": f"covseg: {study.root.name}"}})
    with storage.atomic(study.path("report")) as temporary:
        Path(temporary).write_text(page, encoding="utf-8")


def _settings_and_versions(study):
    """Return them as Markdown."""
    settings = [f"| {name} | `{json.dumps(value)}` |" for name, value in study.settings().items()]
    runs = [(run, storage.read_json(study.need("timing", run=run))) for run in study.runs()]
    made = [f"| run {run} | {timing['precision']}, {timing['backend']}, {timing['device']} |" for run, timing in runs]
    packages = ("tensorflow", "keras", "numpy", "scipy", "scikit-image", "nibabel")
    versions = [f"covseg {__version__}", f"Python {platform.python_version()}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in packages]
    rows = "\n".join([*settings, *made, f"| versions | {', '.join(versions)} |"])
    return f"## Settings and versions\n\n| | |\n|---|---|\n{rows}\n\nNot a medical device."


def drop_stderr(notebook):
    """Remove what an executed notebook printed to stderr: progress bars, TensorFlow's greetings."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]

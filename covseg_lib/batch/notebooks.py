"""Run the notebooks one after the other with papermill, and turn notebook 06 into report.html."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from covseg_lib import files, parallel
from covseg_lib.colab import PROJECT
from covseg_lib.parameters import notebook_kinds, read_parameters
from covseg_lib.study import Study

NOTEBOOKS = PROJECT / "notebooks"
if not NOTEBOOKS.is_dir():  # installed from a wheel, which puts them there
    NOTEBOOKS = Path(sys.prefix, "share", "covseg", "notebooks")
TOGETHER = (("00", "01"), ("03", "04", "05"), ("07", "08", "09"))  # need not each other
PATH_PARAMETERS = {"DATASET", "SCAN", "MASK", "SCANS", "LUNG_MASKS"}
RUN_PARAMETERS = {"MODEL", "START_FROM"}  # a path, or "shipped"
NO_DOWNLOADS = {"mathjax_url": "", "require_js_url": "", "jquery_url": "", "mermaid_js_url": ""}
KERNEL_ARGUMENTS = ["--log-level=ERROR"]  # else each ipykernel warns that ports are not encrypted


class NotebookFailed(Exception):
    """A notebook stopped. The message names the cell, the error and the executed copy."""


class QuietKernel(AsyncKernelManager):
    """A kernel whose libraries print nothing to the terminal; its cells' output is unchanged."""

    async def start_kernel(self, **options):
        """Start the kernel without its stderr."""
        await super().start_kernel(**options, stderr=subprocess.DEVNULL)


def find_notebooks(numbers: Sequence[str] = ()) -> list[Path]:
    """Return the paths of all notebooks in order, or of those whose names start with `numbers`.

    Raises ValueError for a number that no notebook has, and FileNotFoundError if the project's
    notebooks are not installed with the library.
    """
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no notebooks in {NOTEBOOKS}: install covseg again")
    unknown = [n for n in numbers if not any(path.name.startswith(n) for path in found)]
    if unknown:
        names = ", ".join(path.stem for path in found)
        raise ValueError(f"no notebook {', '.join(unknown)}: there are {names}")
    return [path for path in found if not numbers or path.name.startswith(tuple(numbers))]


def copy_notebooks(folder: Path, readers: str = "") -> list[Path]:
    """Copy all notebooks into a folder, and return the copies' paths.

    Parameters
    ----------
    folder : path
    readers : "", "students" or "teachers"
        Students get no answers and no outputs. Teachers get a cell for each answer, which they can
        run. "": the notebooks are copied as they are.

    Raises
    ------
    FileExistsError
        One of the copies exists. Nothing is written then.
    """
    copies = {folder / path.name: path for path in find_notebooks()}
    for existing in filter(Path.exists, copies):
        raise FileExistsError(f"{existing} exists: choose another folder, or remove it")
    for copy, path in copies.items():
        notebook = nbformat.read(path, as_version=4)
        if readers:
            _prepare_course(notebook, for_teachers=readers == "teachers")
        files.write_bytes(copy, f"{nbformat.writes(notebook)}\n".encode())
    return list(copies)


def _prepare_course(notebook, for_teachers):
    """Make a notebook a teacher's, with a cell for each answer, or a student's, with no answers."""
    if for_teachers:
        folded = r"<summary>Answer (\d+):.*?```python\n(.*?)```"
        for number, code in re.findall(folded, notebook.cells[-1].source, re.DOTALL):
            cell = f"# Answer {number}\n{code}"
            notebook.cells.append(nbformat.v4.new_code_cell(cell, id=f"answer-{number}"))
        return
    notebook.cells = [cell for cell in notebook.cells if "<summary>Answer" not in cell.source]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)


def run_notebooks(
    study: Study,
    parameters: dict | None = None,
    numbers: Sequence[str] = (),
    workers: int | None = None,
) -> list[Path]:
    """Execute notebooks in order, and write report.html if 06 is one of them.

    The executed copies are written to the study's notebooks/. Each notebook gets the parameters
    that it has. Notebooks that do not need each other (`TOGETHER`) run at the same time if there
    are several workers.

    Parameters
    ----------
    study : Study
    parameters : dict, optional
        {name: value} of notebook parameters. A value may be text, as on the command line. Relative
        paths are relative to the current folder.
    numbers : sequence of str, optional
        The notebooks to run, for example "03". Default: all.
    workers : int, optional
        Number of notebooks that run at the same time. Default: `parallel.default_workers`.

    Returns
    -------
    list of Path, the executed copies

    Raises
    ------
    ValueError
        A parameter that none of these notebooks has, or a wrong value. No notebook has run then.
    NotebookFailed
        A cell raised an error.
    """
    paths = find_notebooks(numbers)
    kinds = {path: notebook_kinds(path) for path in paths}
    given = dict(parameters or {})
    _check_names(given, kinds)
    given["STUDY"] = str(study.root.resolve())
    folder = study.path("notebooks").resolve()
    here = Path.cwd()
    jobs = []
    for path in paths:
        values = read_parameters(given, kinds[path])
        jobs.append((path, folder / path.name, _absolute_paths(values)))
    workers = workers or parallel.default_workers()
    parallel.prepare_kernels()
    os.chdir(PROJECT)  # papermill changes folder, which all threads share: let it be the same one
    try:
        with tqdm(total=len(jobs), unit="notebook") as bar:
            for _, stage in itertools.groupby(jobs, lambda job: _stage(job[0])):
                _execute_together(list(stage), workers, bar)
    finally:
        os.chdir(here)
    for path, out, _ in jobs:
        if path.name.startswith("06"):
            write_report(study, out)
    return [out for _, out, _ in jobs]


def _check_names(parameters, known):
    """Raise ValueError if a parameter is in none of the notebooks, {path: names}, or is STUDY."""
    names = sorted(set().union(*known.values()))
    unknown = sorted(set(parameters) - set(names))
    if unknown:
        raise ValueError(
            f"no parameter {', '.join(unknown)} in these notebooks: they have {', '.join(names)}"
        )
    if "STUDY" in parameters:
        raise ValueError("STUDY cannot be given as a parameter: use --study")


def _absolute_paths(parameters):
    """Return {name: value} with absolute paths: a notebook runs in another folder."""
    absolute = dict(parameters)
    for name, value in parameters.items():
        is_run = name in RUN_PARAMETERS and value and Path(value).is_dir()
        if value and (name in PATH_PARAMETERS or is_run):
            absolute[name] = str(Path(value).resolve())
    return absolute


def _stage(path):
    return next((stage for stage in TOGETHER if path.name.startswith(stage)), path.name)


def _execute_together(jobs, workers, bar):
    """Execute notebooks at the same time; if one fails, do not start those that are waiting."""
    bar.set_description(", ".join(path.stem for path, *_ in jobs))
    workers = min(workers, len(jobs))
    with parallel.shared_cores(workers), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(execute_notebook, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        finally:
            for future in futures:
                future.cancel()


def execute_notebook(path: Path, out: Path, parameters: dict) -> None:
    """Execute one notebook with parameters in its own process, and write the executed copy `out`.

    Raises NotebookFailed if a cell raises an error or the process dies.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(path),
            str(out),
            parameters,
            progress_bar=False,
            cwd=str(PROJECT),
            start_timeout=600,
            extra_arguments=KERNEL_ARGUMENTS,
            kernel_manager_class=QuietKernel,
        )
    except (PapermillExecutionError, DeadKernelError) as error:
        why = "stopped: its process died, probably out of memory; try a smaller BATCH_SIZE or SIZE"
        if isinstance(error, PapermillExecutionError):
            why = f"stopped in cell {error.cell_index} with {error.ename}: {error.evalue}"
        raise NotebookFailed(f"{path.name} {why}\nThe executed copy is {out}") from error


def write_report(study: Study, notebook: Path) -> None:
    """Write report.html from an executed notebook: one page without code and stderr output.

    The page ends with the study's settings and the versions of the packages. It needs no internet:
    scripts, fonts, styles and pictures from other sites are left out.
    """
    from covseg_lib.batch import runs  # which imports Keras

    executed = nbformat.read(notebook, as_version=4)
    drop_stderr(executed)
    for cell in executed.cells:
        cell.source = re.sub(r"(?m)^\[!\[Open in Colab.*$", "", cell.source)
    executed.cells.append(nbformat.v4.new_markdown_cell(runs.settings_and_versions(study)))
    exporter = HTMLExporter(
        exclude_input=True, exclude_output_prompt=True, embed_images=True, **NO_DOWNLOADS
    )
    resources = {"metadata": {"name": f"covseg: {study.root.name}"}}
    page, _ = exporter.from_notebook_node(executed, resources=resources)
    with files.atomic(study.path("report")) as temporary:
        Path(temporary).write_text(page, encoding="utf-8")


def drop_stderr(notebook: nbformat.NotebookNode) -> None:
    """Remove what an executed notebook printed to stderr: progress bars and TensorFlow's log."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]

"""Notebooks run one after the other: parameters, errors, the report and the command line."""

import subprocess
import sys

import nbformat
import pytest
from click.testing import CliRunner
from colab_runtime import set_up_cell
from conftest import answers

from covseg_lib.__main__ import main
from covseg_lib.batch import notebooks
from covseg_lib.study import Study


def _notebook(path, *sources, parameters='STUDY = ""\nEPOCHS = 1'):
    notebook = nbformat.v4.new_notebook()
    cells = [parameters, *sources]
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


@pytest.fixture
def suite(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    _notebook(
        folder / "01_first.ipynb",
        "from pathlib import Path\nPath(STUDY, 'made').write_text(str(EPOCHS))",
    )
    _notebook(folder / "02_second.ipynb", "1 / 0")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", folder)
    return Study(tmp_path / "study")


def test_the_notebook_gets_its_parameters_and_its_copy_is_saved(suite):
    (made,) = notebooks.run_notebooks(suite, {"EPOCHS": 50}, ["01"])
    assert (suite.root / "made").read_text() == "50"
    assert made == suite.path("notebooks") / "01_first.ipynb"
    assert nbformat.read(made, as_version=4).cells[-1].execution_count


def test_a_relative_data_set_is_in_the_current_folder(suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "from pathlib import Path\nPath(STUDY, 'made').write_text(DATASET)"
    _notebook(notebooks.NOTEBOOKS / "01_first.ipynb", source, parameters='STUDY = ""\nDATASET = ""')
    for given in ("mine", "2024_01"):
        notebooks.run_notebooks(suite, {"DATASET": given}, ["01"])
        assert (suite.root / "made").read_text() == str(tmp_path / given)


SWITCHES = """\
#@title Parameters
STUDY = ""  #@param {type:"string"}
RESUME = True  #@param {type:"boolean"}
MIRROR = None  #@param {type:"raw"}
END_RUNTIME = False  #@param {type:"boolean"}"""
TELL = "from pathlib import Path\nPath(STUDY, 'made').write_text(repr((RESUME, MIRROR)))"


def test_false_on_the_command_line_of_run_is_false_in_the_notebook(suite):
    _notebook(notebooks.NOTEBOOKS / "01_first.ipynb", TELL, parameters=SWITCHES)
    command = ["run", "--study", str(suite.root), "--only", "01"]
    done = CliRunner().invoke(main, [*command, "-p", "RESUME", "false", "-p", "MIRROR", "no"])
    assert (suite.root / "made").read_text() == "(False, False)", done.output


def test_the_text_false_given_to_run_notebooks_is_false_in_the_notebook(suite):
    _notebook(notebooks.NOTEBOOKS / "01_first.ipynb", TELL, parameters=SWITCHES)
    notebooks.run_notebooks(suite, {"RESUME": "false", "MIRROR": "FALSE"}, ["01"])
    assert (suite.root / "made").read_text() == "(False, False)"


def test_a_wrong_value_stops_before_any_notebook_runs(suite):
    _notebook(notebooks.NOTEBOOKS / "02_second.ipynb", TELL, parameters=SWITCHES)
    with pytest.raises(ValueError, match="RESUME is 'maybe': expected True or False"):
        notebooks.run_notebooks(suite, {"RESUME": "maybe"})
    assert not suite.root.exists()


def _papermill(path, *options):
    """Run a notebook by plain papermill, in the project; return the process that has ended."""
    command = [sys.executable, "-m", "papermill", str(path), str(path.with_name("out.ipynb"))]
    return subprocess.run(
        [*command, *options], cwd=notebooks.PROJECT, capture_output=True, text=True
    )


def test_false_given_to_plain_papermill_is_false_after_the_set_up_cell(tmp_path):
    path = tmp_path / "tiny.ipynb"
    _notebook(path, set_up_cell(), TELL, parameters=SWITCHES)
    options = ["-p", "STUDY", str(tmp_path), "-p", "RESUME", "false", "-p", "MIRROR", "no"]
    done = _papermill(path, *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made").read_text() == "(False, False)"


def test_a_number_that_plain_papermill_made_of_a_name_is_refused_with_advice(tmp_path):
    path = tmp_path / "tiny.ipynb"
    _notebook(path, set_up_cell(), parameters=f'{SWITCHES}\nDATASET = ""')
    done = _papermill(path, "-p", "STUDY", str(tmp_path), "-p", "DATASET", "2024_01")
    assert done.returncode
    assert "DATASET is 202401: expected text" in done.stderr
    assert "plain papermill: -r DATASET 2024_01" in done.stderr


def test_an_unknown_parameter_lists_the_known_ones_and_runs_nothing(suite):
    message = "no parameter EPOCH in these notebooks: they have EPOCHS, STUDY"
    with pytest.raises(ValueError, match=message):
        notebooks.run_notebooks(suite, {"EPOCH": 50})
    assert not suite.root.exists()


def test_a_failed_notebook_reports_its_cell_error_and_copy(suite):
    message = r"02_second\.ipynb stopped in cell \d with ZeroDivisionError"
    with pytest.raises(notebooks.NotebookFailed, match=message) as it:
        notebooks.run_notebooks(suite)
    assert str(suite.path("notebooks") / "02_second.ipynb") in str(it.value)
    assert (suite.path("notebooks") / "02_second.ipynb").exists()


def test_the_report_has_no_code_and_no_stderr(suite, monkeypatch):
    monkeypatch.setattr("covseg_lib.batch.runs.settings_and_versions", lambda study: "## Settings")
    _notebook(
        notebooks.NOTEBOOKS / "06_last.ipynb",
        "import sys\nprint('noise', file=sys.stderr)\nprint('a' + 'b')",
    )
    notebooks.run_notebooks(suite, numbers=["06"])
    page = suite.path("report").read_text()
    assert "ab" in page.split("<body")[1]
    assert "noise" not in page.split("<body")[1]


def test_a_notebook_whose_process_dies_is_an_error(suite):
    _notebook(notebooks.NOTEBOOKS / "03_third.ipynb", "import os\nos.kill(os.getpid(), 9)")
    message = r"03_third\.ipynb stopped: its process died"
    with pytest.raises(notebooks.NotebookFailed, match=message):
        notebooks.run_notebooks(suite, numbers=["03"])


def test_output_of_libraries_does_not_reach_the_terminal(suite, capfd):
    _notebook(
        notebooks.NOTEBOOKS / "03_third.ipynb",
        "import os\nos.write(2, b'I0000 cudart_stub')\nprint('seen')",
    )
    (made,) = notebooks.run_notebooks(suite, numbers=["03"])
    assert "cudart" not in capfd.readouterr().err
    assert "seen" in made.read_text()


def test_an_unknown_notebook_lists_the_known_ones(suite):
    with pytest.raises(ValueError, match="no notebook 07: there are 01_first, 02_second"):
        notebooks.run_notebooks(suite, numbers=["07"])


def test_the_command_line_prints_errors_without_traceback(suite, tmp_path):
    done = CliRunner().invoke(main, ["run", "--study", str(tmp_path / "s"), "-p", "EPOCH", "50"])
    assert done.exit_code == 1
    assert "Error: no parameter EPOCH" in done.output
    assert "Traceback" not in done.output
    (tmp_path / "file").touch()
    study = str(tmp_path / "s")
    for arguments, message in {
        ("--study", str(tmp_path / "file" / "s"), "--only", "01"): "Not a directory",
        ("--study", study, "-p", "STUDY", "x"): "Error: STUDY cannot be given as a parameter",
    }.items():
        done = CliRunner().invoke(main, ["run", *arguments])
        assert message in done.output
        assert done.exit_code == 1
        assert isinstance(done.exception, SystemExit)


def test_predicting_without_a_run_names_the_notebook(tmp_path):
    scan = tmp_path / "scan.nii"
    scan.touch()
    command = ["predict", str(scan), "--run", str(tmp_path), "--out", str(tmp_path / "m.nii")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "run notebook 03, 04 or 05 first" in done.output


def _course(tmp_path):
    done = CliRunner().invoke(main, ["notebooks", str(tmp_path / "course"), "--course"])
    assert done.exit_code == 0, done.output
    made = [tmp_path / "course" / readers for readers in ("students", "teachers")]
    assert [len(list(folder.glob("*.ipynb"))) for folder in made] == [10, 10]
    return [nbformat.read(folder / "03_train_accuracy.ipynb", as_version=4) for folder in made]


def test_students_get_no_answers_and_teachers_a_cell_for_each(tmp_path):
    students, teachers = _course(tmp_path)
    text = "\n".join(cell.source for cell in students.cells)
    assert "## Exercises" in text
    assert "Answer" not in text
    assert not any(cell.get("outputs") for cell in students.cells)
    whole = nbformat.read(notebooks.find_notebooks(["03"])[0], as_version=4)
    assert students.cells[-1].source == whole.cells[-2].source  # the cell of the last exercise
    count = len(answers(whole))
    assert count >= 2
    assert teachers.cells[:-count] == whole.cells
    found = [cell.source.split("\n", 1)[1] for cell in teachers.cells[-count:]]
    assert found == answers(whole)
    for notebook in (students, teachers):
        nbformat.validate(notebook)


def test_copies_are_the_notebooks_and_replace_nothing(tmp_path):
    command = ["notebooks", str(tmp_path / "mine")]
    assert CliRunner().invoke(main, command).exit_code == 0
    for path in notebooks.find_notebooks():
        assert (tmp_path / "mine" / path.name).read_text() == path.read_text()
    (tmp_path / "mine" / "00_segmentation_methods.ipynb").unlink()
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "01_slice_volumes.ipynb exists: choose another folder, or remove it" in again.output
    assert not (tmp_path / "mine" / "00_segmentation_methods.ipynb").exists()

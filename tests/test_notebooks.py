"""What holds for every notebook as committed: order of cells, sameness, outputs."""

import ast
import pathlib
import re

import nbformat
import pytest
from conftest import answers
from matplotlib import pyplot as plt

from covseg_lib import colab
from covseg_lib.batch import notebooks
from covseg_lib.settings import OBJECTIVE_NAMES, PROFILES
from covseg_lib.training.objectives import OBJECTIVES

NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in notebooks.find_notebooks()}
TRAINING = [name for name in NOTEBOOKS if "_train_" in name]
CHECK = r"^exercises\."  # what says that an answer is right
every = pytest.mark.parametrize("name", NOTEBOOKS)


def _code(name):
    return [cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def _run_cells(name, **parameters):
    """Run a notebook's own code cells in this process, without set-up; return its variables."""
    variables = {"display": lambda *_: None, "colab": colab, "pathlib": pathlib}
    defaults, _, *cells = _code(name)
    exec(defaults, variables)
    variables.update(parameters)
    for source in cells:
        exec(re.sub(r"^%.*$", "", source, flags=re.M), variables)
    plt.close("all")
    return variables


def test_the_suite_is_the_designs():
    assert list(NOTEBOOKS) == [
        "00_segmentation_methods",
        "01_slice_volumes",
        "02_preprocess",
        "03_train_accuracy",
        "04_train_iou",
        "05_train_dice",
        "06_predict_and_compare",
        "07_sweep",
        "08_new_patients",
        "09_segment_scans",
    ]


@every
def test_title_parameters_set_up_imports_come_first(name):
    title, parameters, set_up, imports = NOTEBOOKS[name].cells[:4]
    assert title.source.startswith(f"# {name[:2]} · ")
    for said in ("**Needs**", "**Makes**", "**Time**", f"/notebooks/{name}.ipynb"):
        assert said in title.source
    assert parameters.metadata.tags == ["parameters"]
    assert set_up.source.startswith("#@title Set-up, the same in every notebook")
    assert parameters.metadata.cellView == set_up.metadata.cellView == "form"  # Colab folds them
    assert "from covseg_lib" in imports.source


@every
def test_set_up_is_the_same_in_all(name):
    assert _code(name)[1] == _code("01_slice_volumes")[1], (
        f"the set-up cell of {name} differs from 01's"
    )


def _training_cells(name):
    """Return the cells from the recipe to what the training made, which are tagged so."""
    return [cell for cell in NOTEBOOKS[name].cells if "training" in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("name", TRAINING)
def test_training_cells_are_the_same_in_03_04_and_05(name):
    ours, first = _training_cells(name), _training_cells(TRAINING[0])
    assert [(cell.source, cell.metadata) for cell in ours] == [
        (cell.source, cell.metadata) for cell in first
    ]
    code = "\n".join(cell.source for cell in ours)
    steps = ("make_recipe(", "build_model(", ".compile(", ".fit(", "training_curves(", ".listing(")
    places = [code.index(step) for step in steps]
    assert places == sorted(places)
    objective = name.rsplit("_", 1)[1]
    assert _code(name)[0] == _code(TRAINING[0])[0].replace(
        'OBJECTIVE = "accuracy"', f'OBJECTIVE = "{objective}"'
    )


def test_only_03_draws_the_network_its_maps_and_its_source():
    for said in ("architecture(", "feature_maps(", "getsource(unet.build_unet)"):
        assert [name for name in NOTEBOOKS if said in "\n".join(_code(name))] == [TRAINING[0]]


@every
def test_parameters_are_literals_with_a_form_field(name):
    for line in _code(name)[0].splitlines():
        if line and not line.startswith("#"):
            value = re.fullmatch(r"[A-Z_]+ = (.+?)  #@param .+", line).group(1)
            ast.literal_eval(value)


@every
def test_every_exercise_has_its_answer_folded_at_the_end(name):
    cells = NOTEBOOKS[name].cells
    asked, *to_fill, folded = cells[_place_of_exercises(cells) :]
    questions = _questions(asked)
    assert questions == [str(number) for number in range(1, len(questions) + 1)]
    assert len(questions) >= 2
    assert re.findall(r"^<summary>Answer (\d+):", folded.source, re.M) == questions
    assert folded.source.count("<details>") == folded.source.count("</details>") == len(questions)
    checked = [bool(re.search(CHECK, code, re.M)) for code in answers(NOTEBOOKS[name])]
    assert checked == [True] * len(questions)
    assert len(to_fill) == len(questions)


@every
def test_every_exercise_has_a_cell_to_fill_in_with_a_check(name):
    cells = NOTEBOOKS[name].cells
    asked, *to_fill, _ = cells[_place_of_exercises(cells) :]
    for number, cell in zip(_questions(asked), to_fill, strict=True):
        first, *_, check = cell.source.splitlines()
        assert first.startswith(f"# Exercise {number}: put your answer")
        assert first.endswith("in place of ..., then run this cell")
        assert re.search(r"^\w+(?:, \w+)* = \.\.\.", cell.source, re.M)
        assert check.startswith("exercises.")


def _place_of_exercises(cells):
    (place,) = [n for n, cell in enumerate(cells) if "## Exercises\n" in cell.source]
    return place


def _questions(cell):
    return re.findall(r"^(\d+)\. ", cell.source.split("## Exercises\n")[1], re.M)


@every
def test_outputs_are_there_and_clean(name):
    cells = [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(
        output.get("name") == "stderr" or output.output_type == "error" for output in outputs
    )
    checked = [cell for cell in cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert checked
    assert all(cell.outputs for cell in checked)
    assert "widgets" not in NOTEBOOKS[name].metadata
    assert not any(
        "application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs
    )


def test_objectives_are_those_of_study_and_profiles():
    assert tuple(OBJECTIVES) == OBJECTIVE_NAMES
    assert all(tuple(profile["epochs"]) == OBJECTIVE_NAMES for profile in PROFILES.values())

"""What holds for every notebook as committed: order of cells, sameness, outputs."""

import ast
import re

import nbformat
import pytest

from covseg_lib import runner
from covseg_lib.objectives import OBJECTIVES
from covseg_lib.study import OBJECTIVE_NAMES, PROFILES

NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in runner.notebooks()}
TRAINING = [name for name in NOTEBOOKS if "_train_" in name]
every = pytest.mark.parametrize("name", NOTEBOOKS)


def _code(name):
    return [cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def _is_answer(cell):
    return "answer" in cell.metadata.get("tags", [])


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
    ]


@every
def test_title_parameters_set_up_imports_come_first(name):
    title, parameters, set_up, imports = NOTEBOOKS[name].cells[:4]
    assert title.source.startswith(f"# {name[:2]} · ")
    for said in ("**Needs**", "**Makes**", "**Time**", f"/notebooks/{name}.ipynb"):
        assert said in title.source
    assert parameters.metadata.tags == ["parameters"]
    assert set_up.source.startswith("# Set-up, the same in every notebook.")
    assert "from covseg_lib" in imports.source


@every
def test_set_up_is_the_same_in_all(name):
    assert _code(name)[1] == _code("01_slice_volumes")[1], f"the set-up cell of {name} differs from 01's"


@pytest.mark.parametrize("name", TRAINING)
def test_training_notebooks_differ_in_parameters_only(name):
    first, own = (
        [cell.source for cell in NOTEBOOKS[of].cells if cell.cell_type == "code" and not _is_answer(cell)]
        for of in (TRAINING[0], name)
    )
    for number, (ours, theirs) in enumerate(zip(own, first, strict=True)):
        if number:
            assert ours == theirs, f"code cell {number} of {name} differs from {TRAINING[0]}'s"
    objective = name.rsplit("_", 1)[1]
    assert own[0] == first[0].replace('OBJECTIVE = "accuracy"', f'OBJECTIVE = "{objective}"')


@every
def test_parameters_are_literals_with_a_form_field(name):
    for line in _code(name)[0].splitlines():
        if line and not line.startswith("#"):
            value = re.fullmatch(r"[A-Z_]+ = (.+?)  #@param .+", line).group(1)
            ast.literal_eval(value)


@every
def test_cells_are_few_and_short(name):
    code = _code(name)
    told = [cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "code" and not _is_answer(cell)]
    lines = [line for source in told for line in source.splitlines() if line.strip() and not line.startswith("#")]
    assert len(NOTEBOOKS[name].cells) <= 25
    assert len(lines) <= 60
    assert all(len(source.splitlines()) <= 10 + source.startswith("#@title") for source in code[3:])
    assert not re.search(r"^\s*(def|try)\b", "\n".join(code), re.M)


@every
def test_every_exercise_has_its_answer_folded_at_the_end(name):
    cells = NOTEBOOKS[name].cells
    answers = [cell for cell in cells if _is_answer(cell)]
    exercises = [cell for cell in cells if cell.source.startswith("## Exercises")]
    questions = [number for cell in exercises for number in re.findall(r"^(\d+)\. ", cell.source, re.M)]
    assert questions == [str(number + 1) for number in range(len(answers))]
    assert cells[len(cells) - len(answers) :] == answers
    for number, answer in zip(questions, answers, strict=True):
        assert answer.metadata == {"tags": ["answer"], "cellView": "form", "jupyter": {"source_hidden": True}}
        assert answer.source.startswith(f"#@title Answer {number}: open it when you have tried\n")
        assert re.search(r"^\s*assert ", answer.source, re.M)


@every
def test_outputs_are_there_and_clean(name):
    cells = [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.get("name") == "stderr" or output.output_type == "error" for output in outputs)
    checked = [cell for cell in cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert checked
    assert all(cell.outputs for cell in checked)
    assert "widgets" not in NOTEBOOKS[name].metadata
    assert not any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)


@every
def test_links_between_notebooks_lead_somewhere(name):
    prose = "\n".join(cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "markdown")
    assert all(link in NOTEBOOKS for link in re.findall(r"\]\((\d\d_\w+)\.ipynb\)", prose))


def test_objectives_are_those_of_study_and_profiles():
    assert tuple(OBJECTIVES) == OBJECTIVE_NAMES
    assert all(tuple(profile["epochs"]) == OBJECTIVE_NAMES for profile in PROFILES.values())

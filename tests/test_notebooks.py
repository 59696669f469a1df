"""What holds for every notebook as committed: order of cells, sameness, outputs."""

import ast
import pathlib
import re

import nbformat
import numpy as np
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
MOST_WORDS = 60  # of a paragraph
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
def test_no_paragraph_is_long(name):
    for cell in NOTEBOOKS[name].cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"```.*?```|\]\([^)]*\)", "", cell.source, flags=re.DOTALL)
            for paragraph in re.split(r"\n\n|^(?=\d\. )|\|", text, flags=re.MULTILINE):
                assert len(re.findall(r"[^\W\d_][\w'-]*", paragraph)) <= MOST_WORDS, paragraph


@every
def test_parameters_are_literals_with_a_form_field(name):
    for line in _code(name)[0].splitlines():
        if line and not line.startswith("#"):
            value = re.fullmatch(r"[A-Z_]+ = (.+?)  #@param .+", line).group(1)
            ast.literal_eval(value)


@every
def test_cells_are_few_and_short(name):
    code = _code(name)
    lines = [
        line
        for source in code[2:]  # without parameters and set-up, which are hidden forms
        for line in source.splitlines()
        if line.strip() and not line.startswith("#")
    ]
    assert len(NOTEBOOKS[name].cells) <= 25
    assert len(lines) <= 70
    assert max(len(line) for source in code[1:] for line in source.splitlines()) <= 100
    assert all(len(source.splitlines()) <= 10 for source in code[3:])
    assert not re.search(r"^\s*(def|try)\b", "\n".join(code), re.M)


@every
def test_no_cell_asserts(name):
    """An assertion tells a user neither what was found in his data nor what to do next."""
    for source in _code(name):
        code = ast.parse(re.sub(r"^%.*$", "", source, flags=re.M))
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(code)), source


def test_01_and_02_take_the_first_case_of_the_table(tiny_dataset, tmp_path, capsys):
    """02 compared the first file, a-1.npz, with the first case, a: a-1.npz comes before a.npz."""
    for folder in tiny_dataset.iterdir():
        for number, name in enumerate(("a-1", "a", "b", "c", "d"), start=1):
            (folder / f"scan_{number}.nii.gz").rename(folder / f"{name}.nii.gz")
    study = {"STUDY": str(tmp_path / "study")}
    _run_cells("01_slice_volumes", **study, DATASET=str(tiny_dataset), STEP=1)
    assert "any pixel more than one grey level from ours: False" in capsys.readouterr().out
    made = _run_cells("02_preprocess", **study, SIZE=16)
    said = capsys.readouterr().out
    with np.load(tmp_path / "study" / "sliced_data" / "a.npz") as arrays:
        assert (made["first_images"] == arrays["images"]).all()
    assert re.search(r"largest difference from ours: [01]\.\d grey levels", said)


def test_06_goes_on_without_volumes_and_09_says_where_they_were(trained_study, capsys):
    dataset = trained_study.settings()["dataset"]  # which other tests use
    for path in (trained_study.path("settings"), trained_study.path("cases")):
        path.write_text(path.read_text().replace(dataset, "/gone"))
    _run_cells("06_predict_and_compare", STUDY=str(trained_study.root))
    said = capsys.readouterr().out
    assert (
        "volumes not found: scan_1, scan_2, scan_3, scan_4, scan_5. They were in /gone/CT_scans"
        in said
    )
    assert trained_study.path("cases_scores").exists()
    assert not trained_study.path("predictions").joinpath("nifti").exists()
    with pytest.raises(
        FileNotFoundError, match=r"not found: scan_\d\. They were in .* set SCANS to"
    ):
        _run_cells("09_segment_scans", STUDY=str(trained_study.root))


def test_09_says_that_a_folder_has_no_scan(tmp_path):
    (tmp_path / "scans").mkdir()
    with pytest.raises(
        ValueError, match=r"no \.nii or \.nii\.gz file in .*: set SCANS to a folder"
    ):
        _run_cells("09_segment_scans", STUDY=str(tmp_path / "study"), SCANS=str(tmp_path / "scans"))


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

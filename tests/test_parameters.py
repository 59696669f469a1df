"""Parameters of notebooks: their kinds, and how values on command lines and in cells are read."""

import ast
import re

import nbformat
import pytest

from covseg_lib import parameters
from covseg_lib.batch import notebooks

PATHS = {path.stem: path for path in notebooks.find_notebooks()}
CELL = """\
#@title Parameters
#@markdown Text between the fields
RESUME = True  #@param {type:"boolean"}
RUN = ""  #@param {type:"string"}
SPLIT = "default"  #@param ["default", "slice", "patient"]
FOLD = 0  #@param {type:"slider", min:0, max:9, step:1}
SEED = 0  #@param {type:"integer"}
EPOCHS = None  #@param {type:"raw"}
"""


def _cell(stem):
    """Return the source of the cell of parameters of one of the ten notebooks."""
    return nbformat.read(PATHS[stem], as_version=4).cells[1].source


def _run_set_up(cell, injected=""):
    """Run a cell, and one as papermill adds it; return the names after the set-up's line."""
    names = {"In": ["", cell, f"# Parameters\n{injected}"]}
    exec(f"{cell}\n{injected}", names)
    parameters.correct(names)
    return names


def test_the_form_field_says_the_kind():
    assert parameters.parameter_kinds(CELL) == {
        "RESUME": "boolean",
        "RUN": "text",
        "SPLIT": "text",
        "FOLD": "number",
        "SEED": "number",
        "EPOCHS": "raw",
    }


def test_without_a_form_field_the_literal_says_the_kind():
    cell = 'A = False  # why\nB = "a # b"\nC = -1.5\nD = [1]\nE = {}\nF = None\nG = 2 * 5\nH == 1'
    assert parameters.parameter_kinds(cell) == {
        "A": "boolean",
        "B": "text",
        "C": "number",
        "D": "raw",
        "E": "raw",
        "F": "raw",
        "G": "raw",
    }


def test_fields_as_colab_writes_them_today_are_read_as_well():
    cell = """A = "false" # @param {"type":"boolean"}\nB = 5 # @param {"type":"string"}"""
    assert parameters.parameter_kinds(cell) == {"A": "boolean", "B": "text"}


def test_choices_of_several_kinds_all_pass():
    cell = 'SIZE = 64  #@param ["default", 64, 128]'
    kinds = parameters.parameter_kinds(cell)
    for given, read in {"default": "default", "128": 128, 64: 64}.items():
        assert parameters.read_parameters({"SIZE": given}, kinds) == {"SIZE": read}


@pytest.mark.parametrize("value", ["false", "False", "FALSE", "no", "No", "0", 0, False])
def test_false_in_every_spelling(value):
    assert parameters.read_value("STRICT", value, "boolean") is False


@pytest.mark.parametrize("value", ["true", "True", "TRUE", "yes", "Yes", "1", 1, True])
def test_true_in_every_spelling(value):
    assert parameters.read_value("STRICT", value, "boolean") is True


@pytest.mark.parametrize("value", ["maybe", "", "2", 2, 0.5, [False], "[]"])
def test_what_is_neither_true_nor_false_is_refused(value):
    message = re.escape(f"RESUME is {value!r}: expected True or False")
    with pytest.raises(ValueError, match=message):
        parameters.read_value("RESUME", value, "boolean")


@pytest.mark.parametrize("text", ["001", "2024_01", "50", "true", "[1]", "none", "", "'a'"])
def test_text_stays_as_it_is(text):
    assert parameters.read_value("RUN", text, "text") == text


def test_a_path_is_text(tmp_path):
    assert parameters.read_value("DATASET", tmp_path, "text") == str(tmp_path)


@pytest.mark.parametrize("value", [202401, 1.5, True, ["a"]])
def test_what_is_not_text_is_refused_with_papermills_option(value):
    message = re.escape(f"DATASET is {value!r}: expected text") + ".*-r DATASET 2024_01"
    with pytest.raises(ValueError, match=message):
        parameters.read_value("DATASET", value, "text")


def test_numbers_are_read_from_text():
    for text, number in {"50": 50, "-1": -1, "1e-4": 0.0001, "0.5": 0.5}.items():
        read = parameters.read_value("FOLD", text, "number")
        assert read == number
        assert type(read) is type(number)


@pytest.mark.parametrize("value", ["first", "001", "", "True", True, "[1]", [1], "default"])
def test_what_is_not_a_number_is_refused(value):
    with pytest.raises(ValueError, match=r"FOLD is .*: expected a number"):
        parameters.read_value("FOLD", value, "number")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("50", 50),
        ("(-160, 240)", [-160, 240]),
        ((-160, 240), [-160, 240]),
        ("['a', 'b']", ["a", "b"]),
        ("{'SEED': [1]}", {"SEED": [1]}),
        ("all", "all"),
        ("001", "001"),
        ("{[]: 1}", "{[]: 1}"),
        ("True", True),
        ("false", False),  # MIRROR of notebook 09 is None, True or False
        ("no", False),
        ("0", 0),
        ({"EPOCHS": ["3"]}, {"EPOCHS": ["3"]}),
    ],
)
def test_other_parameters_take_any_literal_and_text(given, read):
    value = parameters.read_value("ANY", given, "raw")
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize("kind", ["text", "number", "raw"])
@pytest.mark.parametrize("none", [None, "None"])
def test_none_passes_where_something_else_may_have_chosen(kind, none):
    assert parameters.read_value("ANY", none, kind) is None


@pytest.mark.parametrize("none", [None, "None"])
def test_none_is_neither_true_nor_false(none):
    with pytest.raises(ValueError, match=r"RESUME is .*None.*: expected True or False"):
        parameters.read_value("RESUME", none, "boolean")


@pytest.mark.parametrize("stem", PATHS)
def test_every_default_given_as_text_comes_back(stem):
    kinds = parameters.notebook_kinds(PATHS[stem])
    defaults = {}
    for node in ast.parse(_cell(stem)).body:
        defaults[node.targets[0].id] = ast.literal_eval(node.value)
    assert list(kinds) == list(defaults)
    texts = {name: str(value) for name, value in defaults.items()}
    for given in (defaults, texts):
        read = parameters.read_parameters(given, kinds)
        assert read == defaults
        assert {name: type(value) for name, value in read.items()} == {
            name: type(value) for name, value in defaults.items()
        }


@pytest.mark.parametrize("stem", PATHS)
def test_every_parameter_that_is_ticked_takes_false(stem):
    kinds = parameters.notebook_kinds(PATHS[stem])
    ticked = re.findall(r"^(\w+) = (?:True|False)  #@param", _cell(stem), re.MULTILINE)
    assert "END_RUNTIME" in ticked
    for name in ticked:
        assert parameters.read_parameters({name: "false"}, kinds) == {name: False}


def test_final_false_does_not_train_in_08():
    names = _run_set_up(_cell("08_new_patients"), 'FINAL = "false"\nALONE = "no"')
    assert names["FINAL"] is False
    assert names["ALONE"] is False


def test_the_set_up_reads_what_papermill_injects():
    injected = 'RESUME = "false"\nEPOCHS = "5"\nSPLIT = None\nRUN = "001"'
    names = _run_set_up(CELL, injected)
    assert names["RESUME"] is False
    assert names["EPOCHS"] == 5
    assert names["SPLIT"] is None
    assert names["RUN"] == "001"
    assert names["FOLD"] == 0


def test_the_set_up_reads_text_that_a_student_types_in_a_form_field():
    names = _run_set_up(CELL.replace("RESUME = True", 'RESUME = "false"'))
    assert names["RESUME"] is False


def test_the_set_up_refuses_a_number_that_was_a_name():
    with pytest.raises(ValueError, match=r"RUN is 202401: expected text.* -r RUN 2024_01"):
        _run_set_up(CELL, "RUN = 2024_01")


def test_the_set_up_reads_twice_as_once():
    names = _run_set_up(_cell("01_slice_volumes"), 'STRICT = "no"\nWINDOW_HU = "(-160, 240)"')
    once = dict(names)
    parameters.correct(names)
    assert names == once
    assert names["WINDOW_HU"] == [-160, 240]


def test_the_cell_that_ran_last_counts():
    names = {"In": [CELL, CELL.replace('{type:"boolean"}', '{type:"string"}')], "RESUME": "false"}
    parameters.correct(names)
    assert names["RESUME"] == "false"


def test_without_a_cell_of_parameters_nothing_changes():
    for names in ({"RESUME": "false"}, {"RESUME": "false", "In": ["", "RESUME = 'false'"]}):
        before = dict(names)
        parameters.correct(names)
        assert names == before


def test_a_notebook_without_a_cell_of_parameters_has_none(tmp_path):
    cells = [nbformat.v4.new_code_cell("RESUME = True")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    assert parameters.notebook_kinds(tmp_path / "a.ipynb") == {}

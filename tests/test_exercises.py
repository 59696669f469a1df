"""The exercises' checks: a right answer, a wrong one, and none, for each of them."""

import inspect
import re
from types import SimpleNamespace

import nbformat
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import answers

from covseg_lib.batch import notebooks
from covseg_lib.lessons import exercises
from covseg_lib.lessons.answers import OPEN, RIGHT, WRONG, is_close

NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in notebooks.find_notebooks()}
CHECKS = {
    name: check
    for name, check in inspect.getmembers(exercises, inspect.isfunction)
    if check.__module__ == exercises.__name__ and name[0] != "_"
}
# lesions of 100 to 110, the chest wall of 200, half of the lesion's pixels are 110
IMAGE = np.array([[100, 110, 110, 100], [200, 200, 200, 200], [50, 50, 50, 50], [50, 50, 50, 105]])
TRUTH = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)
SQUARE = np.zeros((16, 16), np.uint8)
SQUARE[3:11, 3:11] = 1  # 4 x 4 pixels of 8 x 8, of which the outer ones are partly healthy
MASKS = np.stack([TRUTH, TRUTH, ~TRUTH])
NEAREST = {
    "slice": pd.DataFrame({"nearest": [1]}, index=[0]),
    "patient": pd.DataFrame({"nearest": [2]}, index=[0]),
}
NEAREST_OF_TWO = {split: pd.DataFrame({"nearest": [1]}, index=[0]) for split in NEAREST}
CURVES = {"iou": [0.9, 0.8, 0.9], "val_iou": [0.5, 0.7, 0.6], "val_loss": [0.1, 0.2, 0.3]}
HISTORY = pd.DataFrame({"epoch": [1, 2, 3]} | CURVES)
LAYERS = [("input", 0), ("conv2d", 320), ("max_pooling2d", 0), ("conv2d_1", 9248)]
MODEL = SimpleNamespace(
    layers=[SimpleNamespace(name=name, count_params=lambda n=n: n) for name, n in LAYERS]
)
FOUR = np.array([[1, 0], [1, 0], [0, 0], [0, 0]])
FOUND = np.array([[1, 0], [0, 0], [0, 1], [0, 0]])
CURVE = pd.Series([0.5, 0.7, 0.8], index=[0.3, 0.5, 0.7])
RUNS = pd.DataFrame(
    {
        "split": "patient",
        "objective": "dice",
        "epochs": [3, 3, 10],
        "validation": [0.7, 0.9, 0.8],
        "test": [0.6, 0.65, 0.75],
    }
)


def _file(spacing):
    """Return a mask file of 2 x 2 x 2 voxels, two of which are lesion."""
    mask = np.zeros((2, 2, 2), np.uint8)
    mask[0, 0] = 1
    return nib.Nifti1Image(mask, np.diag([spacing, spacing, spacing, 1]))


# each check: what the answers follow from, right answers, and wrong ones with what is said
CASES = {
    "grey_range": ((IMAGE, TRUTH), (100, 110), [((0, 255), "narrower"), ((60, 70), "wider")]),
    "rows_left": ((), (4, 3), [((3, 3), "convolved is 3"), ((4, 2.5), "whole blocks")]),
    "soft_window": ((), (0, 0, 0, 134), [((0, 0, 0, 210), "muscle is 210")]),
    "lesion_share": ((IMAGE, TRUTH), (4 / 5,), [((4 / 16,), "among all pixels"), ((1,), "by")]),
    "lost_by_rounding": ((SQUARE, 8), None, [((0,), "lost is 0")]),
    "copied_masks": ((MASKS, NEAREST), (1, 0), [((0, 1), "slices is 0")]),
    "empty_mask": (
        (TRUTH, pd.Series([0.7, 0.8])),
        (0.75, 0.05),
        [((0.25, 0.05), "share of lesion"), ((0.75, 0.8), "minus empty")],
    ),
    "parameters": ((MODEL,), (320, 9248), [((288, 9248), "one bias")]),
    "dice_and_iou": ((), (0.9329, 0.7548), [((0.8742, 0.7548), "dice is")]),
    "lowest_loss": ((HISTORY, "iou"), (1, 0.2), [((2, 0), "lowest val_loss")]),
    "healthy_batch": ((), (1, 100.5), [((1, 1), "cross_entropy is 1")]),
    "overfitting_gap": ((HISTORY, "iou"), (0.1, 0.3), [((0.3, 0.1), "best is")]),
    "missed_slices": ((FOUR, FOUND), (1, 1), [((0, 1), "no predicted pixel")]),
    "chosen_threshold": ((CURVE,), (0.7, 0.1), [((0.5, 0), "highest")]),
    "seed_spread": ((RUNS, "epochs"), (0.05,), [((0.15,), "of one setting")]),
    "flattery": ((RUNS,), (0.1,), [((0,), "chosen run")]),
    "gains": (
        (pd.Series({"a": 0.1, "b": 0.5, "c": np.nan}), pd.Series({"a": 0.6, "b": 0.4, "d": 1.0})),
        (0.2, 1),
        [((0.5, 1), "Mean of after"), ((0.2, 0), "Count the cases")],
    ),
    "error_kinds": (
        (pd.Series({"recall": 0.75, "precision": 0.9}),),
        (0.25, 0.1),
        [((0.75, 0.1), "Recall is"), ((0.25, 0.9), "Precision is")],
    ),
    "volume_by_threshold": (
        (np.array([0, 64, 128, 192], np.uint8), 0.5),
        (1.5, 0.5),
        [((0.5, 0.5), "Count the levels")],
    ),
    "mask_in_place": (
        (_file(2).header, _file(2)),
        (True, 0.016),
        [((False, 0.016), "Compare shapes"), ((True, 2), "determinant")],
    ),
}

# one pixel of 100 x 100 is lesion, and 400 pixels are as bright
BRIGHT = np.zeros((100, 100))
BRIGHT[:4] = 100
PIXEL = np.zeros((100, 100), bool)
PIXEL[0, 0] = True
# two lesions of 400 pixels, which have one pixel in common
FIRST = np.zeros((2, 400), bool)
FIRST[0] = True
SECOND = np.zeros((2, 400), bool)
SECOND[0, 0] = True
SECOND[1, 1:] = True
SMALL_GAPS = pd.DataFrame(
    {
        "epoch": [1, 2],
        "iou": [0.8008, 0.9],
        "val_iou": [0.8005, 0.8001],
        "val_loss": [0.2, 0.1],
    }
)
SMALL_SPREAD = RUNS.assign(test=[0.6504, 0.6501, 0.65])
# answers that are right, and answers that are wrong though they differ by little: what they follow
# from, the right ones, the wrong ones
SMALL_AND_LARGE = {
    "lesion_share": ((BRIGHT, PIXEL), (0.0025,), [(0,), (0.002,), (0.005,)]),
    "copied_masks": (
        (np.stack([FIRST, SECOND]), NEAREST_OF_TWO),
        (0.0025, 0.0025),
        [(0, 0.0025), (0.0025, 0.005)],
    ),
    "empty_mask": (
        (PIXEL, pd.Series([0.9999, 1.0])),
        (0.9999, 0.0001),
        [(1, 0.0001), (0.9998, 0.0001), (0.9999, 0), (0.9999, 0.0002)],
    ),
    "dice_and_iou": ((), (0.933, 0.75), [(0.9, 0.75), (0.933, 0.8)]),
    "lowest_loss": ((SMALL_GAPS, "iou"), (2, 0.0004), [(2, 0.0005), (2, 0.0003), (2.001, 0.0004)]),
    "overfitting_gap": (
        (SMALL_GAPS, "iou"),
        (0.0003, 0.1),
        [(0.0004, 0.1), (0.0003, 0.11)],
    ),
    "chosen_threshold": (
        (pd.Series([0.8, 0.8003], index=[0.5, 0.55]),),
        (0.55, 0.0003),
        [(0.55, 0), (0.55, 0.001), (0.5, 0.0003)],
    ),
    "seed_spread": ((SMALL_SPREAD, "epochs"), (0.0003,), [(0,), (0.001,)]),
    "flattery": ((SMALL_SPREAD,), (0.0003,), [(0,), (0.001,)]),
    "gains": (
        (pd.Series({"a": 0.5, "b": 0.5}), pd.Series({"a": 0.502, "b": 0.503})),
        (0.0025, 0),
        [(0, 0), (0.005, 0), (0.0025, 0.001)],
    ),
    "error_kinds": (
        (pd.Series({"recall": 0.9975, "precision": 0.1}),),
        (0.0025, 0.9),
        [(0, 0.9), (0.005, 0.9), (0.0025, 0.94)],
    ),
    "volume_by_threshold": (
        (np.full(2001, 100, np.uint8), 0.75),
        (1500.75, 0),
        [(1540, 0), (1460, 0), (1500.75, 0.001)],
    ),
    "mask_in_place": ((_file(1).header, _file(1)), (True, 0.002), [(True, 0), (True, 0.004)]),
    "rows_left": ((), (4, 3), [(4.03, 3), (4, 2.99)]),
}


def _right_answers(name):
    _, right, _ = CASES[name]
    if name == "lost_by_rounding":
        smooth = exercises.resize(SQUARE.astype(float), (8, 8), anti_aliasing=True)
        return (1 - (smooth.astype(int).mean() / SQUARE.mean()),)
    return right


def test_every_check_is_tried():
    assert CASES.keys() == CHECKS.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_right_answer_is_right(name):
    given, right = CASES[name][0], _right_answers(name)
    assert CHECKS[name](*right, *given).startswith(RIGHT)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_answer_is_told_what_is_wrong(name):
    given, _, wrong = CASES[name]
    for answer, said in wrong:
        text = CHECKS[name](*answer, *given)
        assert text.startswith(WRONG)
        assert said in text


@pytest.mark.parametrize("name", CASES)
def test_an_open_answer_is_named(name):
    given, right = CASES[name][0], _right_answers(name)
    for place, parameter in enumerate(
        list(inspect.signature(CHECKS[name]).parameters)[: len(right)]
    ):
        still_open = [*right[:place], ..., *right[place + 1 :]]
        text = CHECKS[name](*still_open, *given)
        assert (
            text
            == f"{OPEN} put your answer in place of ... for {parameter}, then run the cell again"
        )


@pytest.mark.parametrize("name", SMALL_AND_LARGE)
def test_an_answer_is_compared_relative_to_its_size(name):
    given, right, wrong = SMALL_AND_LARGE[name]
    assert CHECKS[name](*right, *given).startswith(RIGHT)
    for answer in wrong:
        assert CHECKS[name](*answer, *given).startswith(WRONG), answer


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (0.0025, 0.00249),
        (-0.0025, -0.00249),
        (0.00247, 0.00249),  # within 1 %
        (0.93, 0.9329),
        (0.012, 0.0116),  # rounded to two digits
        (np.float32(0.012), 0.0116),
        (0.13, 0.125),  # a half may be rounded up or down
        (0.12, 0.125),
        (0.1, 0.104),  # 0.10, whose 0 Python drops
        (12, 12.4),
        (101, 100.5),
        (1_500_000, 1_510_000.5),
        (0, 0),
        (6e-8, 0),  # a difference of two float32 numbers near 1 that should be equal
        (0, 6e-8),
    ],
)
def test_an_answer_may_be_rounded(answer, right):
    assert is_close(answer, right)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (0.0, 0.00249),
        (0.002, 0.00249),
        (-0.0025, 0.00249),
        (0.9, 0.94),  # one digit says too little
        (0.1, 0.106),
        (0.105, 0.1005),  # three digits were given, so the third one counts
        (0.013, 0.0116),
        (13, 12.4),
        (1500, 1540),
        (0.0001, 0),
        (1, 0),
    ],
)
def test_an_answer_that_is_not_the_rounded_one_is_wrong(answer, right):
    assert not is_close(answer, right)


STRANGE = [None, "about a half", "", np.nan, [], [0.5, 0.5], np.ones((2, 2)), {}, len, 1j, 10**400]


@pytest.mark.parametrize("name", CASES)
def test_an_answer_that_is_no_number_is_wrong(name):
    given, right = CASES[name][0], _right_answers(name)
    for strange in STRANGE:
        for place in range(len(right)):
            answers_ = [*right[:place], strange, *right[place + 1 :]]
            assert CHECKS[name](*answers_, *given).startswith(WRONG), strange


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("error")
def test_an_answer_may_be_a_number_of_numpy_or_an_array_of_one(name):
    given, right = CASES[name][0], _right_answers(name)
    for kind in (np.float64, np.float32, np.array, np.atleast_1d, pd.Series):
        answers_ = [kind(answer) for answer in right]
        assert CHECKS[name](*answers_, *given).startswith(RIGHT), kind


def test_the_hint_for_a_wrong_answer_never_refuses_the_right_one():
    assert exercises.lesion_share(1 / 400, BRIGHT, PIXEL).startswith(RIGHT)
    assert "among all pixels" in exercises.lesion_share(1 / 10_000, BRIGHT, PIXEL)
    all_bright = np.full((100, 100), 100)
    assert exercises.lesion_share(1 / 10_000, all_bright, PIXEL).startswith(RIGHT)
    half = np.array([[True, False]])
    assert exercises.empty_mask(0.5, 0.1, half, pd.Series([0.6])).startswith(RIGHT)
    assert "share of lesion" in exercises.empty_mask(0.0001, 0, PIXEL, pd.Series([0.9999]))


def test_a_model_that_learned_nothing_gains_nothing_over_the_empty_mask():
    epochs = pd.Series([0.9, float(np.float32(0.9999))])  # Keras computes scores in float32
    assert exercises.empty_mask(0.9999, 0, PIXEL, epochs).startswith(RIGHT)


def test_no_setting_with_several_seeds_is_said():
    assert "no setting has several seeds" in exercises.seed_spread(0, RUNS[1:], "epochs")


def test_the_formula_of_rows_is_keras():
    import keras

    for h, f, p, s in [(7, 3, 2, 2), (6, 2, 0, 2), (16, 3, 2, 1), (7, 2, 0, 2)]:
        padded, ones = keras.ops.zeros((1, h + p, h + p, 1)), keras.ops.ones((f, f, 1, 1))
        rows = (h - f + p) // s + 1
        assert keras.ops.conv(padded, ones, s).shape[1] == rows
        assert keras.ops.max_pool(padded, f, s).shape[1] == rows


def test_each_check_is_in_one_exercise_of_one_notebook():
    used = [
        check
        for notebook in NOTEBOOKS.values()
        for cell in notebook.cells
        if cell.cell_type == "code"
        for check in re.findall(r"exercises\.(\w+)\(", cell.source)
    ]
    assert sorted(used) == sorted(CHECKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_an_answer_calls_the_check_of_its_exercise(name):
    cells = [cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]
    asked = [cell.splitlines()[-1] for cell in cells if "# Exercise" in cell]
    assert asked == [answer.rstrip().splitlines()[-1] for answer in answers(NOTEBOOKS[name])]


def test_a_mask_elsewhere_is_not_in_the_same_place():
    assert exercises.mask_in_place(True, 2 / 125, _file(1).header, _file(2)).startswith(WRONG)
    assert exercises.mask_in_place(False, 2 * 8 / 1000, _file(1).header, _file(2)).startswith(RIGHT)

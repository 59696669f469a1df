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
    words = ["no number"] * len(_right_answers(name))
    if name not in ("grey_range",):
        assert CHECKS[name](*words, *given).startswith(WRONG)


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


@pytest.mark.parametrize(
    ("given", "right", "is_right"),
    [
        (0.00249, 0.00249, True),
        (0.0025, 0.00249, True),  # rounded to two digits
        (0.002, 0.00249, False),  # one digit is too few
        (0.0, 0.00249, False),
        (0.0049, 0.00249, False),  # the fixed tolerance of 0.005 took this for right
        (0.9, 0.94, False),
        (0.93, 0.9329, True),
        (12.3, 12.34, True),
        (1230, 1234, True),
        (1300, 1234, False),
        (1e-05, 1.04e-05, False),
        (0, 0.0, True),
        (1e-17, 0.0, True),
        (0.001, 0.0, False),
        (-0.0025, -0.00249, True),
        (0.0025, -0.00249, False),
        (np.float32(0.25), 0.25, True),
        (np.array(0.25), 0.25, True),
        (float("nan"), 0.25, False),
        (float("inf"), 0.25, False),
        ("a quarter", 0.25, False),
        (None, 0.25, False),
        (np.zeros(3), 0.0, False),
    ],
)
def test_an_answer_is_compared_by_its_size_and_its_digits(given, right, is_right):
    assert is_close(given, right) == is_right


def test_a_small_share_is_right_although_it_is_near_that_of_all_pixels():
    """Of 1,000 pixels 5 are lesion, and 402 are as bright: 5 / 402 is 0.0124."""
    images = np.zeros((1, 10, 100), np.uint8)
    images[0, :4] = 100
    masks = np.zeros_like(images)
    masks[0, 0, :5] = 1
    images[0, 5, :2] = 100
    said = exercises.lesion_share(0.0124, images, masks)
    assert said.startswith(RIGHT), said
    said = exercises.lesion_share(0.005, images, masks)
    assert "among all pixels" in said


def test_small_gains_are_told_apart():
    """The best epoch gains 0.0003 over the empty mask, which has 0.75."""
    scores = pd.Series([0.7, 0.7503])
    assert exercises.empty_mask(0.75, 0.0003, TRUTH, scores).startswith(RIGHT)
    assert "minus empty" in exercises.empty_mask(0.75, 0.0002, TRUTH, scores)

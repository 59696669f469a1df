import sys

import numpy as np
import pytest
from conftest import write_volume

from covseg_lib import dataset, viewer
from covseg_lib.study import LUNG_WINDOW_HU


@pytest.fixture
def case(tiny_dataset):
    return dataset.find_cases(tiny_dataset)[0]


def test_a_picture_shows_the_slices_with_the_most_lesion(case):
    figure = viewer.volume(case)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [f"scan_1, slice {number}" for number in (0, 1, 2, 3)]


def test_the_picture_of_another_mask(case, tmp_path):
    mask = np.zeros((20, 16, 5), np.uint8)
    mask[5, 5, 4] = 1
    figure = viewer.volume(case, mask=write_volume(tmp_path / "mask.nii.gz", mask))
    assert figure.axes[-1].get_title() == "scan_1, slice 4"


def test_without_ipyniivue_there_is_the_picture_and_what_to_install(case, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    figure = viewer.volume(case, interactive=True)
    assert "pip install ipyniivue" in figure.get_suptitle()


@pytest.mark.parametrize(("windowed", "window"), [(False, LUNG_WINDOW_HU), (True, (0, 255))])
def test_with_ipyniivue_scan_and_mask_are_in_the_widget(case, windowed, window):
    pytest.importorskip("ipyniivue")
    if windowed:
        write_volume(case.image, np.random.default_rng(0).integers(0, 256, (20, 16, 5)).astype(np.uint8))
    scan, mask = viewer.volume(case, interactive=True).volumes
    assert (scan.cal_min, scan.cal_max) == window
    assert (mask.cal_min, mask.opacity) == (0.5, 0.5)


def test_on_colabs_page_widgets_are_allowed_first(monkeypatch):
    from types import ModuleType

    from covseg_lib import colab

    asked, page = [], ModuleType("google.colab")
    page.output = ModuleType("output")
    page.output.enable_custom_widget_manager = lambda: asked.append(True)
    monkeypatch.setitem(sys.modules, "google.colab", page)
    colab.enable_widgets()
    assert asked == [True]

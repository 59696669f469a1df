import sys
from types import ModuleType

import numpy as np
import pytest
from conftest import write_volume

from covseg_lib import colab, dataset, viewer
from covseg_lib.study import LUNG_WINDOW_HU


@pytest.fixture
def case(tiny_dataset):
    return dataset.find_cases(tiny_dataset)[0]


def test_not_asked_for_there_is_the_picture(case):
    assert viewer.or_picture("picture", case.image, case.mask, interactive=False) == "picture"


def test_without_ipyniivue_there_is_the_picture(case, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert viewer.or_picture("picture", case.image, case.mask, interactive=True) == "picture"


@pytest.mark.parametrize(("windowed", "window"), [(False, LUNG_WINDOW_HU), (True, (0, 255))])
def test_with_ipyniivue_scan_and_mask_are_in_the_widget(case, windowed, window):
    pytest.importorskip("ipyniivue")
    if windowed:
        write_volume(case.image, np.random.default_rng(0).integers(0, 256, (20, 16, 5)).astype(np.uint8))
    scan, mask = viewer.or_picture("picture", case.image, case.mask, interactive=True).volumes
    assert (scan.cal_min, scan.cal_max) == window
    assert (mask.cal_min, mask.opacity) == (0.5, 0.5)


def test_on_colabs_page_widgets_are_allowed_first(monkeypatch):
    asked, page = [], ModuleType("google.colab")
    page.output = ModuleType("output")
    page.output.enable_custom_widget_manager = lambda: asked.append(True)
    monkeypatch.setitem(sys.modules, "google.colab", page)
    colab.enable_widgets()
    assert asked == [True]

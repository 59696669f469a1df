import sys
from types import ModuleType

import numpy as np
import pytest
from conftest import find_cases, write_volume

from covseg_lib import colab
from covseg_lib.plots import volume_plots
from covseg_lib.study import LUNG_WINDOW_HU


@pytest.fixture
def case(tiny_dataset):
    return find_cases(tiny_dataset)[0]


def _view(case, interactive=True):
    return volume_plots.viewer_or_picture("picture", case.image, case.mask, interactive)


def test_the_picture_is_the_default(case):
    assert _view(case, interactive=False) == "picture"


def test_without_ipyniivue_the_picture_is_returned(case, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _view(case) == "picture"


@pytest.mark.parametrize(("windowed", "window"), [(False, LUNG_WINDOW_HU), (True, (0, 255))])
def test_the_viewer_shows_scan_and_mask(case, windowed, window):
    pytest.importorskip("ipyniivue")
    if windowed:
        grey = np.random.default_rng(0).integers(0, 256, (20, 16, 5))
        write_volume(case.image, grey.astype(np.uint8))
    scan, mask = _view(case).volumes
    assert (scan.cal_min, scan.cal_max) == window
    assert (mask.cal_min, mask.opacity) == (0.5, 0.5)


def test_colab_is_asked_to_allow_widgets(monkeypatch):
    asked, page = [], ModuleType("google.colab")
    page.output = ModuleType("output")
    page.output.enable_custom_widget_manager = lambda: asked.append(True)
    monkeypatch.setitem(sys.modules, "google.colab", page)
    colab.enable_widgets()
    assert asked == [True]

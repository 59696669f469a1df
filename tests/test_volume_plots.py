import sys
from types import ModuleType

import numpy as np
import pytest
from conftest import find_cases, write_volume

from covseg_lib import colab
from covseg_lib.plots import volume_plots
from covseg_lib.settings import LUNG_WINDOW_HU


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


def test_cuts_are_those_of_the_upright_volume():
    volume = np.random.default_rng(0).integers(0, 255, (6, 20, 16)).astype(np.uint8)
    stored = np.transpose(volume, (2, 1, 0))
    axes = volume_plots.orientation_views(stored, volume, (5.0, 1.0, 1.0)).axes
    shown = [ax.images[0].get_array() for ax in axes]
    assert (shown[0] == stored[:, :, 3]).all()
    assert (shown[1] == volume[3]).all()
    assert (shown[2] == volume[::-1, 10]).all()
    assert axes[2].lines[0].get_ydata()[0] == 2  # slice 3 of 6, with the head on top


def test_a_volume_in_hu_is_shown_through_windows_and_grey_levels_once():
    volume = np.linspace(-1000, 1499, 3 * 20 * 16).astype(np.int16).reshape(3, 20, 16)
    titles = [ax.get_title() for ax in volume_plots.window_views(volume, (-1250, 250)).axes[1:]]
    assert titles == [
        "all:\n-1000 to 1499 HU",
        "lungs:\n-1250 to 250 HU",
        "soft tissue:\n-160 to 240 HU",
    ]
    _, ax = volume_plots.window_views(volume.clip(0, 255), (-1250, 250)).axes
    assert ax.get_title() == "windowed before:\n0 to 255"

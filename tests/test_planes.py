import numpy as np

from covseg_lib.plots import volume_plots


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
    assert titles == ["all:\n-1000 to 1499", "lungs:\n-1250 to 250", "soft tissue:\n-160 to 240"]
    _, ax = volume_plots.window_views(volume.clip(0, 255), (-1250, 250)).axes
    assert ax.get_title() == "windowed before:\n0 to 255"

"""A case to scroll through and turn in the notebook, where ipyniivue is installed; elsewhere its picture."""

import importlib.util

import numpy as np

from covseg_lib import checks, colab, figures, volumes
from covseg_lib.study import LUNG_WINDOW_HU

LESION_SHOWN = {"colormap": "blue", "opacity": 0.5, "cal_min": 0.5, "cal_max": 1}


def volume(case, interactive=False, mask=None):
    """Show a Case's scan with its lesions.

    Parameters
    ----------
    case : Case
    interactive : bool
        Where ipyniivue is installed, the whole volume in three planes and in space. The notebook then holds the
        volume, if it is saved with the state of its widgets.
    mask : Path, optional
        Another mask in the scan's space, as notebook 06 writes them; by default the case's own.

    Returns
    -------
    ipyniivue.NiiVue, or a Figure of the four slices with the most lesion

    Raises
    ------
    ValueError
        What `volumes.read_pair` says of files that are no scan and its mask.
    """
    pair = volumes.read_pair(case)
    shown = mask or case.mask
    if interactive and importlib.util.find_spec("ipyniivue"):
        return _widget(case.image, shown, _window(pair.image))
    lesions = volumes.read_volume(shown)[0] > 0
    fullest = np.sort(np.argsort(-lesions.sum(axis=(1, 2)), kind="stable")[:4])
    titles = [f"{case.name}, slice {number}" for number in fullest]
    figure = figures.gallery(volumes.to_grey(pair.image)[fullest], lesions[fullest], titles)
    if interactive:
        figure.suptitle("Lesions outlined in blue. To scroll through all slices: pip install ipyniivue, restart")
    return figure


def _window(image):
    """Return the values of a scan that are black and white."""
    return LUNG_WINDOW_HU if checks.intensities(image.min(), image.max()) == "HU" else (0, 255)


def _widget(image, mask, window):
    from ipyniivue import NiiVue

    colab.enable_widgets()
    viewer = NiiVue(height=400)
    scan = {"path": image, "colormap": "gray", "cal_min": window[0], "cal_max": window[1]}
    viewer.load_volumes([layer | {"colorbar_visible": False} for layer in (scan, {"path": mask, **LESION_SHOWN})])
    return viewer

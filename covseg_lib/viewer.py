"""A scan to scroll through and turn in the notebook, where that is asked for and ipyniivue is installed."""

import importlib.util

from covseg_lib import checks, colab, volumes
from covseg_lib.study import LUNG_WINDOW_HU

LESION_SHOWN = {"colormap": "blue", "opacity": 0.5, "cal_min": 0.5, "cal_max": 1, "colorbar_visible": False}


def or_picture(picture, image, mask, interactive):
    """Return a viewer of a scan with its mask, in three planes and in space, or a picture in its place.

    Parameters
    ----------
    picture
        What is returned where the viewer is not asked for, or ipyniivue is not installed.
    image, mask : Path of NIfTI files in one space
    interactive : bool
        The notebook holds the whole volume, if it is saved with the state of its widgets.

    Returns
    -------
    ipyniivue.NiiVue, or `picture`
    """
    if not (interactive and importlib.util.find_spec("ipyniivue")):
        return picture
    from ipyniivue import NiiVue

    colab.enable_widgets()
    volume, _ = volumes.read_volume(image)
    low, high = LUNG_WINDOW_HU if checks.intensities(volume.min(), volume.max()) == "HU" else (0, 255)
    scan = {"path": image, "colormap": "gray", "cal_min": low, "cal_max": high, "colorbar_visible": False}
    viewer = NiiVue(height=400)
    viewer.load_volumes([scan, {"path": mask, **LESION_SHOWN}])
    return viewer

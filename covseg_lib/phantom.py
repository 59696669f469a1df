"""The phantom data set: synthetic chest CT with lesions, to try everything on without a download."""

from pathlib import Path

import nibabel as nib
import numpy as np

from covseg_lib import __version__, anatomy, parallel, storage
from covseg_lib.volumes import Pair, to_grey

PHANTOMS = {  # case: (patient's seed, lesions, (slices, rows, columns), orientation in the file)
    "phantom_01_1": (1, 6, (20, 192, 192), "LPS"),
    "phantom_01_2": (1, 3, (20, 192, 192), "LPS"),  # the same patient later
    "phantom_02": (2, 8, (22, 192, 192), "RAS"),
    "phantom_03": (3, 0, (18, 192, 192), "LAS"),  # a healthy chest
    "phantom_04": (4, 6, (20, 150, 192), "LPS"),  # not square
    "phantom_05": (5, 7, (22, 192, 192), "RAS"),  # already windowed to 0..255
    "phantom_06": (6, 5, (20, 192, 192), "LPS"),  # the gantry tilted
    "phantom_07": (7, 9, (20, 192, 192), "RPI"),
    "phantom_08": (8, 9, (20, 192, 192), "LPS"),
    "phantom_09": (9, 4, (20, 192, 192), "RAS"),
    "phantom_10": (10, 7, (18, 192, 192), "LPS"),
    "phantom_11": (11, 5, (20, 192, 192), "LPS"),
}
PLACES = ("CT_scans", "Infection_Mask", "Lung_Mask")


def make_dataset(folder, seed=0):
    """Write the phantom data set: CT_scans, Infection_Mask and Lung_Mask, twelve volumes of eleven patients.

    Images are int16 in HU (one is uint8, windowed to 0..255); lesion masks hold 0 and 1, lung masks 0, 1 (right)
    and 2 (left). The same seed gives the same voxels; phantoms of the same seed that are there are left as they are.
    Returns the folder.
    """
    drawn = {"seed": seed, "version": __version__}
    marker = Path(folder, "phantoms.json")
    files = [Path(folder, place, f"{case}.nii.gz") for place in PLACES for case in PHANTOMS]
    if marker.exists() and storage.read_json(marker) == drawn and all(file.exists() for file in files):
        return Path(folder)
    marker.unlink(missing_ok=True)
    with parallel.executor() as pool:
        parallel.run(pool, _write_case, [(Path(folder), case, seed) for case in PHANTOMS], "phantoms")
    storage.write_json(marker, drawn)
    return Path(folder)


def _write_case(folder, case, seed):
    pair, orientation = draw(case, seed), PHANTOMS[case][-1]
    for place, array in zip(PLACES, (pair.image, pair.mask, pair.lungs), strict=True):
        with storage.atomic(folder / place / f"{case}.nii.gz") as temporary:
            nib.save(_as_nifti(array, orientation, tilt_degrees=5 if case == "phantom_06" else 0), temporary)


def draw(case, seed=0):
    """Draw one of `PHANTOMS`, upright: a Pair without a header; its lungs are 1 (right) and 2 (left)."""
    patient, lesions, shape, _ = PHANTOMS[case]
    disease = np.random.default_rng((seed, patient, int(case[-1]), 99))
    image, mask, lungs = anatomy.make_volume(shape, lesions, np.random.default_rng((seed, patient)), disease)
    return Pair(to_grey(image) if case == "phantom_05" else image, mask, None, lungs)


def _as_nifti(array, orientation, tilt_degrees):
    """Return an upright (S, H, W) array as a NIfTI image stored in another orientation, perhaps tilted."""
    tilt = np.deg2rad(tilt_degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(
        [-anatomy.PIXEL_MM, -anatomy.PIXEL_MM, anatomy.SLICE_MM]
    )  # x to the left, y to the back: LPS
    affine[:3, 3] = -affine[:3, :3] @ (np.array(array.shape[::-1]) - 1) / 2
    image = nib.Nifti1Image(np.transpose(array, (2, 1, 0)), affine)
    lps, wanted = nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(orientation)
    image = image.as_reoriented(nib.orientations.ornt_transform(lps, wanted))
    image.header.set_xyzt_units("mm")
    return image

"""From a CT scan to a lesion mask of the same shape, slice by slice."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from covseg_lib.evaluation import prediction
from covseg_lib.images import geometry, intensities, nifti, resizing, volumes
from covseg_lib.scans.segmenters import Segmenter
from covseg_lib.settings import DEFAULT_READING, Reading
from covseg_lib.training import batches
from covseg_lib.training.run_folder import Postprocessing

BATCH = 8  # slices that are predicted at a time
LUNGS_ML = (1000, 10_000)  # of an adult, with a margin
SLICE_MM = (0.5, 10)
LEAST_MARGIN = 0.25  # standard deviations


@dataclass(frozen=True)
class Segmentation:
    """The lesions of a scan.

    levels : (S, H, W) uint8, the probability of lesion; 255 means 1
    mask : (S, H, W) uint8 in {0, 1}
    lungs : (S, H, W) bool, the lungs, given; or predicted, with the lesions
    header : the scan's NIfTI header, for `nifti.write_mask`
    warnings : what is unusual about the scan, see `unlike_training`
    """

    levels: np.ndarray
    mask: np.ndarray
    lungs: np.ndarray
    header: nib.Nifti1Header
    warnings: list[str]

    @property
    def ml(self) -> float:
        """Volume of the lesions in ml."""
        return np.count_nonzero(self.mask) * geometry.voxel_ml(self.header)

    @property
    def percent(self) -> float:
        """Share of the voxels of the lungs that are lesion, in percent; NaN without lungs.

        Lesions outside of the lungs count in `ml` only.
        """
        inside, lungs = np.count_nonzero(self.mask[self.lungs]), np.count_nonzero(self.lungs)
        return 100 * inside / lungs if lungs else math.nan


def segment_scan(
    segmenter: Segmenter,
    path: Path,
    lungs: Path | None = None,
    reading: Reading = DEFAULT_READING,
) -> Segmentation:
    """Segment the lesions of a CT scan (3D NIfTI, in HU or grey levels).

    Parameters
    ----------
    segmenter : Segmenter, from `segmenters.read_segmenter`
    path : path of the scan
    lungs : path of its lung mask, optional
        By default the lungs are predicted.
    reading : Reading
        Its intensities and orientation; window and step are those of the runs.

    Raises
    ------
    ValueError
        The scan or the lung mask is not readable, they do not fit together, or no lungs are found
        and a run needs them.
    """
    scan = _Scan(Path(path), lungs, reading)
    inputs = [
        scan.inputs(run, lung_run)
        for run, lung_run in zip(segmenter.runs, segmenter.lung_runs, strict=True)
    ]
    lung_mask = scan.lung_mask(segmenter.lung_runs[0])
    levels = predict_levels(segmenter, inputs, scan.header, scan.path.name)
    mask = levels_to_mask(levels, segmenter.rules, geometry.voxel_ml(scan.header))
    if lungs is None:  # a lung model leaves out dense lesions
        lung_mask |= mask.view(bool)
    warnings = nifti.misnamed(scan.path)
    warnings += unlike_training(segmenter, inputs[0].images, lung_mask, scan.header)
    return Segmentation(levels, mask, lung_mask, scan.header, warnings)


class _Scan:
    """A scan, read and resized once for all runs; its lungs, predicted once by each lung model."""

    def __init__(self, path, lungs, reading):
        self.path, self.header = path, nifti.read_header(path)
        self.reading = reading
        geometry.state_orientation(self.header, reading.orientation)
        self.lung_path = lungs
        self.given_lungs = volumes.read_lung_mask(lungs, self.header) if lungs else None
        self.resized, self.lungs = {}, {}

    def images(self, recipe):
        """Return the slices as a run sees them, without neighbours and lungs."""
        made_with = recipe.preprocessing
        key = made_with["step"], made_with["size"], tuple(made_with["window_hu"])
        if key not in self.resized:
            step, size, window = key
            reading = dataclasses.replace(self.reading, window_hu=window, step=step)
            grey, _ = volumes.read_grey(self.path, reading)
            small = [np.round(resizing.resize_image(image, (size, size))) for image in grey]
            self.resized[key] = np.stack(small)[..., None]
        return resizing.standardise(self.resized[key], made_with["mean"], made_with["std"])

    def inputs(self, run, lung_run=None):
        """Return the inputs of a run's network."""
        images, lungs = self.images(run.recipe), None
        if run.recipe.lungs != "none":
            step, size = run.recipe.preprocessing["step"], images.shape[1:3]
            if self.lung_path:
                whole = volumes.read_lung_mask(self.lung_path, self.header, step)
            else:
                whole = self.predicted_lungs(lung_run) >= lung_run.rules.threshold
            lungs = np.stack([resizing.resize_mask(mask, size) for mask in whole])[..., None]
        return batches.make_inputs(run.recipe, images, np.full(len(images), self.path.name), lungs)

    def predicted_lungs(self, run):
        """Return probabilities of lung, (S, size, size) float32."""
        if id(run) not in self.lungs:
            found = prediction.predict_slices(run, self.inputs(run)[:], BATCH)
            self.lungs[id(run)] = found[..., 0]
        return self.lungs[id(run)]

    def lung_mask(self, run):
        """Return the lungs at the scan's size, (S, H, W) bool."""
        if self.given_lungs is not None:
            return self.given_lungs
        step, threshold = run.recipe.preprocessing["step"], run.rules.threshold
        found = self.predicted_lungs(run)
        return np.stack([to_scan(image, self.header, step) >= threshold for image in found])


def predict_levels(
    segmenter: Segmenter,
    inputs: list[batches.Inputs],
    header: nib.Nifti1Header,
    name: str = "",
) -> np.ndarray:
    """Return the mean probability of the runs, (S, H, W) uint8 at the scan's size; 255 means 1.

    While the networks predict a batch, a thread prepares the next one and resizes the last one to
    the scan. All batches have the same size, so a network is compiled only once.

    Parameters
    ----------
    segmenter : Segmenter
    inputs : list of Inputs, one for each run
    header : nibabel header of the scan
    name : str, for the progress bar
    """
    step = segmenter.runs[0].recipe.preprocessing["step"]
    levels = np.empty(geometry.upright_shape(header), np.uint8)

    def prepare(first):
        rows = np.minimum(np.arange(first, first + BATCH), len(levels) - 1)
        return [of_run[rows] for of_run in inputs]

    def store(first, probabilities):
        places = levels[first : first + BATCH]
        for place, probability in zip(places, probabilities[..., 0], strict=False):
            place[:] = to_scan(probability, header, step) * 255 + 0.5  # + 0.5 rounds
            bar.update()

    def work_of_thread(first, previous):
        if first:
            store(first - BATCH, previous)
        return prepare(first + BATCH)

    bar = tqdm(total=len(levels), desc=name, unit="slice")
    with ThreadPoolExecutor(1) as pool, bar:
        batch, predicted = prepare(0), None
        for first in range(0, len(levels), BATCH):
            job = pool.submit(work_of_thread, first, predicted)
            found = [
                prediction.predict_slices(run, of_run)
                for run, of_run in zip(segmenter.runs, batch, strict=True)
            ]
            predicted, batch = np.mean(found, axis=0), job.result()
        store(first, predicted)
    return levels


def levels_to_mask(levels: np.ndarray, rules: Postprocessing, voxel_ml: float) -> np.ndarray:
    """Return the mask, uint8 in {0, 1}, of probabilities (S, H, W) uint8, where 255 means 1.

    At a threshold of 0.5 it is the same as without rounding: 0.5 is 127.5, which was rounded up to
    128. At others, a probability may differ from the threshold by 0.002.
    """
    mask = (levels >= math.floor(255 * rules.threshold + 0.5)).view(np.uint8)
    if rules.smallest_ml:
        mask = prediction.drop_small(mask, rules.smallest_ml / voxel_ml).view(np.uint8)
    return mask


def to_scan(image: np.ndarray, header: nib.Nifti1Header, step: int) -> np.ndarray:
    """Resize a prediction (size, size) to the scan's upright slice: (H, W) float32."""
    shape, flipped = geometry.upright_shape(header)[1:], geometry.flipped_axes(header)
    return resizing.resize_to_scan(image, shape, step, flipped)


def unlike_training(
    segmenter: Segmenter, images: np.ndarray, lungs: np.ndarray, header: nib.Nifti1Header
) -> list[str]:
    """Return warnings if a scan looks unlike the training scans; [] if it does not.

    Parameters
    ----------
    segmenter : Segmenter
    images : (S, size, size, 1) float32, standardised as in training
    lungs : (S, H, W) bool
    header : nibabel header of the scan
    """
    made_with = segmenter.runs[0].recipe.preprocessing
    found = geometry.doubts(header) + intensities.unusual_slope(header)
    mean = float(images.mean())  # 0 is the mean of the training scans, 1 their deviation
    low, high = made_with["case_means"]
    margin = max((high - low) / 2, LEAST_MARGIN)
    if not low - margin <= mean <= high + margin:
        found.append(
            f"the mean grey level is {mean:.2f} deviations from that of the training scans "
            f"(there {low:.2f} to {high:.2f}): check its unit and window"
        )
    slice_mm = geometry.spacing_mm(header)[0]
    if not SLICE_MM[0] <= slice_mm <= SLICE_MM[1]:
        found.append(f"slices are {slice_mm:g} mm apart (expected {SLICE_MM[0]} to {SLICE_MM[1]})")
    lungs_ml = np.count_nonzero(lungs) * geometry.voxel_ml(header)
    if not LUNGS_ML[0] <= lungs_ml <= LUNGS_ML[1]:
        found.append(
            f"the lungs have {lungs_ml:.0f} ml (expected {LUNGS_ML[0]} to {LUNGS_ML[1]}): check "
            "the spacing, and whether the scan shows a whole chest"
        )
    return found

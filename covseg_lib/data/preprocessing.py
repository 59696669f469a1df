"""Notebook 02: slices of all cases, resized, standardised and split (the report's Listing 2.2)."""

import hashlib
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from covseg_lib import files, parallel
from covseg_lib.data import slicing, sources, splits
from covseg_lib.data.cases import pair_files
from covseg_lib.data.slices import Slices, open_slices
from covseg_lib.images import resizing
from covseg_lib.settings import reading_of
from covseg_lib.study import Study

CHUNK = 64  # slices that are standardised at a time


def preprocess(study: Study, size: int = 256, folds: int = 5, seed: int = 0) -> Slices:
    """Make processed_data from all sliced cases: resize, standardise, and split both ways.

    Writes images.npy (N, size, size, 1) float32, masks.npy (N, size, size, 1) uint8 in {0, 1},
    lungs.npy alike if every case has a lung mask, slices.csv with one row a slice, and
    preprocessing.json, which is written last. Grey levels are rounded to integers before they are
    standardised, as in Listing 2.2. Mean and standard deviation are those of all slices, because
    every slice is trained on in some fold. If the files exist already, made from the same slices
    with the same settings, nothing is done.

    Returns
    -------
    Slices

    Raises
    ------
    ValueError
        The slices or settings changed since notebook 01, or no slice has a lesion at this size.
    """
    with study.locked("preprocessing"):
        return _preprocess(study, size, folds, seed)


def prepare_study(study: Study, **overrides: Any) -> Slices:
    """Do what notebooks 01 and 02 do: draw or fetch the volumes, slice and preprocess them.

    Parameters
    ----------
    study : Study, created
    overrides : settings that replace the study's, as size and folds

    Returns and raises as `preprocess`; a ValueError as well for a file without its partner.
    """
    settings = study.settings(**overrides)
    volumes = sources.prepare_volumes(study, settings)
    found, left_over = pair_files(volumes, settings["cases"])
    slicing.slice_cases(found, study, reading_of(settings), left_over=left_over)
    return preprocess(study, settings["size"], settings["folds"], settings["seed"])


def _preprocess(study, size, folds, seed):
    cases = files.read_csv(study.need("cases"))
    settings = study.settings()
    _check_unchanged(cases, settings)
    wanted = {"size": size, "folds": folds, "seed": seed, "slices": int(cases["slices"].sum())}
    wanted |= {"window_hu": settings["window_hu"], "step": settings["step"]}
    wanted |= {"pixels_sha256": slicing.checksum_of_cases(cases)}
    path = study.path("preprocessing")
    files.remove_temporary_files(path.parent)
    if path.exists() and wanted.items() <= files.read_json(path).items():
        return open_slices(study)
    path.unlink(missing_ok=True)
    names = ["grey", "masks", *(["lungs"] if cases["lungs"].all() else [])]
    temporary = {name: path.with_name(f".part-{name}.npy") for name in names}
    try:
        arrays = _resize_all(study, cases, size, temporary)
        table = splits.add_splits(_list_slices(cases, arrays["masks"], size), folds, seed)
        mean, std = mean_and_std(arrays["grey"])
        case_means = [
            (mean_and_std(arrays["grey"][rows.min() : rows.max() + 1])[0] - mean) / std
            for rows in table.groupby("case").groups.values()
        ]
        _standardise_all(study.path("images"), arrays["grey"], mean, std)
        files.write_csv(study.path("slices"), table)
        study.path("lungs").unlink(missing_ok=True)
        for name in names[1:]:
            files.rename_into_place(temporary[name], study.path(name))
    finally:
        files.remove_temporary_files(path.parent)
    made = {"patient_folds": int(table["patient_fold"].max()) + 1, "mean": mean, "std": std}
    made |= {"case_means": [min(case_means), max(case_means)]}  # lowest and highest, standardised
    made |= {"slices_sha256": hashlib.sha256(study.path("slices").read_bytes()).hexdigest()}
    files.write_json(path, wanted | made)
    return open_slices(study)


def _resize_all(study, cases, size, paths):
    """Return all slices resized, {name: (N, size, size, 1) uint8 memory map}."""
    shape, ends = (int(cases["slices"].sum()), size, size, 1), cases["slices"].cumsum()
    arrays = {name: files.create_npy(path, np.uint8, shape) for name, path in paths.items()}
    reading = threading.Lock()  # NumPy's header parser does not allow two threads

    def resize_case(number):
        row = ends[number] - cases["slices"][number]
        path = study.path("sliced_case", case=cases["case"][number])
        with reading, files.open_npz(path) as file:
            case = {name: file["images" if name == "grey" else name] for name in paths}
        for image in zip(*case.values(), strict=True):
            for (name, array), pixels in zip(arrays.items(), image, strict=True):
                to_size = resizing.resize_image if name == "grey" else resizing.resize_mask
                array[row, ..., 0] = np.round(to_size(pixels, (size, size)))
            row += 1
        for array in arrays.values():
            release(array)

    with parallel.executor() as pool:
        parallel.run_jobs(pool, resize_case, [(number,) for number in cases.index], "resizing")
    return arrays


def mean_and_std(grey: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of a memory map (N, ...) uint8, from its histogram."""
    counts = np.sum([np.bincount(part.ravel(), minlength=256) for part in chunks(grey)], axis=0)
    levels = np.arange(256)
    mean = float((counts * levels).sum() / counts.sum())
    return mean, float(np.sqrt((counts * (levels - mean) ** 2).sum() / counts.sum()))


def _standardise_all(path, grey, mean, std):
    """Write images.npy from the grey levels of all slices."""
    with files.atomic(path) as temporary, parallel.executor() as pool:
        images = files.create_npy(temporary, np.float32, grey.shape)

        def standardise_chunk(first):
            part = slice(first, first + CHUNK)
            images[part] = resizing.standardise(grey[part], mean, std)
            release(images), release(grey)

        list(pool.map(standardise_chunk, range(0, len(grey), CHUNK)))


def chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield a memory map in parts of `CHUNK` rows, and free the memory of each part."""
    for first in range(0, len(array), CHUNK):
        yield array[first : first + CHUNK]
        release(array)


def release(array: Any) -> None:
    """Let the system write a memory map's pages to disk and free their memory."""
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        array._mmap.madvise(mmap.MADV_DONTNEED)


def _list_slices(cases, masks, size):
    """Return one row a slice: case, patient, slice and lesion_pixels."""
    table = cases.loc[cases.index.repeat(cases["slices"]), ["case", "patient"]]
    table = table.reset_index(drop=True)
    table["slice"] = table.groupby("case", sort=False).cumcount()
    counts = [np.count_nonzero(part, axis=(1, 2, 3)) for part in chunks(masks)]
    table["lesion_pixels"] = np.concatenate(counts)
    if not table["lesion_pixels"].any():
        raise ValueError(f"no slice has a lesion at {size} x {size} pixels: choose a larger SIZE")
    return table


def _check_unchanged(cases, settings):
    """Raise ValueError if a volume changed since it was sliced. Volumes may be missing."""
    for row in cases.itertuples():
        image, mask, lungs = Path(row.image), Path(row.mask), Path(row.lungs) if row.lungs else None
        if image.exists() and mask.exists():
            now = slicing.fingerprint(image, mask, lungs, reading_of(settings))
            if now != row.made_from:
                raise ValueError(
                    f"{row.case} or the settings changed since it was sliced: run notebook 01 again"
                )

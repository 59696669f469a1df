"""All cases of a study: volumes -> sliced_data (notebook 01) -> processed_data (notebook 02)."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from covseg_lib import colab, parallel, sliced, splits, stacks, storage
from covseg_lib.study import LUNG_WINDOW_HU


def slice_cases(cases, study, window_hu=LUNG_WINDOW_HU, step=2, pool=None, left_over=(), strict=True):
    """Check and slice every case into sliced_data/<case>.npz, and list them in cases.csv, written last.

    `sliced` says what such a file holds. Files are gathered in .part-sliced_data and move from there when all cases
    are known to be sound. Cases sliced before from the same files with the same settings are left as they are, also
    after an interruption; files of cases that are not among `cases` are removed.

    Parameters
    ----------
    cases : list of Case
    study : Study
    window_hu, step : what 0 and 255 stand for in HU; every how many-th pixel is kept
    pool : concurrent.futures executor, optional
        Each of its workers holds a volume in memory; by default cases are sliced one after the other.
    left_over : dict, optional
        {case: why} of what could not be paired.
    strict : bool
        Whether a case that is wrong or left over stops everything; else the others are sliced.

    Returns
    -------
    DataFrame, one row a case: case, patient, slices, lesion_slices, height, width, pixels (a checksum of them),
    image and mask (the files), made_from; and {case: why} of the cases left out

    Raises
    ------
    ValueError
        What is wrong, of all cases at once; the study is as it was. See `volumes.read_pair` for what is looked at.
    """
    with study.locked("slicing"):
        return _slice_cases(cases, study, window_hu, step, pool, dict(left_over), strict)


def _slice_cases(cases, study, window_hu, step, pool, left_over, strict):
    staging = storage.part_of(study.path("sliced_data"))
    storage.remove_parts(staging)
    jobs = [
        (case, staging / f"{case.name}.npz", window_hu, step)
        for case in sorted(cases, key=_size, reverse=True)
        if not sliced.is_current(study.path("sliced_case", case=case.name), case, window_hu, step)
        and not sliced.is_current(staging / f"{case.name}.npz", case, window_hu, step)
    ]
    said = dict(zip((job[0].name for job in jobs), parallel.run(pool, sliced.make, jobs, "slicing"), strict=True))
    wrong = left_over | {name: why for name, why in said.items() if why}
    sound = [case for case in cases if case.name not in wrong]
    if not sound or (wrong and strict):
        shutil.rmtree(staging, ignore_errors=True)
        raise ValueError(_refusal(wrong, len(cases) + len(left_over)))
    files = {case.name: staging / f"{case.name}.npz" for case in sound}
    about = [sliced.about(file if file.exists() else study.path("sliced_case", case=n)) for n, file in files.items()]
    if not any(row["lesion_slices"] for row in about):
        shutil.rmtree(staging, ignore_errors=True)
        raise ValueError(
            f"none of the {len(sound)} masks holds a lesion, so there is nothing to learn or to test; the study is as "
            "it was. Look at the masks in a viewer: were they exported empty, or from another label?"
        )
    _move_in(sound, staging, study)
    rows = [{"case": case.name, "patient": case.patient} | row for case, row in zip(sound, about, strict=True)]
    return storage.write_csv(study.path("cases"), pd.DataFrame(rows)), wrong


def _size(case):
    """Return the bytes of a case's image: the largest cases are begun with, so that no worker ends long after all."""
    return case.image.stat().st_size if case.image.exists() else 0


def _refusal(wrong, count):
    """Return in words what is wrong with which of `count` cases."""
    if not wrong:
        return "no case to slice: the list of cases is empty"
    lines = "\n".join(f"  {name}: {why}" for name, why in sorted(wrong.items()))
    return (
        f"{len(wrong)} of {count} cases cannot be used, the study is as it was:\n{lines}\n"
        "Mend these files, or set STRICT = False to go on without them."
    )


def _move_in(cases, staging, study):
    """Move what was gathered into the study, and remove what belongs to none of the cases."""
    made = {path.stem: path for path in staging.glob("*.npz")}
    stale = {path.stem: path for path in study.path("sliced_data").glob("*.npz")}
    for case in cases:
        stale.pop(case.name, None)
    if made or stale:
        study.path("cases").unlink(missing_ok=True)
    for file in stale.values():
        file.unlink()
    study.path("sliced_data").mkdir(parents=True, exist_ok=True)
    for case in cases:
        if case.name in made:
            os.replace(made[case.name], study.path("sliced_case", case=case.name))
    shutil.rmtree(staging, ignore_errors=True)


def build(study, size=256, folds=5, seed=0):
    """Make processed_data of all sliced cases: resized, standardised and split both ways.

    images.npy (N, size, size, 1) float32, masks.npy (N, size, size, 1) uint8 in {0, 1}, lungs.npy alike where every
    case has a lung mask, slices.csv with one row a slice, and preprocessing.json, written last. Grey levels are
    rounded to whole numbers, as in Listing 2.2, before they are standardised. Mean and standard deviation are those of
    all slices, since every slice trains in some fold: two numbers, without a label in them. What is there already,
    made from the same slices with the same settings, is left as it is; after an interruption it goes on.

    Returns
    -------
    DataFrame, one row a slice: case, patient, slice, lesion_pixels; slice_split, its side in the report's split; and
    patient_fold, the fold of its patient, -1 where there are too few patients for `splits.patient_folds`
    """
    with study.locked("preprocessing"):
        return _build(study, size, folds, seed)


def _build(study, size, folds, seed):
    cases = _cases(study)
    _refuse_changed(cases, study.settings())
    wanted = {"size": size, "folds": folds, "seed": seed, "slices": int(cases["slices"].sum())}
    wanted |= {name: study.settings()[name] for name in ("window_hu", "step")} | {"pixels_sha256": _pixels(cases)}
    if study.path("preprocessing").exists():
        if wanted.items() <= storage.read_json(study.path("preprocessing")).items():
            storage.remove_parts(study.path("images").parent)
            return table(study)
        study.path("preprocessing").unlink()
    arrays = stacks.resize_all(study, cases, size, wanted["pixels_sha256"])
    listed = _list(cases, arrays["masks"])
    if not listed["lesion_pixels"].any():
        raise ValueError(f"no slice has a lesion any more at {size} x {size} pixels: choose a larger SIZE")
    listed = splits.add_to(listed, folds, seed)
    mean, std = stacks.mean_and_std(arrays["grey"])
    stacks.standardise_all(study, arrays["grey"], mean, std)
    storage.write_csv(study.path("slices"), listed)
    study.path("lungs").unlink(missing_ok=True)
    for name in arrays.keys() - {"grey"}:
        storage.put_in_place(storage.part_of(study.path(name)), study.path(name))
    about = wanted | {"patient_folds": int(listed["patient_fold"].max()) + 1, "mean": mean, "std": std}
    about |= {"slices_sha256": _sha256(study.path("slices"))}
    storage.write_json(study.path("preprocessing"), about)
    storage.remove_parts(study.path("images").parent)
    return table(study)


def load(study, *names, split=None, fold=0):
    """Return images (n, size, size, 1) float32 and masks (n, size, size, 1) uint8 of the sides so called."""
    rows = rows_of(study, *names, split=split, fold=fold)
    return tuple(array[rows] for array in arrays(study))


def rows_of(study, *names, split=None, fold=0):
    """Return the rows (n,) of processed_data that are on the sides so called, as "train", "validation", "test".

    `split` is "slice" or "patient", by default the study's; `fold` the fold that is tested on.
    """
    return np.flatnonzero(np.isin(splits.sides(table(study), split or study.settings()["split"], fold), names))


def arrays(study, names=("images", "masks")):
    """Return images.npy and masks.npy as memory maps; on Colab of copies on the runtime's disk, not of Drive."""
    return tuple(np.load(colab.on_runtime(study.need(name)), mmap_mode="r") for name in names)


def table(study):
    """Return slices.csv, one row a slice, as a DataFrame.

    Raises FileNotFoundError before notebook 02 has run, ValueError where notebook 01 has run again since.
    """
    about = storage.read_json(study.need("preprocessing"))
    if _pixels(_cases(study)) != about["pixels_sha256"]:
        raise ValueError(
            f"{study.path('cases')} holds other slices than {study.path('images').parent}: run notebook 02 again"
        )
    return storage.read_csv(study.need("slices"))


def _list(cases, masks):
    listed = cases.loc[cases.index.repeat(cases["slices"]), ["case", "patient"]].reset_index(drop=True)
    listed["slice"] = listed.groupby("case", sort=False).cumcount()
    counts = [np.count_nonzero(part, axis=(1, 2, 3)) for _, part in stacks.chunks(masks)]
    listed["lesion_pixels"] = np.concatenate(counts)
    return listed


def _cases(study):
    """Return cases.csv, which notebook 01 writes last."""
    return storage.read_csv(study.need("cases"))


def _pixels(cases):
    """Return a checksum of what is in sliced_data: cases, patients and pixels."""
    return hashlib.sha256(cases[["case", "patient", "pixels"]].to_csv(index=False).encode()).hexdigest()


def _refuse_changed(cases, settings):
    """Raise ValueError if a file was changed since it was sliced (one that is not there any more was not)."""
    for row in cases.itertuples():
        image, mask, lungs = Path(row.image), Path(row.mask), Path(row.lungs) if row.lungs else None
        if image.exists() and mask.exists():
            now = sliced.made_from(image, mask, lungs, settings["window_hu"], settings["step"])
            if now != row.made_from:
                raise ValueError(f"{row.case} or the settings changed since it was sliced: run notebook 01 again")


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()

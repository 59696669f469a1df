"""The slices of a study as one object, which is opened and checked once and then handed on."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from covseg_lib import colab, files
from covseg_lib.data import slicing, splits
from covseg_lib.study import Study


@dataclass(frozen=True, eq=False)
class Slices:
    """All slices of a study, with their masks, as `open_slices` returns them.

    study : Study
    table : DataFrame
        One row a slice: case, patient, slice, lesion_pixels; slice_split, its subset in the
        report's split; patient_fold, the fold of its patient, or -1 with too few patients.
    about : dict
        How they were made: preprocessing.json.
    inputs : dict
        What was computed last for a network, see `batches.open_inputs`.
    """

    study: Study
    table: pd.DataFrame
    about: dict[str, Any]
    inputs: dict = field(default_factory=dict)

    @cached_property
    def images(self) -> np.ndarray:
        """Standardised slices, (N, size, size, 1) float32, as a memory map."""
        return self._open("images")

    @cached_property
    def masks(self) -> np.ndarray:
        """Lesion masks, (N, size, size, 1) uint8 in {0, 1}, as a memory map."""
        return self._open("masks")

    @cached_property
    def lungs(self) -> np.ndarray | None:
        """Lung masks, (N, size, size, 1) uint8 in {0, 1}; None if not every case has one."""
        return self._open("lungs") if self.study.path("lungs").exists() else None

    def rows(self, *subsets: str, split: str | None = None, fold: int = 0) -> np.ndarray:
        """Return the rows (n,) that belong to some subsets of a split.

        Parameters
        ----------
        subsets : "train", "validation", "test"
        split : see `splits.subsets`, optional; by default the study's
        fold : int, the fold that is tested on
        """
        split = self.study.settings(split=split)["split"]
        return np.flatnonzero(np.isin(splits.subsets(self.table, split, fold), subsets))

    def subset(self, *subsets: str, split: str | None = None, fold: int = 0):
        """Return images (n, size, size, 1) float32 and masks uint8 of the same rows."""
        rows = self.rows(*subsets, split=split, fold=fold)
        return self.images[rows], self.masks[rows]

    def names(self, rows: Any = slice(None)) -> list[str]:
        """Return the names of the slices in some rows, see `slice_names`."""
        return slice_names(self.table.iloc[rows])

    def _open(self, name):
        """Open an array as a memory map; on Colab, of a copy on the local disk."""
        path = self.study.need(name)
        array = np.load(colab.local_copy(path), mmap_mode="r")
        size = self.about["size"]
        expected = (len(self.table), size, size, 1)
        if array.shape != expected:
            raise ValueError(
                f"{path} has the shape {array.shape}, expected {expected}: run notebook 02 again; "
                "if Drive is still uploading, wait until it has finished"
            )
        return array


def open_slices(study: Study) -> Slices:
    """Return the slices of a study.

    Raises
    ------
    FileNotFoundError
        Notebook 02 has not run yet.
    ValueError
        Notebook 01 ran again since.
    """
    about = files.read_json(study.need("preprocessing"))
    cases = files.read_csv(study.need("cases"))
    if slicing.checksum_of_cases(cases) != about["pixels_sha256"]:
        raise ValueError(
            f"{study.path('cases')} holds other slices than {study.path('images').parent}: "
            "run notebook 02 again"
        )
    return Slices(study, files.read_csv(study.need("slices")), about)


def slice_names(table: pd.DataFrame) -> list[str]:
    """Return the names of the slices in some rows of `Slices.table`, as "phantom_04, slice 9"."""
    return table["case"].str.cat(table["slice"].astype(str), ", slice ").tolist()

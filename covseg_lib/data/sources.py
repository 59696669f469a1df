"""Where volumes come from: phantoms are drawn, public data sets downloaded, folders used."""

import os
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pooch

from covseg_lib import __version__, colab, files, parallel
from covseg_lib.data import phantom
from covseg_lib.images import nifti
from covseg_lib.study import Study

PHANTOM_SOURCES = {"phantom": phantom.PHANTOMS, "varied_phantoms": phantom.VARIED_PHANTOMS}
PHANTOM_FOLDERS = ("CT_scans", "Infection_Mask", "Lung_Mask")
DOWNLOADS = ("zenodo", "medseg")
USER_AGENT = f"covseg/{__version__}"

ZENODO = "https://zenodo.org/records/3757476/files/"  # 10.5281/zenodo.3757476: 20 volumes
ZENODO_SHA256 = {
    "COVID-19-CT-Seg_20cases.zip": (
        "a5060480eff9315b069b086312dac4872777901fb80d268a5a83edd9f4e7b440"
    ),
    "Infection_Mask.zip": "87901c73fdd2230260e61d2dbc57bf56026efc28264006b8ea2bf411453c1694",
    "Lung_Mask.zip": "f060b0d0299939a6d95ddefdbfa281de1a779c4d230a5adbd32414711d6d8187",
}
MEDSEG = "doi:10.6084/m9.figshare.13521509.v2"  # MedSeg's nine volumes, with its own masks
MEDSEG_ZIPS = ("rp_im.zip", "rp_lung_msk.zip", "rp_msk.zip")
KAGGLE = "andrewmvd/covid19-ct-scans"  # a copy of the Zenodo record's volumes, not compressed
KAGGLE_INPUT = Path("/kaggle/input")  # where Kaggle puts data sets that a notebook has attached


def choose_source(source: str | None, dataset: str, profile: str) -> str | None:
    """Return where the volumes come from; None means as the profile says.

    Without a choice ("default" or None) that is the folder `dataset`, if there is one; or "kaggle"
    for the report's data on Colab and Kaggle, which keep a copy.

    >>> choose_source("default", "/data/mine", "report"), choose_source("medseg", "", "report")
    ('folder', 'medseg')
    """
    if source not in (None, "default"):
        return source
    if dataset:
        return "folder"
    return "kaggle" if profile == "report" and (colab.on_colab() or colab.on_kaggle()) else None


def prepare_volumes(study: Study, settings: dict[str, Any]) -> Path:
    """Return the folder of a study's NIfTI volumes; draw or download them first if necessary.

    Parameters
    ----------
    study : Study
    settings : dict
        As from `settings.plan_settings`. The source is "phantom", "varied_phantoms", "zenodo",
        "kaggle", "medseg" or "folder".
    """
    source, folder = settings["source"], study.dataset(settings)
    if source == "folder":
        return folder
    with study.locked("preparing"):
        if source in PHANTOM_SOURCES:
            return write_phantoms(folder, PHANTOM_SOURCES[source], settings["seed"])
        if source == "kaggle":
            if copy := find_kaggle_copy():
                return copy
            source, folder = "zenodo", study.path("dataset") / "zenodo"
        return download(source, folder, study.path("downloads"))


def write_phantoms(folder: Path, phantoms: Mapping[str, phantom.Phantom], seed: int = 0) -> Path:
    """Write phantoms as NIfTI volumes, and return their folder.

    Images (CT_scans) are int16 in HU, or uint8 in 0..255. Lesion masks (Infection_Mask) hold 0 and
    1, lung masks (Lung_Mask) 0, 1 (right) and 2 (left). The same seed gives the same voxels. If all
    phantoms of this seed exist already, they are not drawn again.
    """
    marker, drawn = folder / "phantoms.json", {"seed": seed, "version": __version__}
    paths = [folder / name / f"{case}.nii.gz" for name in PHANTOM_FOLDERS for case in phantoms]
    if marker.exists() and files.read_json(marker) == drawn and all(p.exists() for p in paths):
        return folder
    marker.unlink(missing_ok=True)
    with parallel.executor() as pool:
        jobs = [(folder, case, kind, seed) for case, kind in phantoms.items()]
        parallel.run_jobs(pool, _write_phantom, jobs, "phantoms")
    files.write_json(marker, drawn)
    return folder


def _write_phantom(folder, case, kind, seed):
    pair = phantom.draw_phantom(kind, seed)
    for name, array in zip(PHANTOM_FOLDERS, (pair.image, pair.mask, pair.lungs), strict=True):
        with files.atomic(folder / name / f"{case}.nii.gz") as temporary:
            nib.save(_to_nifti(array, kind), temporary)


def _to_nifti(array, kind):
    """Return an upright (S, H, W) array as a NIfTI image with a phantom's orientation and tilt."""
    tilt = np.deg2rad(kind.tilt)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)  # x to the left, y to the back: LPS
    affine[:3, :3] = turn @ np.diag([-kind.pixel_mm, -kind.pixel_mm, phantom.SLICE_MM])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(array.shape[::-1]) - 1) / 2
    image = nib.Nifti1Image(np.transpose(array, (2, 1, 0)), affine)
    lps, wanted = (nib.orientations.axcodes2ornt(codes) for codes in ("LPS", kind.orientation))
    image = image.as_reoriented(nib.orientations.ornt_transform(lps, wanted))
    image.header.set_xyzt_units("mm")
    return image


def find_kaggle_copy() -> Path | None:
    """Return the folder of Kaggle's copy of the Zenodo record.

    That is the data set which a Kaggle notebook has attached, or what kagglehub fetches: on Colab
    from a copy nearby, elsewhere into the user's cache. If it cannot, warn and return None.
    """
    for pattern in ("*/ct_scans", "*/*/*/ct_scans"):  # <data set>, or datasets/<owner>/<data set>
        for images in sorted(KAGGLE_INPUT.glob(pattern)):
            return images.parent
    try:
        import kagglehub

        return Path(kagglehub.dataset_download(KAGGLE))
    except Exception as error:  # kagglehub's own, those of requests, or it is not installed
        warnings.warn(f"no copy from Kaggle ({error}): Zenodo's is used", stacklevel=2)
        return None


def download(
    source: str,
    folder: Path,
    cache: Path,
    base_url: str = ZENODO,
    registry: Mapping[str, str] = ZENODO_SHA256,
    tries: int = 6,
) -> Path:
    """Download a data set's zip files into `cache` and unpack them below `folder`.

    Files that are unpacked or in the cache are not downloaded again. After a refusal (429), a
    broken connection or a wrong hash the download is tried again, after 1, 2, 3 ... seconds.
    The files of the Zenodo record are checked against `ZENODO_SHA256`. MedSeg's files have no
    hash here: the DOI fixes their version, and pooch checks them against figshare's md5.

    Parameters
    ----------
    source : "zenodo" or "medseg"
    folder : path
        Each zip is unpacked into a subfolder with the name of the zip.
    cache : path
        Where the zips are kept.
    base_url, registry
        Address and {file: sha256} of the Zenodo record, or of a similar one.
    tries : int
        Number of tries for each file.

    Returns
    -------
    `folder`

    Raises
    ------
    ValueError
        An unknown source, a hash that stays wrong, or a zip that `unpack_zip` refuses.
    OSError
        The connection fails, or the disk has too little space.
    """
    if source not in DOWNLOADS:
        raise ValueError(
            f'no source {source!r}: expected "zenodo", "kaggle", "medseg", "folder", "phantom" or '
            '"varied_phantoms"'
        )
    folder, medseg = Path(folder), source == "medseg"
    if all((folder / Path(name).stem).is_dir() for name in (MEDSEG_ZIPS if medseg else registry)):
        return folder
    zips = pooch.create(
        cache,
        MEDSEG if medseg else base_url,
        registry=None if medseg else registry,
        retry_if_failed=tries - 1,
    )
    if medseg:
        zips.load_registry_from_doi()
    downloader = pooch.DOIDownloader if medseg else pooch.HTTPDownloader
    for name in sorted(name for name in zips.registry if name.endswith(".zip")):
        target = folder / Path(name).stem
        if not target.is_dir():
            loader = downloader(progressbar=True, headers={"User-Agent": USER_AGENT}, timeout=60)
            unpack_zip(Path(zips.fetch(name, downloader=loader)), target)
    return folder


def unpack_zip(archive: Path, folder: Path) -> None:
    """Unpack all NIfTI files of a zip into `folder`, without the folders inside the zip.

    If anything fails, `folder` is not created. Raises ValueError for a path that leads outside of
    `folder` and for two files with the same name, OSError if the disk has too little space.
    """
    folder = Path(folder)
    staging = files.staging_path(folder)
    shutil.rmtree(staging, ignore_errors=True)
    with zipfile.ZipFile(archive) as packed:
        _check_paths(archive, packed.infolist())
        scans = [entry for entry in packed.infolist() if _is_scan(Path(entry.filename).name)]
        _check_names(archive, scans)
        files.check_free_space(folder, sum(entry.file_size for entry in scans))
        staging.mkdir(parents=True)
        for entry in scans:
            path = staging / Path(entry.filename).name
            with packed.open(entry) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    os.replace(staging, folder)


def _is_scan(name):
    return name.endswith(nifti.ENDINGS) and not name.startswith("._")  # macOS adds ._ files


def _check_paths(archive, entries):
    """Raise ValueError for an entry of a zip that would be written outside of its folder."""
    for entry in entries:
        parts = Path(entry.filename.replace("\\", "/")).parts
        if entry.filename.startswith(("/", "\\")) or ".." in parts:
            raise ValueError(
                f"{archive} holds {entry.filename!r}, a path outside of its folder: "
                "the file is not safe, download it again from its source"
            )


def _check_names(archive, entries):
    """Raise ValueError if two files in a zip have the same name: one would replace the other."""
    seen = {}
    for entry in entries:
        name = Path(entry.filename).name.casefold()  # some file systems ignore case
        if name in seen:
            raise ValueError(
                f"{archive} holds two files with the same name, {seen[name]} and "
                f"{entry.filename}: unpack it by hand, images and masks into separate folders, "
                "and set DATASET to the folder that holds these"
            )
        seen[name] = entry.filename

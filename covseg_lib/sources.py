"""Where volumes come from: phantoms are drawn, public data sets downloaded (by pooch), a folder is taken as it is."""

import os
import shutil
import zipfile
from pathlib import Path

import pooch

from covseg_lib import __version__, nifti, phantom, storage
from covseg_lib.study import DOWNLOADS

USER_AGENT = f"covseg/{__version__}"

ZENODO = "https://zenodo.org/records/3757476/files/"  # 10.5281/zenodo.3757476: 20 volumes
ZENODO_SHA256 = {
    "COVID-19-CT-Seg_20cases.zip": "a5060480eff9315b069b086312dac4872777901fb80d268a5a83edd9f4e7b440",
    "Infection_Mask.zip": "87901c73fdd2230260e61d2dbc57bf56026efc28264006b8ea2bf411453c1694",
    "Lung_Mask.zip": "f060b0d0299939a6d95ddefdbfa281de1a779c4d230a5adbd32414711d6d8187",
}
MEDSEG = "doi:10.6084/m9.figshare.13521509.v2"  # MedSeg's nine volumes, with its own masks
MEDSEG_ZIPS = ("rp_im.zip", "rp_lung_msk.zip", "rp_msk.zip")


def provide(study, settings):
    """Return the folder of a study's NIfTI volumes, drawn or downloaded first if its source is not a folder.

    Parameters
    ----------
    study : Study
    settings : dict
        Of `study.plan`: source is "phantom", "zenodo", "medseg" or "folder".
    """
    source, folder = settings["source"], study.dataset(settings)
    if source == "folder":
        return folder
    with study.locked("preparing"):
        if source == "phantom":
            return phantom.make_dataset(folder, settings["seed"])
        return fetch(source, folder, study.path("downloads"))


def fetch(source, folder, cache, base_url=ZENODO, registry=ZENODO_SHA256, tries=6):
    """Download a data set's zips into `cache` and unpack them below `folder`.

    What is unpacked or in the cache already is not fetched again. A refusal (429), a broken connection or a wrong hash
    is tried again after 1, 2, 3 ... seconds. The Zenodo record's files are pinned: their sha256 stand here. MedSeg's
    are not: the DOI pins their version, and pooch compares what arrives with the md5 that figshare gives that day.

    Parameters
    ----------
    source : "zenodo" or "medseg"
    folder : path
        Each zip goes into a folder named after it.
    cache : path
        Where the zips stay.
    base_url, registry, tries
        Address, {file: sha256} and number of tries, for the Zenodo record or another of its kind.

    Raises
    ------
    ValueError
        Another source; a hash that stays wrong; a zip with an entry that would leave its folder.
    OSError
        The connection, or too little room on the disk.
    """
    if source not in DOWNLOADS:
        raise ValueError(f'no source {source!r}: expected "zenodo", "medseg", "folder" or "phantom"')
    folder, medseg = Path(folder), source == "medseg"
    if all((folder / Path(name).stem).is_dir() for name in (MEDSEG_ZIPS if medseg else registry)):
        return folder
    files = pooch.create(
        cache, MEDSEG if medseg else base_url, registry=None if medseg else registry, retry_if_failed=tries - 1
    )
    if medseg:
        files.load_registry_from_doi()
    downloader = pooch.DOIDownloader if medseg else pooch.HTTPDownloader
    for name in sorted(name for name in files.registry if name.endswith(".zip")):
        if not (folder / Path(name).stem).is_dir():
            loader = downloader(progressbar=True, headers={"User-Agent": USER_AGENT}, timeout=60)
            unpack(Path(files.fetch(name, downloader=loader)), folder / Path(name).stem)
    return folder


def unpack(archive, folder):
    """Unpack a zip's NIfTI files into `folder`, without the folders inside the zip; all of them or none.

    Raises ValueError for an entry that names a place outside and for two files of one name, OSError where the disk has
    too little room.
    """
    folder = Path(folder)
    parts = storage.part_of(folder)
    shutil.rmtree(parts, ignore_errors=True)
    with zipfile.ZipFile(archive) as packed:
        entries = [entry for entry in packed.infolist() if _is_scan(Path(entry.filename).name)]
        for entry in packed.infolist():
            if entry.filename.startswith(("/", "\\")) or ".." in Path(entry.filename.replace("\\", "/")).parts:
                raise ValueError(f"{archive} holds {entry.filename!r}, which leads out of its folder: do not use it")
        _refuse_same_names(archive, entries)
        need = sum(entry.file_size for entry in entries)
        storage.require_space(folder, need)
        parts.mkdir(parents=True)
        for entry in entries:
            with packed.open(entry) as source, open(parts / Path(entry.filename).name, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    os.replace(parts, folder)


def _is_scan(name):
    return name.endswith(nifti.ENDINGS) and not name.startswith("._")  # macOS adds files of such names


def _refuse_same_names(archive, entries):
    """Raise ValueError where files in different folders of a zip have one name: one would replace the other."""
    seen = {}
    for entry in entries:
        name = Path(entry.filename).name.casefold()  # some disks take a for A
        if name in seen:
            raise ValueError(
                f"{archive} holds two files of one name, {seen[name]} and {entry.filename}: unpack it by hand, images "
                "and masks into folders of their own, and set DATASET to the folder above"
            )
        seen[name] = entry.filename

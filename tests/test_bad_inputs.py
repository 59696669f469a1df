"""Every input that is wrong gets one clear sentence, before anything is written."""

import gzip
import os

import nibabel as nib
import numpy as np
import pytest
from conftest import LPS, write_volume

from covseg_lib import parallel
from covseg_lib.data import cases, preprocessing, slicing
from covseg_lib.study import Study

SHAPE = (20, 16, 5)
HU = np.full(SHAPE, -900, np.int16)
HU[5:9] = 40


def _image(folder):
    return folder / "CT_scans" / "scan_1.nii.gz"


def _mask(folder):
    return folder / "Infection_Mask" / "scan_1.nii.gz"


def _image_of(array, affine=LPS):
    return lambda folder: write_volume(_image(folder), array, affine)


def _mask_of(array, affine=LPS):
    return lambda folder: write_volume(_mask(folder), array, affine)


def _lungs_of(array):
    return lambda folder: write_volume(folder / "Lung_Mask" / "scan_1.nii.gz", array)


def _with(value):
    array = HU.astype(np.float32)
    array[10, 8, 2] = value
    return array


def _cut(path):
    return lambda folder: path(folder).write_bytes(path(folder).read_bytes()[:-40])


def _flip(folder):
    data = bytearray(_image(folder).read_bytes())
    data[len(data) // 2] ^= 255
    _image(folder).write_bytes(data)


def _plain(data):
    def write(folder):
        _image(folder).unlink()
        _image(folder).with_name("scan_1.nii").write_bytes(data)

    return write


def _cut_plain(folder):
    nib.save(nib.load(_image(folder)), folder / "CT_scans" / "scan_1.nii")
    _image(folder).unlink()
    path = folder / "CT_scans" / "scan_1.nii"
    path.write_bytes(path.read_bytes()[:-40])


def _folder_instead(folder):
    _image(folder).unlink()
    _image(folder).mkdir()


def _second(path):
    return lambda folder: path(folder).with_name("scan_1.nii").write_bytes(b"")


def _dangling(folder):
    _image(folder).unlink()
    _image(folder).symlink_to(folder / "nowhere")


def _no_folder(folder):
    os.rename(folder / "CT_scans", folder / "unknown")


def _empty_folder(folder):
    for path in (folder / "CT_scans").iterdir():
        path.unlink()


BAD = {
    "image and mask of two shapes": (
        _mask_of(np.zeros((20, 16, 4), np.uint8)),
        r"expected one shape",
    ),
    "image and mask of two spacings": (
        _mask_of(np.zeros(SHAPE, np.uint8), 2 * LPS),
        r"different places",
    ),
    "mask shifted": (
        _mask_of(np.zeros(SHAPE, np.uint8), LPS + np.eye(4, k=3)),
        r"different places \(1 mm apart, voxels of 2 x 1 x 1 mm\)",
    ),
    "2D image": (_image_of(HU[..., 0]), r"array of shape \(20, 16\): expected a 3D volume"),
    "4D image": (
        _image_of(np.stack([HU, HU], -1)),
        r"array of shape \(20, 16, 5, 2\): expected a 3D volume",
    ),
    "2D mask": (
        _mask_of(np.zeros((20, 16), np.uint8)),
        r"mask: scan_1.nii.gz holds an array of shape \(20, 16\)",
    ),
    "image without slices": (_image_of(HU[..., :0]), r"expected a 3D volume"),
    "blank image": (_image_of(HU * 0), r"every voxel is 0: expected a CT volume"),
    "NaN": (_image_of(_with(np.nan)), r"holds NaN or infinite values inside of the chest"),
    "infinity": (_image_of(_with(np.inf)), r"holds NaN or infinite values inside of the chest"),
    "NaN in the mask": (_mask_of(np.where(HU > 0, np.nan, 0)), r"mask scan_1.nii.gz: holds NaN"),
    "mask of probabilities": (
        _mask_of(np.linspace(0, 1, HU.size).reshape(SHAPE)),
        r"expected whole labels",
    ),
    "mask of 255": (
        _mask_of((HU > 0).astype(np.uint8) * 255),
        r"the values 0, 255: expected whole labels from 0 to 3",
    ),
    "mask below 0": (
        _mask_of((HU > 0).astype(np.int16) * -1),
        r"the values -1, 0: expected whole labels",
    ),
    "image as mask": (_mask_of(HU), r"the values -900, 40: expected whole labels"),
    "raw scanner values": (_image_of(HU + 1024), r"from 124 to 1064 are neither Hounsfield units"),
    "a soft-tissue window in HU": (_image_of(np.clip(HU, -100, 300)), r"neither Hounsfield units"),
    "standardised image": (_image_of(_with(0) / 400), r"neither Hounsfield units"),
    "gzip cut off": (_cut(_image), r"image: scan_1.nii.gz is cut off"),
    "gzip of the mask cut off": (_cut(_mask), r"mask: scan_1.nii.gz is cut off"),
    "gzip with a wrong byte": (_flip, r"scan_1.nii.gz cannot be read|is cut off"),
    "plain file cut off": (_cut_plain, r"scan_1.nii is cut off"),
    "text": (
        lambda folder: _image(folder).write_text("<html>not found"),
        r"scan_1.nii.gz is not a NIfTI file",
    ),
    "packed text": (
        lambda folder: _image(folder).write_bytes(gzip.compress(b"x" * 999)),
        r"is not a NIfTI file",
    ),
    "plain text": (_plain(b"x" * 999), r"scan_1.nii is not a NIfTI file"),
    "empty file": (lambda folder: _image(folder).write_bytes(b""), r"scan_1.nii.gz"),
    "empty plain file": (_plain(b""), r"scan_1.nii is not a NIfTI file"),
    "a folder called as a file": (_folder_instead, r"scan_1.nii.gz cannot be read"),
    "a link to nowhere": (_dangling, r"scan_1.nii.gz"),
    "two images of a case": (
        _second(_image),
        r"two files in CT_scans: scan_1.nii and scan_1.nii.gz",
    ),
    "two masks of a case": (_second(_mask), r"two files in Infection_Mask"),
    "image without mask": (
        lambda folder: _mask(folder).unlink(),
        r"no mask for image scan_1.nii.gz",
    ),
    "mask without image": (
        lambda folder: _image(folder).unlink(),
        r"no image for mask scan_1.nii.gz",
    ),
    "lung mask of another shape": (
        _lungs_of(np.zeros((20, 16, 4), np.uint8)),
        r"its lung mask \(20, 16, 4\)",
    ),
    "lung mask of other labels": (
        _lungs_of(np.full(SHAPE, -9, np.int16)),
        r"lung mask scan_1.nii.gz: holds the values -9: expected whole labels from 0 on",
    ),
    "no folder of images": (_no_folder, r"no folder of images .* found Infection_Mask, unknown"),
    "empty folder of images": (_empty_folder, r"no .nii or .nii.gz file in .*CT_scans"),
}


def _slice(folder, study, strict=True):
    found, left_over = cases.pair_files(folder)
    with parallel.executor(workers=2) as pool:
        return slicing.slice_cases(found, study, pool=pool, left_over=left_over, strict=strict)[1]


@pytest.mark.parametrize("name", BAD)
def test_bad_input(tiny_dataset, tmp_path, name):
    spoil, message = BAD[name]
    spoil(tiny_dataset)
    study = Study(tmp_path / "study")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        _slice(tiny_dataset, study)
    assert len(str(error.value).splitlines()) <= 3
    assert sorted(tmp_path.iterdir()) == [tiny_dataset]


def test_all_that_is_wrong_is_said_at_once_and_strict_false_goes_on_without(tiny_dataset, tmp_path):
    BAD["NaN"][0](tiny_dataset)
    write_volume(tiny_dataset / "Infection_Mask" / "scan_2.nii.gz", np.full(SHAPE, 9, np.uint8))
    (tiny_dataset / "Infection_Mask" / "scan_3.nii.gz").unlink()
    study = Study(tmp_path / "study")
    with pytest.raises(
        ValueError, match=r"3 of 5 cases .*\n.*scan_1.*\n.*scan_2.*\n.*scan_3.*\n.*STRICT = False"
    ):
        _slice(tiny_dataset, study)
    assert not study.root.exists()
    assert sorted(_slice(tiny_dataset, study, strict=False)) == ["scan_1", "scan_2", "scan_3"]
    assert sorted(path.stem for path in study.path("sliced_data").glob("*.npz")) == [
        "scan_4",
        "scan_5",
    ]


def test_nothing_left_to_slice_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no case to slice"):
        slicing.slice_cases([], Study(tmp_path))


def test_a_file_that_changed_since_it_was_sliced(tiny_study, tiny_dataset):
    before = sorted(
        (path.name, path.read_bytes()) for path in tiny_study.path("images").parent.iterdir()
    )
    write_volume(_image(tiny_dataset), HU)
    with pytest.raises(
        ValueError,
        match="scan_1 or the settings changed since it was sliced: run notebook 01 again",
    ):
        preprocessing.preprocess(tiny_study, 16)
    assert before == sorted(
        (path.name, path.read_bytes()) for path in tiny_study.path("images").parent.iterdir()
    )


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tiny_dataset, tmp_path):
    _image(tiny_dataset).chmod(0)
    with pytest.raises(ValueError, match="cannot be read"):
        _slice(tiny_dataset, Study(tmp_path / "study"))

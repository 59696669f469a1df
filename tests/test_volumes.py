import gzip

import nibabel as nib
import numpy as np
import pytest
from conftest import LPS, write_volume

from covseg_lib import files
from covseg_lib.data import slicing
from covseg_lib.data.cases import Case
from covseg_lib.data.pairs import read_pair
from covseg_lib.images import geometry, headers, nifti, volumes
from covseg_lib.settings import Reading

UPRIGHT = np.arange(5 * 20 * 16).reshape(5, 20, 16).astype(np.int16)  # slices, rows, columns


def _stored_as(axes):
    image = nib.Nifti1Image(UPRIGHT.transpose(2, 1, 0), LPS)
    wanted = nib.orientations.axcodes2ornt(axes)
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(LPS), wanted))


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAS", "RPI", "SPL", "PSR"])
def test_a_volume_is_upright_however_it_was_stored(tmp_path, axes):
    nib.save(_stored_as(axes), tmp_path / "a.nii.gz")
    array, header = volumes.read_volume(tmp_path / "a.nii.gz")
    assert (array == UPRIGHT).all()
    assert geometry.upright_shape(header) == UPRIGHT.shape


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PSR"])
def test_a_mask_goes_back_into_the_scans_own_space(tmp_path, axes):
    scan = _stored_as(axes)
    scan.header.set_xyzt_units("mm")
    nib.save(scan, tmp_path / "scan.nii.gz")
    array, header = volumes.read_volume(tmp_path / "scan.nii.gz")
    nifti.write_mask(tmp_path / "mask.nii.gz", array % 2, header)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert (np.asanyarray(mask.dataobj) == np.asanyarray(scan.dataobj) % 2).all()
    assert np.allclose(mask.affine, scan.affine)
    assert mask.get_data_dtype() == np.uint8
    assert mask.header.get_xyzt_units()[0] == "mm"


OBLIQUE = np.array(
    [[-0.69, 0.05, -0.4, 90], [0.06, 0.68, 0.7, -120], [0.03, -0.09, 4.9, 20], [0, 0, 0, 1]]
)


@pytest.mark.parametrize(
    "affine", [OBLIQUE, OBLIQUE @ np.diag([-1, -1, 1, 1]), OBLIQUE[:, [2, 0, 1, 3]]]
)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_what_01_stores_puts_a_mask_back_voxel_for_voxel(tmp_path, affine, kind):
    """Oblique, flipped, with axes in another order, not square: from the slices and the header's
    bytes alone.
    """
    labels = np.random.default_rng(0).integers(0, 2, (7, 6, 5)).astype(np.uint8)
    image = kind(labels.astype(np.int16) * 900 - 900, affine)
    image.header.set_qform(affine, code=1)
    image.header.set_sform(affine, code=2)
    nib.save(image, tmp_path / "scan.nii.gz")
    nib.save(kind(labels, affine), tmp_path / "mask.nii.gz")
    case = Case("a", "a", tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz")
    slicing.slice_case(case, tmp_path / "a.npz", Reading())
    with files.open_npz(tmp_path / "a.npz") as arrays:
        masks, header = arrays["masks"], headers.parse_header(arrays["header"].tobytes())
    nifti.write_mask(tmp_path / "back.nii.gz", masks, header)
    back = nib.load(tmp_path / "back.nii.gz")
    assert (np.asarray(back.dataobj) == labels).all()
    assert np.allclose(back.affine, affine, atol=1e-5)
    assert (int(back.header["qform_code"]), int(back.header["sform_code"])) == (1, 2)


def test_upright_means_front_on_top_and_the_patients_right_on_the_left(tmp_path):
    array = np.zeros((6, 7, 5), np.int16)
    array[0, :, :] = (
        1  # i runs to the patient's left (x is right, and falls): i = 0 lies on the right
    )
    array[:, 6, :] = 2  # j runs to the front: j = 6 is the front
    write_volume(tmp_path / "a.nii", array, np.diag([-0.69, 0.68, 5, 1]))
    upright, _ = volumes.read_volume(tmp_path / "a.nii")
    assert (upright[:, 0, :] == 2).all()
    assert (upright[:, 1:, 0] == 1).all()
    assert (upright[:, 1:, -1] == 0).all()


def test_every_second_pixel_counts_from_the_files_first(tmp_path):
    nib.save(_stored_as("RAS"), tmp_path / "a.nii")
    array, _ = volumes.read_volume(tmp_path / "a.nii", step=2)
    stored = np.asanyarray(_stored_as("RAS").dataobj)[::2, ::2]
    assert (array == stored.transpose(2, 1, 0)[:, ::-1, ::-1]).all()


def test_a_trailing_axis_of_one_is_dropped(tmp_path):
    write_volume(tmp_path / "a.nii", np.zeros((4, 3, 2, 1), np.int16))
    assert volumes.read_volume(tmp_path / "a.nii")[0].shape == (2, 3, 4)


def test_a_volume_that_is_none_is_an_error(tmp_path):
    write_volume(tmp_path / "flat.nii", np.zeros((4, 3), np.int16))
    with pytest.raises(ValueError, match="expected a 3D volume"):
        volumes.read_volume(tmp_path / "flat.nii")
    (tmp_path / "text.nii.gz").write_text("no volume")
    with pytest.raises(ValueError, match=r"text.nii.gz is not a NIfTI file"):
        volumes.read_volume(tmp_path / "text.nii.gz")
    noise = np.random.default_rng(0).integers(0, 99, (30, 30, 30)).astype(np.int16)
    whole = write_volume(tmp_path / "whole.nii.gz", noise).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="download or copy it again"):
        volumes.read_volume(tmp_path / "cut.nii.gz")


def _case(tmp_path, image, mask, mask_affine=LPS):
    image = write_volume(tmp_path / "image.nii.gz", image)
    return Case("a", "a", image, write_volume(tmp_path / "mask.nii.gz", mask, mask_affine))


def test_a_mask_of_several_labels_becomes_one(tmp_path):
    labels = np.arange(8).reshape(2, 2, 2).astype(np.uint8) % 3
    pair = read_pair(_case(tmp_path, np.arange(8).reshape(2, 2, 2).astype(np.int16) * 36, labels))
    assert sorted(np.unique(pair.mask)) == [0, 1]
    assert pair.mask.sum() == np.count_nonzero(labels)


def test_a_mask_of_another_volume_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected one shape"):
        read_pair(_case(tmp_path, np.zeros((2, 2, 2), np.int16), np.zeros((2, 2, 3), np.uint8)))
    with pytest.raises(ValueError, match="different places"):
        read_pair(
            _case(tmp_path, np.zeros((2, 2, 2), np.int16), np.zeros((2, 2, 2), np.uint8), 2 * LPS)
        )


@pytest.mark.parametrize("values", [[0, 4000], [-100, 300], [0.0, 1000.0]])
def test_intensities_that_are_neither_hu_nor_grey_are_an_error(values):
    with pytest.raises(ValueError, match="neither Hounsfield units"):
        volumes.to_grey(np.array(values))


def test_a_mask_of_the_wrong_size_is_not_written(tmp_path):
    header = nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), LPS).header
    with pytest.raises(ValueError, match="does not fit"):
        nifti.write_mask(tmp_path / "m.nii.gz", np.zeros((2, 3, 5)), header)
    assert not list(tmp_path.iterdir())


def test_a_gzip_file_of_two_members_is_read_whole(tmp_path):
    """Two gzip files one after the other are one gzip file; some tools write them."""
    whole = write_volume(tmp_path / "whole.nii", np.arange(24).reshape(2, 3, 4).astype(np.int16))
    data = whole.read_bytes()
    half = len(data) // 2
    parts = [gzip.compress(data[:half]), gzip.compress(data[half:])]
    (tmp_path / "two.nii.gz").write_bytes(b"".join(parts))
    two, _ = volumes.read_volume(tmp_path / "two.nii.gz")
    assert (two == volumes.read_volume(whole)[0]).all()

"""Scans as people have them: each is read rightly, or refused with a reason that fits.

Each input is drawn here, after one that a user reported in a public forum. docs/data.md has the
table of kinds and outcomes.
"""

import gzip

import nibabel as nib
import numpy as np
import pytest
from conftest import find_cases, write_volume

from covseg_lib import files
from covseg_lib.batch import notebooks
from covseg_lib.data import cases, slicing
from covseg_lib.data.pairs import read_pair
from covseg_lib.images import geometry, intensities, nifti, volumes
from covseg_lib.settings import Reading, plan_settings
from covseg_lib.study import Study

AFFINE = np.diag([-5.6, -5.6, 10.0, 1.0])  # left, posterior, superior
CIRCLE = np.hypot(*np.mgrid[-31.5:32, -31.5:32]) < 32


def chest(seed=0):
    """Draw HU int16, lesions and lungs (64, 64, 6): a body in air, two lungs, a lesion in one."""
    x, y, z = np.meshgrid(
        *(np.linspace(-180, 180, 64),) * 2, np.linspace(-60, 60, 6), indexing="ij"
    )
    hu = np.full(x.shape, -1000.0)
    hu[(x / 165) ** 2 + (y / 112) ** 2 < 1] = 50
    lungs = ((np.abs(x) - 70) / 52) ** 2 + (y / 78) ** 2 < 1
    hu[lungs] = -850
    side = 1 if seed % 2 else -1
    lesion = ((x - side * 85) / 26) ** 2 + ((y - 40) / 24) ** 2 + ((z - 10) / 45) ** 2 < 1
    hu[lesion & lungs] = -350
    hu += np.random.default_rng(seed).normal(0, 20, hu.shape)
    return hu.round().clip(-1024, 3000).astype(np.int16), lesion & lungs, lungs


HU, LESION, LUNGS = chest()
GREY = volumes.to_grey(HU.T)


def window(low, high, dtype=np.int16):
    return HU.clip(low, high).astype(dtype)


def twice_rounded(array):
    return np.round(array).astype(np.int16)


SAME_HU = {
    "int16": HU,
    "int32": HU.astype(np.int32),
    "float64": HU.astype(np.float64),
    "big-endian": HU.astype(">i2"),
    "lung window": window(-1350, 150),
    "from -1000 on": window(-1000, 400),
}


@pytest.mark.parametrize("name", SAME_HU)
def test_the_same_hu_however_stored(tmp_path, name):
    path = write_volume(tmp_path / "scan.nii.gz", SAME_HU[name], AFFINE)
    grey, _ = volumes.read_grey(path)
    assert np.abs(grey.astype(int) - GREY).max() <= (
        18 if "window" in name or "-1000" in name else 0
    )


@pytest.mark.parametrize(
    ("array", "padding"),
    [
        (np.where(CIRCLE[..., None], HU, -3024).astype(np.float64), "far below air"),
        (np.where(CIRCLE[..., None], HU, -2000), "another value"),
        (np.where(CIRCLE[..., None], HU, np.nan).astype(np.float32), "NaN"),
        (np.where(np.arange(64)[:, None, None] < 8, np.nan, HU).astype(np.float32), "NaN strip"),
        (np.where(np.arange(6) == 0, np.nan, HU).astype(np.float32), "NaN slice"),
    ],
)
def test_padding_outside_of_the_scanners_circle_is_air(tmp_path, array, padding):
    path = write_volume(tmp_path / "scan.nii.gz", array, AFFINE)
    grey, _ = volumes.read_grey(path)
    filled = ~np.isfinite(array.T) | (array.T < -1200)
    assert (grey[:, ::-1][filled[:, ::-1]] == 42).all(), padding
    assert (grey[~filled] == GREY[~filled]).all()


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("slope", "inter"), [(1, -1024), (2, -1024)])
def test_slope_and_intercept_are_applied_once(tmp_path, kind, slope, inter):
    stored = np.round((HU.astype(float) - inter) / slope).astype(np.uint16)
    image = kind(stored, AFFINE)
    image.header.set_slope_inter(slope, inter)
    nib.save(image, tmp_path / "scan.nii.gz")
    grey, _ = volumes.read_grey(tmp_path / "scan.nii.gz")
    assert np.abs(grey.astype(int) - GREY).max() <= 1


@pytest.mark.parametrize(
    ("slope", "inter"),
    [(0, 0), (np.nan, np.nan), (np.inf, 0), (0, np.nan), (1, np.nan), (1, np.inf)],
)
def test_a_slope_and_intercept_that_say_nothing_are_ignored(tmp_path, slope, inter):
    header = nib.Nifti1Image(HU, AFFINE).header
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, inter, 352
    path = tmp_path / "scan.nii"
    path.write_bytes(header.binaryblock + bytes(4) + HU.tobytes(order="F"))
    assert (volumes.read_grey(path)[0] == GREY).all()


WRONG_INTENSITIES = {
    "stored values": (HU + 1024, "intercept was probably not applied; subtract 1024"),
    "stored values, 12 bits": ((HU + 1024).clip(0, 4095).astype(np.uint16), "subtract 1024"),
    "stored values and padding": (
        np.where(CIRCLE[..., None], HU + 1024, -2000).astype(np.int16),
        "subtract 1024",
    ),
    "intercept twice": (HU - 1024, "applied twice; add 1024"),
    "intercept twice, clipped": ((HU - 1024).clip(-1024), "nothing is like soft tissue"),
    "0 to 1": (((window(-1250, 250) + 1250) / 1500).astype(np.float32), "scaled to 0..1;"),
    "0 to 1 by minimum and maximum": (
        ((HU + 1024) / 4095).astype(np.float32),
        "scaled to 0..1; multiply them by 255",
    ),
    "0 to 100": (((window(-1250, 250) + 1250) / 15).astype(np.float32), "scaled to 0..100"),
    "-1 to 1": ((HU / 1024).clip(-1, 1).astype(np.float32), "scaled to -1..1"),
    "soft-tissue window": (window(-160, 240), "clipped to another window"),
    "window from -450": (window(-450, 250), "clipped to another window"),
    "bytes of a wide window": (((HU + 1024.0) / 16).clip(0, 255).astype(np.uint8), "scaled"),
    "blank": (HU * 0 - 1000, "every voxel is -1000"),
    "NaN in the chest": (
        np.where((np.abs(HU + 350) < 60), np.nan, HU).astype(np.float32),
        "NaN or infinite values inside of the chest",
    ),
}


@pytest.mark.parametrize("name", WRONG_INTENSITIES)
def test_intensities_that_are_not_hu_or_grey_levels_are_refused(tmp_path, name):
    array, message = WRONG_INTENSITIES[name]
    path = write_volume(tmp_path / "scan.nii.gz", array, AFFINE)
    with pytest.raises(ValueError, match=message) as error:
        volumes.read_grey(path)
    assert str(error.value).startswith("scan.nii.gz: ")


def test_a_parameter_overrides_the_histogram(tmp_path):
    path = write_volume(tmp_path / "scan.nii.gz", window(-450, 250), AFFINE)
    grey, _ = volumes.read_grey(path, Reading(intensities="hu"))
    assert grey.max() > 200
    with pytest.raises(ValueError, match="are no grey levels: expected 0 to 255"):
        volumes.read_grey(path, Reading(intensities="grey"))


def _data_set(folder, names=("a", "b", "c"), images="images", masks="masks"):
    for number, name in enumerate(names):
        hu, lesion, _ = chest(number)
        write_volume(folder / images / f"{name}.nii.gz", hu, AFFINE)
        write_volume(folder / masks / f"{name}.nii.gz", lesion.astype(np.uint8), AFFINE)
    return folder


def _slice(folder, study, **options):
    study.create("demo", source="folder", dataset=str(folder))
    found, left_over = cases.pair_files(folder)
    return slicing.slice_cases(found, study, left_over=left_over, **options)


def test_the_same_voxels_under_two_names_are_refused_or_one_patient(tmp_path):
    folder = _data_set(tmp_path / "data")
    for kind in ("images", "masks"):
        (folder / kind / "a (1).nii.gz").write_bytes((folder / kind / "a.nii.gz").read_bytes())
    with pytest.raises(ValueError, match=r"a \(1\): has the same voxels as a: remove one"):
        _slice(folder, Study(tmp_path / "study"))
    table, left_out = _slice(folder, Study(tmp_path / "study"), strict=False)
    assert table["case"].tolist() == ["a", "b", "c"]
    assert list(left_out) == ["a (1)"]
    (folder / "patients.csv").write_text("case,patient\na,1\na (1),1\n")
    table, _ = _slice(folder, Study(tmp_path / "study"))
    assert len(table) == 4


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("case;patient\na;007\nb;007\n", "cp1252"),
        ("case,patient\r\n a ,007\r\nb.nii.gz,007 \r\n", "utf-8-sig"),
        ("Case\tPatient\na\t007\nb\t007\n", "utf-16"),
    ],
)
def test_patients_csv_as_excel_saves_it(tmp_path, text, encoding):
    folder = _data_set(tmp_path)
    (folder / "patients.csv").write_bytes(text.encode(encoding))
    assert [case.patient for case in find_cases(folder)] == ["007", "007", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,patient\n01,x\n", "lists cases that do not exist: 01. The cases are a, b, c"),
        ("case,patient\na,x\na,y\n", "gives two patients for a"),
        ("id,patient\na,x\n", "expected case and patient, with commas or semicolons"),
    ],
)
def test_rows_of_patients_csv_that_match_no_case_are_reported(tmp_path, text, message):
    folder = _data_set(tmp_path)
    (folder / "patients.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_cases(folder)


def _header(pixdim, forms=(0, 0)):
    """Return the bytes of a file without codes, or with a qform, and with a wrong spacing."""
    header = nib.Nifti1Image(HU, AFFINE).header
    header.set_qform(AFFINE, forms[0])
    header.set_sform(AFFINE if forms[1] else None, forms[1])
    header["pixdim"][1:4], header["vox_offset"] = pixdim, 352
    return header.binaryblock + bytes(4) + HU.tobytes(order="F")


@pytest.mark.parametrize("forms", [(0, 0), (1, 0)], ids=["no form", "qform"])
@pytest.mark.parametrize("pixdim", [(5.6, 5.6, 0), (-5.6, 5.6, 10), (5.6, np.nan, 10)])
def test_a_spacing_that_is_not_above_zero_is_refused(tmp_path, pixdim, forms):
    (tmp_path / "scan.nii").write_bytes(_header(pixdim, forms))
    with pytest.raises(ValueError, match=r"scan.nii has a spacing of .* mm: expected three"):
        volumes.read_grey(tmp_path / "scan.nii")


def test_with_an_sform_the_spacing_is_the_affines(tmp_path):
    (tmp_path / "scan.nii").write_bytes(_header((1, 1, 0), (0, 1)))
    _, header = volumes.read_grey(tmp_path / "scan.nii")
    assert geometry.spacing_mm(header) == (10, 5.6, 5.6)


def test_slices_first_and_a_wrong_unit_are_refused(tmp_path):
    first = write_volume(tmp_path / "first.nii.gz", HU.transpose(2, 1, 0), np.eye(4))
    with pytest.raises(ValueError, match=r"64 slices of 64 x 6 pixels.*ORIENTATION = \"SPL\""):
        volumes.read_grey(first)
    image = nib.Nifti1Image(HU, AFFINE)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "metre.nii")
    with pytest.raises(ValueError, match=r"10000 x 5600 x 5600 mm: expected .* unit right"):
        volumes.read_grey(tmp_path / "metre.nii")


@pytest.mark.parametrize("axes", ["RAS", "LPI", "PSR"])
def test_a_mask_in_another_storage_order_lies_in_the_same_place(tmp_path, axes):
    folder = _data_set(tmp_path)
    stored = nib.load(folder / "masks" / "a.nii.gz")
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(stored.affine), nib.orientations.axcodes2ornt(axes)
    )
    nib.save(stored.as_reoriented(turn), folder / "masks" / "a.nii.gz")
    pair = read_pair(find_cases(folder)[0])
    assert (pair.mask == LESION.T).all()


@pytest.mark.parametrize(("millimetres", "fits"), [(0.002, True), (0.05, True), (3, False)])
def test_rounded_affines_are_no_other_place(tmp_path, millimetres, fits):
    moved = AFFINE.copy()
    moved[0, 3] += millimetres
    headers = [nib.Nifti1Image(HU, affine).header for affine in (AFFINE, moved)]
    assert (geometry.mismatch(*headers) == "") == fits


@pytest.mark.parametrize("labels", [(1, 2), (1, 2, 3, 4, 5), (10, 11, 12, 13, 14)])
def test_every_label_of_a_lung_mask_is_lung(tmp_path, labels):
    scan = write_volume(tmp_path / "scan.nii.gz", HU, AFFINE)
    lobes = np.where(LUNGS, np.array(labels)[np.arange(64)[:, None, None] % len(labels)], 0)
    mask = write_volume(tmp_path / "lungs.nii.gz", lobes.astype(np.uint8), AFFINE)
    found = volumes.read_lung_mask(mask, nifti.read_header(scan))
    assert found.sum() == LUNGS.sum()


def test_labels_stored_with_a_float_slope_are_whole(tmp_path):
    path = write_volume(tmp_path / "mask.nii.gz", LESION * np.float32(0.9999999), AFFINE)
    assert (volumes.read_mask(path)[0] == LESION.T).all()


def test_the_labels_that_are_lesion_can_be_chosen(tmp_path):
    """A lung-and-infection mask: 1 and 2 are lungs, 3 is lesion."""
    labels = np.where(LESION, 3, np.where(LUNGS, 1 + (np.arange(64)[:, None, None] > 31), 0))
    path = write_volume(tmp_path / "mask.nii.gz", labels.astype(np.uint8), AFFINE)
    assert (volumes.read_mask(path, labels=[3])[0] == LESION.T).all()
    assert volumes.read_mask(path)[0].sum() == LUNGS.sum()


def test_a_lung_mask_in_place_of_lesions_gets_a_warning(tmp_path):
    folder = _data_set(tmp_path / "data")
    write_volume(folder / "masks" / "b.nii.gz", LUNGS.astype(np.uint8), AFFINE)
    table, _ = _slice(folder, Study(tmp_path / "study"))
    warnings = table.set_index("case")["warning"]
    assert warnings["b"].startswith("the mask covers 1")
    assert "LESION_LABELS chooses the labels" in warnings["b"]
    assert warnings.drop("b").tolist() == ["", ""]


NAMES = {  # folder and name of the image, of the mask, and the case
    "nnU-Net": ("imagesTr/ct_001_0000.nii.gz", "labelsTr/ct_001.nii.gz", "ct_001"),
    "MosMedData": ("images/study_0255.nii.gz", "masks/study_0255_mask.nii.gz", "study_0255"),
    "COVID-19-20": ("images/volume-A-3_ct.nii.gz", "masks/volume-A-3_seg.nii.gz", "volume-A-3"),
    "BIDS": ("images/sub-01_ct.nii.gz", "masks/sub-01_dseg.nii.gz", "sub-01"),
    "capitals": ("images/CT_1.NII.GZ", "masks/CT_1.Nii.gz", "CT_1"),
    "composed and not": ("images/Étude.nii.gz", "masks/E\u0301tude.nii.gz", "Étude"),
    "signs": (
        "images/it's [1] #2 100%.nii.gz",
        "masks/it's [1] #2 100%.nii.gz",
        "it's [1] #2 100%",
    ),
    "a UID": ("images/1.3.6.1.4.1.nii", "masks/1.3.6.1.4.1.nii", "1.3.6.1.4.1"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_paired(tmp_path, name):
    image, mask, case = NAMES[name]
    write_volume(tmp_path / "as.nii.gz", HU, AFFINE)
    write_volume(tmp_path / "mask.nii.gz", LESION.astype(np.uint8), AFFINE)
    for source, target in (("as.nii.gz", image), ("mask.nii.gz", mask)):
        (tmp_path / target).parent.mkdir()
        data = (tmp_path / source).read_bytes()
        if not target.lower().endswith(".gz"):
            data = gzip.decompress(data)
        (tmp_path / target).write_bytes(data)
    table, _ = _slice(tmp_path, Study(tmp_path / "study"))
    assert table["case"].tolist() == [case]
    with files.open_npz(tmp_path / "study" / "sliced_data" / f"{case}.npz") as arrays:
        assert (arrays["masks"] == LESION.T).all()


def _plain(tmp_path):
    return write_volume(tmp_path / "plain.nii", HU, AFFINE).read_bytes()


FILES = {
    "gzip of two members": lambda data: gzip.compress(data[:9999]) + gzip.compress(data[9999:]),
    "an empty last member": lambda data: gzip.compress(data) + gzip.compress(b""),
    "zeros at the end": lambda data: gzip.compress(data) + bytes(512),
    "something else at the end": lambda data: gzip.compress(data) + b"<html>",
    "compressed twice": lambda data: gzip.compress(gzip.compress(data)),
    "not compressed": lambda data: data,
    "something after the voxels": lambda data: data + b"rest",
    "an offset of 0": lambda data: data[:108] + bytes(4) + data[112:],
}


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", FILES)
def test_files_are_read_whatever_they_are_called(tmp_path, name, ending):
    path = tmp_path / f"scan{ending}"
    path.write_bytes(FILES[name](_plain(tmp_path)))
    assert (volumes.read_grey(path)[0] == GREY).all()
    assert nifti.read_header(path).get_data_shape() == HU.shape


def test_trailing_axes_of_one_are_dropped(tmp_path):
    for shape in ((64, 64, 6, 1), (64, 64, 6, 1, 1)):
        path = write_volume(tmp_path / "scan.nii.gz", HU.reshape(shape), AFFINE)
        assert (volumes.read_grey(path)[0] == GREY).all()


def test_half_of_a_pair_is_refused_with_the_conversion(tmp_path):
    nib.save(nib.Nifti1Pair(HU, AFFINE), tmp_path / "pair.img")
    nib.save(nib.AnalyzeImage(HU, AFFINE), tmp_path / "analyze.img")
    (tmp_path / "called.nii").write_bytes((tmp_path / "analyze.hdr").read_bytes())
    for name in ("pair.img", "pair.hdr", "analyze.hdr", "called.nii"):
        with pytest.raises(ValueError, match=r'one half of a pair .*nib.save\(nib.load\("'):
            volumes.read_grey(tmp_path / name)


WRONG_PARAMETERS = [
    ("window_hu", [250, -1250], "two numbers in HU, the lower one first"),
    ("window_hu", [250, 250], "the lower one first"),
    ("window_hu", 400, "two numbers in HU"),
    ("window_hu", ["-1250", "250"], "two numbers in HU"),
    ("step", 0, "an integer, 1 or higher"),
    ("step", 1.5, "an integer, 1 or higher"),
    ("step", True, "an integer, 1 or higher"),
    ("seed", -1, "an integer, 0 or higher"),
    ("size", 8, "an integer, 16 or higher"),
    ("folds", 2, "an integer, 3 or higher"),
    ("dataset", 202401, "a folder as text"),
    ("cases", 3, 'expected "report", "all" or a list'),
    ("intensities", "HU", "one of auto, hu, grey"),
    ("lesion_labels", [0], "whole numbers above 0"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG_PARAMETERS)
def test_wrong_parameters_are_refused_before_anything_is_written(tmp_path, name, value, message):
    with pytest.raises(ValueError, match=f"{name.upper()} is .*{message}"):
        plan_settings("demo", **{name: value})
    with pytest.raises(ValueError, match=message):
        Study(tmp_path / "study").create("demo", **{name: value})
    assert not (tmp_path / "study").exists()


def test_dicom_files_get_the_command_that_converts_them(tmp_path):
    folder = tmp_path / "series" / "1"
    folder.mkdir(parents=True)
    (folder / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(9))
    assert "but DICOM files: convert them with dcm2niix" in nifti.no_files(tmp_path)
    (folder / "called.nii").write_bytes(bytes(128) + b"DICM" + bytes(600))
    with pytest.raises(ValueError, match=r"called.nii is a DICOM file: .* dcm2niix -z y"):
        volumes.read_grey(folder / "called.nii")
    (tmp_path / "empty").mkdir()
    assert nifti.no_files(tmp_path / "empty") == f"no .nii or .nii.gz file in {tmp_path / 'empty'}"


def test_two_places_in_one_header_get_a_warning(tmp_path):
    header = nib.Nifti1Image(HU, AFFINE).header
    moved = AFFINE.copy()
    moved[0, 3] += 30
    header.set_qform(AFFINE, 1)
    header.set_sform(moved, 1)
    (warning,) = geometry.doubts(header)
    assert warning.startswith("its header names two places that are 30 mm apart: the sform")
    header.set_sform(AFFINE, 1)
    assert geometry.doubts(header) == []


def _four_axes(hu):
    padded = np.where(CIRCLE[..., None], hu, -3024)  # what many scanners write outside
    return nib.Nifti1Image(padded.astype(np.int16)[..., None], AFFINE).to_bytes()


def _nan_around(hu):
    image = nib.Nifti1Image(np.where(CIRCLE[..., None], hu, np.nan).astype(np.float32), AFFINE)
    image.header["scl_slope"], image.header["scl_inter"] = 1, np.nan
    return image.header.binaryblock + bytes(4) + np.asarray(image.dataobj).tobytes(order="F")


@pytest.mark.parametrize(
    ("name", "make"), [("scan.nii.gz", _four_axes), ("scan.nii", _nan_around)]
)  # the first: four axes, padding, and not compressed in spite of its name
def test_notebook_01_slices_by_hand_what_the_library_reads(tmp_path, name, make):
    scan = tmp_path / "data" / "images" / name
    scan.parent.mkdir(parents=True)
    scan.write_bytes(make(HU))
    write_volume(tmp_path / "data" / "masks" / name, LESION.astype(np.uint8), AFFINE)
    study = Study(tmp_path / "study")
    parameters = {"SOURCE": "folder", "DATASET": str(tmp_path / "data")}
    (made,) = notebooks.run_notebooks(study, parameters, ["01"])
    assert made.exists()
    assert study.path("cases").exists()


def test_the_first_scan_that_can_be_read_is_shown(tmp_path):
    bad, good = tmp_path / "a.nii", tmp_path / "b.nii"
    bad.write_bytes(b"no scan")
    write_volume(good, HU, AFFINE)
    path, grey, _ = volumes.read_first([bad, good])
    assert path == good
    assert (grey == GREY).all()
    with pytest.raises(ValueError, match=r"a\.nii is not a NIfTI file"):
        volumes.read_first([bad])


def test_an_unusual_slope_is_named():
    header = nib.Nifti1Image(HU, AFFINE).header
    for slope in (1, 0.9999999, 0.06, np.nan):
        header["scl_slope"], header["scl_inter"] = slope, 0
        assert intensities.unusual_slope(header) == []
    header["scl_slope"] = 1.25
    (warning,) = intensities.unusual_slope(header)
    assert warning.startswith("its numbers are multiplied by 1.25 (scl_slope)")


@pytest.mark.parametrize("name", ["a.Nii.gz", "a.NII", "a.nii.GZ"])
def test_masks_keep_a_name_with_capitals(tmp_path, name):
    header = nib.Nifti1Image(HU, AFFINE).header
    nifti.write_mask(tmp_path / name, LESION.T, header)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (volumes.read_mask(tmp_path / name)[0] > 0).sum() == LESION.sum()


def test_a_folder_of_pairs_gets_the_line_that_converts_them(tmp_path):
    nib.Nifti1Pair(HU, AFFINE).to_filename(tmp_path / "a.img")
    assert 'nib.save(nib.load("a.img"), "a.nii.gz")' in nifti.no_files(tmp_path)
    (tmp_path / "a.img").unlink()
    with pytest.raises(ValueError, match=r"a\.img is not here, so find it or"):
        nifti.read_header(tmp_path / "a.hdr")

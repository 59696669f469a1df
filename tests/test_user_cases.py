"""Twenty-seven inputs that users have really had, through notebook 01's slicing or covseg predict.

Each is drawn here, after a public report in a forum; `test_real_inputs` has more of each kind.
"""

import gzip
import re
import unicodedata

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_volume
from test_real_inputs import AFFINE, CIRCLE, HU, LESION, LUNGS, chest

from covseg_lib import files
from covseg_lib.__main__ import main
from covseg_lib.data import cases, slicing
from covseg_lib.images import nifti
from covseg_lib.settings import DEFAULT_READING, Reading
from covseg_lib.study import Study

MASK = LESION.astype(np.uint8)


@pytest.fixture
def predict(trained_once, tmp_path):
    """A function that segments a scan by `covseg predict`: its output, and the probabilities."""

    def run(scan, *options):
        mask, levels = tmp_path / "out" / "mask.nii.gz", tmp_path / "out" / "levels.nii.gz"
        command = ["predict", scan, "--out", mask, "--probabilities", levels, *options]
        command += ["--run", trained_once.path("run", run="dice").parent]
        mask.unlink(missing_ok=True)
        done = CliRunner().invoke(main, list(map(str, command)))
        assert done.exit_code in (0, 1), done.output
        assert "Traceback" not in done.output
        if done.exit_code:
            assert not mask.exists()
            return done.output, None
        written, read = nib.load(mask), nifti.read_header(scan)
        assert written.shape == read.get_data_shape()
        assert np.allclose(written.affine, read.get_best_affine())
        return done.output, np.asanyarray(nib.load(levels).dataobj)

    return run


def _save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def _plain(folder):
    return write_volume(folder / "plain.nii", HU, AFFINE)


def _data_set(folder, names=("a", "b", "c")):
    for number, name in enumerate(names):
        hu, lesion, _ = chest(number)
        write_volume(folder / "images" / f"{name}.nii.gz", hu, AFFINE)
        write_volume(folder / "masks" / f"{name}.nii.gz", lesion.astype(np.uint8), AFFINE)
    return folder


def _slice(folder, reading=DEFAULT_READING, **options):
    """Slice a data set; return cases.csv, {case: reason} of what was left out, and the study."""
    study = Study(folder.parent / "study")
    study.create("demo", source="folder", dataset=str(folder))
    found, left_over = cases.pair_files(folder)
    table, wrong = slicing.slice_cases(found, study, reading, left_over=left_over, **options)
    return table, wrong, study


def _sliced(study, case):
    with files.open_npz(study.path("sliced_case", case=case)) as arrays:
        return arrays["images"], arrays["masks"]


def test_affine_noise(tmp_path):
    folder = _data_set(tmp_path / "data")
    noise = np.random.default_rng(0).normal(0, 1e-5, (4, 4)) * [[1], [1], [1], [0]]
    noise[:3, 3] = 2e-3
    for name, change in (("a", noise), ("b", np.eye(4) * 0 + np.eye(4, k=3) * 0.02)):
        write_volume(folder / "masks" / f"{name}.nii.gz", MASK, AFFINE + change)
    assert len(_slice(folder)[0]) == 3


TURN = np.array([[np.cos(0.5), -np.sin(0.5), 0], [np.sin(0.5), np.cos(0.5), 0], [0, 0, 1]])
ORDERS = {  # array of voxels (x, y, z) -> array in the file, and its affine
    "one slice": (lambda a: a[..., 3:4], AFFINE),
    "two slices": (lambda a: a[..., 2:4], AFFINE),
    "1024 x 1024": (lambda a: np.kron(a[..., 3:4], np.ones((16, 16, 1), a.dtype)), AFFINE),
    "coronal": (lambda a: a.transpose(0, 2, 1), AFFINE[:, [0, 2, 1, 3]]),
    "long pixels": (lambda a: a, np.diag([-0.5, -1.5, 10, 1])),
    "oblique": (lambda a: a, nib.affines.from_matvec(TURN @ AFFINE[:3, :3])),
}


@pytest.mark.slow  # four notebooks
def test_no_lesion_in_the_test_slices(tmp_path):
    """02 says that no test slice has a lesion, and 06 ends, with a score of 0 or 1 for all models.

    Six scans of eight slices, each with a lesion in one: with the seed 5, the report's split has
    none in its four test slices.
    """
    for number in range(6):
        hu, lesion, _ = chest(number)
        lesion[..., np.arange(6) != 3] = False
        hu, lesion = (np.concatenate([array, array[..., :2]], -1) for array in (hu, lesion))
        for folder, array in (("images", hu), ("masks", lesion.astype(np.uint8))):
            write_volume(tmp_path / "data" / folder / f"ct_{number}.nii.gz", array, AFFINE)
    values = {"PROFILE": "demo", "DATASET": tmp_path / "data", "SPLIT": "slice", "SEED": 5}
    values |= {"SIZE": 16, "FOLDS": 3, "EPOCHS": 1}
    command = ["run", "--study", tmp_path / "study"]
    command += [text for name, value in values.items() for text in ("-p", name, value)]
    command += [text for number in ("01", "02", "05", "06") for text in ("--only", number)]
    done = CliRunner().invoke(main, list(map(str, command)))
    assert done.exit_code == 0, done.output
    executed = (tmp_path / "study" / "notebooks" / "02_preprocess.ipynb").read_text()
    assert "no test slice of the slice split has a lesion" in executed
    scores = files.read_csv(tmp_path / "study" / "scores" / "scores.csv")
    assert set(scores["dice"]) <= {0, 1}


@pytest.mark.parametrize("name", ORDERS)
def test_few_slices_and_orders(tmp_path, name):
    store, affine = ORDERS[name]
    for folder, array in (("images", HU), ("masks", MASK)):
        write_volume(tmp_path / "data" / folder / "a.nii.gz", store(array), affine)
    _, masks = _sliced(_slice(tmp_path / "data")[2], "a")
    expected = (store(MASK).transpose(0, 2, 1) if name == "coronal" else store(MASK)).T
    assert (masks == expected).all()


def test_five_dimensions(tmp_path, predict):
    expected = predict(_plain(tmp_path))[1]
    for shape in ((*HU.shape, 1), (*HU.shape, 1, 1)):
        scan = write_volume(tmp_path / "scan.nii.gz", HU.reshape(shape), AFFINE)
        assert (predict(scan)[1] == expected).all()


def test_form_disagrees(tmp_path, predict):
    image, moved = nib.Nifti1Image(HU, AFFINE), AFFINE.copy()
    moved[0, 3] += 30
    image.set_qform(AFFINE, 1)
    image.set_sform(moved, 1)
    output, _ = predict(_save(tmp_path / "scan.nii.gz", image))
    assert "WARNING: scan.nii.gz: its header names two places" in output
    folder = _data_set(tmp_path / "data")
    mask = nib.Nifti1Image(MASK, None)
    mask.set_qform(AFFINE, 1)
    mask.set_sform(None, 0)
    _save(folder / "masks" / "a.nii.gz", mask)
    assert len(_slice(folder)[0]) == 3


PACKED = {
    "two members": lambda data: gzip.compress(data[:9999]) + gzip.compress(data[9999:]),
    "empty last member": lambda data: gzip.compress(data) + gzip.compress(b""),
    "zeros at the end": lambda data: gzip.compress(data) + bytes(99),
    "garbage at the end": lambda data: gzip.compress(data) + b"garbage",
}


@pytest.mark.parametrize("name", PACKED)
def test_gz_members(tmp_path, predict, name):
    plain, scan = _plain(tmp_path), tmp_path / "scan.nii.gz"
    scan.write_bytes(PACKED[name](plain.read_bytes()))
    assert (predict(scan)[1] == predict(plain)[1]).all()


def test_gz_that_is_none(tmp_path, predict):
    plain = _plain(tmp_path)
    expected, data = predict(plain)[1], plain.read_bytes()
    for name, content, said in (
        ("a.nii.gz", data, "a.nii.gz is not compressed, though its name says otherwise"),
        ("b.nii", gzip.compress(data), "b.nii is compressed, though its name says otherwise"),
        ("c.nii.gz", gzip.compress(gzip.compress(data)), ""),
    ):
        (tmp_path / name).write_bytes(content)
        output = predict(tmp_path / name)
        assert said in output[0]
        assert (output[1] == expected).all()


def test_header_extension(tmp_path, predict):
    itk = pytest.importorskip("SimpleITK")
    expected = predict(_plain(tmp_path))[1]
    image = nib.Nifti1Image(HU, AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 130))
    scan = _save(tmp_path / "scan.nii", image)
    assert (predict(scan)[1] == expected).all()
    assert itk.ReadImage(str(tmp_path / "out" / "mask.nii.gz")).GetSize() == HU.shape


def test_hu_float_0_to_1(tmp_path, predict):
    scaled = ((HU.clip(-1250, 250) + 1250) / 1500).astype(np.float32)
    scan = write_volume(tmp_path / "scan.nii.gz", scaled, AFFINE)
    assert "scaled to 0..1; multiply them by 255" in predict(scan)[0]


def _hu_kinds():
    stored = nib.Nifti1Image((HU + 1024).astype(np.uint16), AFFINE)
    stored.header.set_slope_inter(1, -1024)
    return {
        "float64": nib.Nifti1Image(HU.astype(float), AFFINE),
        "int32": nib.Nifti1Image(HU.astype(np.int32), AFFINE),
        "big-endian": nib.Nifti1Image(HU.astype(">i2"), AFFINE),
        "an intercept": stored,
        "NIfTI-2": nib.Nifti2Image(HU, AFFINE),
        "-3024 around": nib.Nifti1Image(np.where(CIRCLE[..., None], HU, -3024), AFFINE),
    }


@pytest.mark.parametrize("name", _hu_kinds())
def test_hu_kinds_that_are_one(tmp_path, predict, name):
    scan = _save(tmp_path / "scan.nii.gz", _hu_kinds()[name])
    difference = np.abs(predict(scan)[1] - predict(_plain(tmp_path))[1])
    assert difference.max() < (0.05 if name == "-3024 around" else 1e-6)


def test_hu_raw_with_padding(tmp_path, predict):
    stored = np.where(CIRCLE[..., None], HU + 1024, -2000).astype(np.int16)
    scan = write_volume(tmp_path / "scan.nii.gz", stored, AFFINE)
    assert "intercept was probably not applied; subtract 1024" in predict(scan)[0]


def test_hu_uint16_offset(tmp_path):
    folder = _data_set(tmp_path / "data")
    stored = (HU + 1024).clip(0, 4095).astype(np.uint16)
    write_volume(folder / "images" / "a.nii.gz", stored, AFFINE)
    with pytest.raises(ValueError, match=r"1 of 3 cases .*\n  a: .*subtract 1024"):
        _slice(folder)


@pytest.mark.parametrize("labels", [(1, 2, 3, 4, 5), (10, 11, 12, 13, 14)])
def test_lobes_as_lungs(tmp_path, predict, labels):
    scan = _plain(tmp_path)
    lobes = np.where(LUNGS, np.array(labels)[np.arange(64)[:, None, None] % 5], 0)
    said = [
        predict(scan, "--lungs", write_volume(tmp_path / "lungs.nii.gz", lungs, AFFINE))[0]
        for lungs in (LUNGS.astype(np.uint8), lobes.astype(np.uint8))
    ]
    shares = [re.findall(r"lesions .* % of the lungs", text) for text in said]
    assert len(shares[0]) == 1
    assert shares[0] == shares[1]


def test_lungs_as_lesions(tmp_path):
    folder = _data_set(tmp_path / "data")
    labels = np.where(LESION, 3, np.where(LUNGS, 1 + (np.arange(64)[:, None, None] > 31), 0))
    write_volume(folder / "masks" / "a.nii.gz", labels.astype(np.uint8), AFFINE)
    table, _, study = _slice(folder)
    assert "LESION_LABELS chooses the labels" in table["warning"][0]
    assert _sliced(study, "a")[1].sum() == LUNGS.sum()
    _, _, study = _slice(folder, Reading(lesion_labels=(1, 3)))
    assert _sliced(study, "b")[1].sum() > 0
    write_volume(folder / "masks" / "b.nii.gz", MASK * 3, AFFINE)
    write_volume(folder / "masks" / "c.nii.gz", MASK * 3, AFFINE)
    _, _, study = _slice(folder, Reading(lesion_labels=(3,)))
    assert (_sliced(study, "a")[1] == LESION.T).all()


def test_mask_in_other_order(tmp_path):
    folder = _data_set(tmp_path / "data")
    image = nib.load(folder / "masks" / "a.nii.gz")
    _save(folder / "masks" / "a.nii.gz", nib.as_closest_canonical(image))
    _, _, study = _slice(folder)
    assert (_sliced(study, "a")[1] == LESION.T).all()


def test_masks_all_empty(tmp_path):
    folder = _data_set(tmp_path / "data")
    for name in "abc":
        write_volume(folder / "masks" / f"{name}.nii.gz", MASK * 0, AFFINE)
    with pytest.raises(ValueError, match="none of the 3 masks has a lesion"):
        _slice(folder)


def test_names_that_end_in_two_numbers(tmp_path):
    folder = _data_set(tmp_path / "data", [f"site_1_{number:04}" for number in range(3)])
    _data_set(folder, ["covid_2020_001", "covid_2020_002"])
    for number, path in enumerate(sorted((folder / "images").iterdir())):  # five different scans
        write_volume(path, chest(10 + number)[0], AFFINE)
    assert _slice(folder)[0]["patient"].nunique() == 5


def test_names_with_signs(tmp_path):
    names = ["a b", "it's [1]", '50% "#2"', "1.2.840.113619.2"]
    folder = _data_set(tmp_path / "My Drive (1)" / "Étude #2 100%", names)
    table, _, study = _slice(folder)
    assert sorted(table["case"]) == sorted(names)
    assert all(_sliced(study, name)[1].any() for name in names)


def test_nan_outside_the_circle(tmp_path, predict):
    scan = np.where(CIRCLE[..., None], HU, np.nan).astype(np.float32)
    air = np.where(CIRCLE[..., None], HU, -1000)
    found = [
        predict(write_volume(tmp_path / name, array, AFFINE))[1]
        for name, array in (("nan.nii.gz", scan), ("air.nii.gz", air))
    ]
    assert (found[0] == found[1]).all()


def test_nnunet_names(tmp_path):
    for number in range(3):
        hu, lesion, _ = chest(number)
        write_volume(tmp_path / "data" / "imagesTr" / f"ct_{number}_0000.nii.gz", hu, AFFINE)
        mask = lesion.astype(np.uint8)
        write_volume(tmp_path / "data" / "labelsTr" / f"ct_{number}.nii.gz", mask, AFFINE)
    assert _slice(tmp_path / "data")[0]["case"].tolist() == ["ct_0", "ct_1", "ct_2"]


def test_the_command_line_prints_the_warnings_of_01(tmp_path):
    folder = _data_set(tmp_path / "data", "ab")
    write_volume(folder / "masks" / "a.nii.gz", LUNGS.astype(np.uint8), AFFINE)
    command = ["run", "--study", tmp_path / "s", "--only", "01", "-p", "DATASET", folder]
    done = CliRunner().invoke(main, list(map(str, command)))
    assert done.exit_code == 0, done.output
    assert "WARNING: a: the mask covers" in done.output
    assert "WARNING: b" not in done.output
    assert str(tmp_path / "s" / "notebooks") in done.output


def test_one_bad_of_four(tmp_path):
    folder = _data_set(tmp_path / "data", "abcd")
    write_volume(folder / "images" / "b.nii.gz", HU * np.float32(np.nan), AFFINE)
    with pytest.raises(ValueError, match=r"1 of 4 cases cannot be used.*\n.*\n.*STRICT = False"):
        _slice(folder)
    table, wrong, _ = _slice(folder, strict=False)
    assert table["case"].tolist() == ["a", "c", "d"]
    assert "b" in wrong
    for name in "acd":
        (folder / "masks" / f"{name}.nii.gz").unlink()
    with pytest.raises(ValueError, match="4 of 4 cases") as error:
        _slice(folder)
    assert "STRICT" not in str(error.value)  # nothing would be left


def test_pairs_and_wrong_magic(tmp_path, predict):
    nib.save(nib.Nifti1Pair(HU, AFFINE), tmp_path / "pair.img")
    nib.save(nib.AnalyzeImage(HU, AFFINE), tmp_path / "analyze.img")
    data = (tmp_path / "analyze.hdr").read_bytes() + (tmp_path / "analyze.img").read_bytes()
    (tmp_path / "analyze.nii").write_bytes(data)
    data = bytearray(_plain(tmp_path).read_bytes())
    data[344:348] = b"ni1\0"
    (tmp_path / "magic.nii").write_bytes(data)
    for name in ("pair.img", "pair.hdr", "analyze.nii", "magic.nii"):
        assert 'nib.save(nib.load("' in predict(tmp_path / name)[0], name


@pytest.mark.parametrize("pixdim", [(5.6, 5.6, 0), (-5.6, 5.6, 10), (5.6, 5.6, np.nan)])
def test_pixdim_zero_or_negative(tmp_path, predict, pixdim):
    data = bytearray(_plain(tmp_path).read_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    header["sform_code"] = header["qform_code"] = 0
    header["pixdim"][1:4] = pixdim
    data[:348] = header.binaryblock
    (tmp_path / "scan.nii").write_bytes(data)
    assert "mm: expected three numbers above 0" in predict(tmp_path / "scan.nii")[0]


def test_same_scan_twice(tmp_path):
    folder = _data_set(tmp_path / "data")
    for kind in ("images", "masks"):
        data = (folder / kind / "a.nii.gz").read_bytes()
        (folder / kind / "a (1).nii.gz").write_bytes(data)
    with pytest.raises(ValueError, match=r"a \(1\): has the same voxels as a: remove one"):
        _slice(folder)


def test_slices_first(tmp_path, predict):
    scan = write_volume(tmp_path / "scan.nii.gz", HU.T, np.diag([10, 5.6, 5.6, 1]))
    assert "it has 64 slices of 64 x 6 pixels" in predict(scan)[0]
    output, levels = predict(scan, "--orientation", "SPL")
    assert (levels == predict(_plain(tmp_path))[1].T).all(), output
    assert (
        "ORIENTATION is 'SPX': expected three letters" in predict(scan, "--orientation", "spx")[0]
    )


def test_sound_data_set(tmp_path):
    table, wrong, _ = _slice(_data_set(tmp_path / "data", "abcde"))
    assert len(table) == 5
    assert wrong == {}
    assert table["warning"].eq("").all()


def test_upper_case_names(tmp_path):
    folder = _data_set(tmp_path / "data", "abcd")
    for kind in ("images", "masks"):
        (folder / kind / "a.nii.gz").rename(folder / kind / "A.NII.GZ")
        (folder / kind / "b.nii.gz").rename(folder / kind / "b.Nii.gz")
        data = gzip.decompress((folder / kind / "c.nii.gz").read_bytes())
        (folder / kind / "c.nii.gz").unlink()
        (folder / kind / "c.NII").write_bytes(data)
    assert _slice(folder)[0]["case"].tolist() == ["A", "b", "c", "d"]


def test_composed_names(tmp_path):
    folder = _data_set(tmp_path / "data", ["Müller", "b", "c"])
    mask = folder / "masks" / "Müller.nii.gz"
    mask.rename(mask.with_name(unicodedata.normalize("NFD", mask.name)))
    assert "Müller" in _slice(folder)[0]["case"].tolist()

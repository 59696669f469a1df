"""Whole volumes: masks lie where the scan lies, and the command line reports errors."""

import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import LPS, write_volume

from covseg_lib.__main__ import main
from covseg_lib.images import geometry, nifti, volumes
from covseg_lib.scans import jobs, segment, segmenters
from covseg_lib.scans.segmenters import Segmenter
from covseg_lib.settings import Reading
from covseg_lib.training import models, run_folder
from covseg_lib.training.recipes import Recipe

TURNED = nib.eulerangles.euler2mat(
    0.3, -0.2, 0.1
)  # orthonormal: ITK takes nothing else as direction
OBLIQUE = nib.affines.from_matvec(TURNED @ np.diag([0.7, 0.8, 2.5]), [90, -120, 20])
FLIPPED = nib.affines.from_matvec(TURNED @ np.diag([-0.7, 0.8, -2.5]), [90, -120, 20])
SIDEWAYS = OBLIQUE[:, [2, 0, 1, 3]]
FORMS = {"both": (1, 2), "qform only": (1, 0), "sform only": (0, 4), "neither": (0, 0)}


def _scan(path, affine, codes=(1, 1), kind=nib.Nifti1Image, dtype=np.int16):
    """Write a volume of 6 x 7 x 5 in HU and return its array."""
    array = np.random.default_rng(0).integers(-1000, 200, (6, 7, 5)).astype(dtype)
    image = kind(array, None)
    image.header.set_qform(affine, codes[0])
    image.header.set_sform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 250
    nib.save(image, path)
    return array


def _write_all_ones(folder, header):
    ones = np.ones(geometry.upright_shape(header), np.uint8)
    nifti.write_mask(folder / "mask.nii.gz", ones, header, "lesion mask by run dice")
    nifti.write_probabilities(folder / "map.nii", ones * 51, header)


@pytest.mark.parametrize("codes", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    "affine", [LPS, OBLIQUE, FLIPPED, SIDEWAYS], ids=["LPS", "oblique", "flipped", "sideways"]
)
def test_simpleitk_finds_mask_and_map_where_the_scan_is(tmp_path, affine, codes):
    """Only NIfTI-1, because SimpleITK does not read NIfTI-2; the next test compares both."""
    itk = pytest.importorskip("SimpleITK")
    _scan(tmp_path / "scan.nii.gz", affine, codes)
    _write_all_ones(tmp_path, nifti.read_header(tmp_path / "scan.nii.gz"))
    scan, mask, levels = (
        itk.ReadImage(str(tmp_path / name)) for name in ("scan.nii.gz", "mask.nii.gz", "map.nii")
    )
    for found in (mask, levels):
        assert found.GetSize() == scan.GetSize()
        assert found.GetOrigin() == scan.GetOrigin()
        assert found.GetSpacing() == scan.GetSpacing()
        assert found.GetDirection() == scan.GetDirection()
    assert mask.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    assert np.allclose(itk.GetArrayFromImage(levels), 0.2)


@pytest.mark.parametrize("codes", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_mask_and_map_keep_the_header_of_the_scan(tmp_path, codes, kind):
    _scan(tmp_path / "scan.nii.gz", OBLIQUE, codes, kind)
    _write_all_ones(tmp_path, nifti.read_header(tmp_path / "scan.nii.gz"))
    scan, mask, levels = (
        nib.load(tmp_path / name) for name in ("scan.nii.gz", "mask.nii.gz", "map.nii")
    )
    assert type(mask) is type(levels) is type(scan) is kind
    other = {"datatype", "bitpix", "scl_slope", "scl_inter", "descrip", "cal_max"}
    for name in set(scan.header.keys()) - other:
        assert (
            mask.header[name].tobytes()
            == levels.header[name].tobytes()
            == scan.header[name].tobytes()
        ), name
    assert mask.header["descrip"].item() == b"covseg, not a medical device: lesion mask by run dice"
    assert mask.header["cal_max"] == 0
    assert (mask.get_data_dtype(), levels.get_data_dtype()) == (np.uint8, np.uint8)
    assert (mask.get_fdata() == 1).all()
    assert np.allclose(levels.get_fdata(), 0.2)


def test_a_long_name_of_a_run_leaves_the_warning_in_79_bytes(tmp_path):
    _scan(tmp_path / "scan.nii", LPS)
    header = nifti.read_header(tmp_path / "scan.nii")
    nifti.write_mask(
        tmp_path / "m.nii", np.zeros((5, 7, 6)), header, f"lesion mask by run {'x' * 200}"
    )
    description = nib.load(tmp_path / "m.nii").header["descrip"].item()
    assert description.startswith(b"covseg, not a medical device: lesion mask by run xxx")
    assert len(description) == 79


@pytest.mark.parametrize("dtype", [np.int16, ">i2", np.float32, np.float64])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("affine", [LPS, SIDEWAYS], ids=["LPS", "sideways"])
@pytest.mark.parametrize("step", [1, 2])
def test_plane_by_plane_is_as_whole(tmp_path, dtype, ending, affine, step):
    path = tmp_path / f"scan{ending}"
    _scan(path, affine, dtype=dtype)
    whole, _ = volumes.read_volume(path, step)
    assert (volumes.read_grey(path, Reading(step=step))[0] == volumes.to_grey(whole)).all()


def test_slope_and_grey_levels_are_read(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (6, 7, 5)).astype(np.uint8)
    write_volume(tmp_path / "grey.nii.gz", array)
    assert (volumes.read_grey(tmp_path / "grey.nii.gz")[0] == array.transpose(2, 1, 0)).all()
    image = nib.Nifti1Image(array, LPS)
    image.header.set_slope_inter(8, -1024)
    nib.save(image, tmp_path / "slope.nii.gz")
    in_hu = volumes.to_grey(array.transpose(2, 1, 0) * np.float32(8) - np.float32(1024))
    assert (volumes.read_grey(tmp_path / "slope.nii.gz")[0] == in_hu).all()


class Bright:
    """A network for slices of 16 x 16 that predicts lesion where it is brighter than the mean."""

    input_shape = (None, 16, 16, 1)

    def predict_on_batch(self, images):
        assert len(images) <= segment.BATCH
        return (images > 0).astype(np.float32) * 0.8


@pytest.fixture
def bright():
    """A segmenter of `Bright`, step 1, of slices of 16 x 16 that are not resized."""
    made_with = {"size": 16, "step": 1, "window_hu": [-1250, 250], "mean": 128.0, "std": 50.0}
    made_with["case_means"] = [-10.0, 10.0]
    recipe = Recipe("bright", "bright", "dice", "slice", 0, 1, made_with, 2, 2, 8, 1e-3, "auto", 0)
    run = models.Run(run_folder.RunState(recipe), Bright())
    return Segmenter((run,), (run,), run.rules)


def _block(path, slices=3, affine=LPS):
    """Write a scan of 16 x 16 in HU, in which 4 x 3 x 2 = 24 voxels are bright."""
    array = np.full((16, 16, slices), -900, np.int16)
    array[2:6, 5:8, :2] = 100
    return write_volume(path, array, affine)


@pytest.mark.parametrize("slices", [2, 8, 9, 20])
def test_bright_voxels_are_predicted_for_any_number_of_slices(bright, tmp_path, slices):
    path = _block(tmp_path / "scan.nii.gz", slices)
    found = segment.segment_scan(bright, path)
    nifti.write_mask(tmp_path / "mask.nii.gz", found.mask, found.header)
    expected = np.asarray(nib.load(path).dataobj) == 100
    assert (np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj) == expected).all()


def test_lesion_volume_by_hand(bright, tmp_path):
    """24 voxels of 1 x 1 x 2 mm are 0.048 ml; 12 of the 48 voxels of the lungs are predicted."""
    lungs = np.zeros((16, 16, 3), np.uint8)
    lungs[2:6, 5:8, 1] = 1
    lungs[2:6, 5:8, 2] = 2
    lungs[6:12, 5:9, 2] = 2
    job = jobs.ScanJob(
        _block(tmp_path / "scan.nii.gz"),
        tmp_path / "mask.nii.gz",
        write_volume(tmp_path / "lungs.nii.gz", lungs),
        tmp_path / "map.nii.gz",
    )
    found = jobs.segment_job(bright, job)
    assert found.ml == pytest.approx(0.048)
    assert found.percent == pytest.approx(25)
    assert np.unique(nib.load(job.probabilities).get_fdata()).round(4).tolist() == [0, 0.8]
    assert (
        b"lesion probability by run bright" in nib.load(job.probabilities).header["descrip"].item()
    )
    assert jobs.segment_job(bright, replace(job, lungs=None)).percent == 100  # lungs: the same run


@pytest.mark.parametrize(
    ("unit", "ml"), [("mm", 0.03), ("unknown", 0.03), ("meter", 3e7), ("micron", 3e-11)]
)
def test_a_voxels_volume_follows_affine_and_unit(unit, ml):
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.diag([-2, 3, 5, 1])).header
    header.set_xyzt_units(unit)
    assert geometry.voxel_ml(header) == pytest.approx(ml)
    header["pixdim"][1:4] = 1  # the affine counts, here as well
    assert np.prod(geometry.spacing_mm(header)) / 1000 == pytest.approx(ml)


@pytest.fixture
def folder_of_run(trained_study):
    return trained_study.path("run", run="dice").parent


def _predict(*arguments):
    done = CliRunner().invoke(main, ["predict", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_one_scan_and_a_folder_by_the_command_line(folder_of_run, tiny_dataset, tmp_path):
    """One study is enough: a scan; a folder with a broken scan, a scan without lungs and three
    sound ones.
    """
    images = tiny_dataset / "CT_scans"
    masks, maps, lungs = (tmp_path / name for name in ("masks", "maps", "lungs"))
    scan, out = images / "scan_1.nii.gz", tmp_path / "new" / "mask.nii.gz"
    done = _predict(scan, "--run", folder_of_run, "--out", out)
    assert done.exit_code == 0, done.output
    mask = segment.segment_scan(segmenters.read_segmenter([folder_of_run]), scan).mask
    assert f"{out}: lesions {mask.sum() * 0.002:.1f} ml, " in done.output
    assert "Not a medical device." in done.output
    for number in range(1, 5):
        write_volume(lungs / f"scan_{number}.nii.gz", np.ones((20, 16, 5), np.uint8))
    (images / "scan_3.nii.gz").write_text("no volume")
    (images / "notes.txt").write_text("no scan")
    options = ["--out", masks, "--probabilities", maps, "--lungs", lungs]
    done = _predict(images, "--run", folder_of_run, *options)
    assert done.exit_code == 1
    assert "scan_3.nii.gz: no mask: scan_3.nii.gz is not a NIfTI file" in done.output
    assert f"scan_5.nii.gz: no mask: no lung mask {lungs / 'scan_5.nii.gz'}: add" in done.output
    assert "Error: 2 of 5 scans have no mask, see above" in done.output
    assert done.output.count("% of the lungs") == 3
    names = [f"scan_{number}.nii.gz" for number in (1, 2, 4)]
    assert (
        sorted(path.name for path in masks.iterdir())
        == sorted(path.name for path in maps.iterdir())
        == names
    )
    assert (masks / "scan_1.nii.gz").read_bytes() == out.read_bytes()
    levels, mask = (nib.load(folder / "scan_1.nii.gz").get_fdata() for folder in (maps, masks))
    assert ((levels >= 0.5) == mask).all()
    away = folder_of_run.rename(tmp_path / "copied")
    assert _predict(scan, "--run", away, "--out", out).exit_code == 0


def _refused(tmp_path, *arguments):
    """Return the last line of the command's error; it must not write into `tmp_path`."""
    before = sorted(tmp_path.rglob("*"))
    done = _predict(*arguments, *([] if "--run" in arguments else ["--run", tmp_path / "no_run"]))
    assert done.exit_code in (1, 2)
    assert sorted(tmp_path.rglob("*")) == before
    return done.output.splitlines()[-1]


def test_wrong_names_are_refused_before_the_run_is_loaded(tmp_path):
    scan = _block(tmp_path / "scans" / "scan.nii.gz")
    folder, mask = scan.parent, tmp_path / "mask.nii.gz"
    link = tmp_path / "link.nii.gz"
    link.symlink_to(scan)
    same = tmp_path / "same"
    same.symlink_to(folder)
    named = r"--out is .*mask.png: expected a file whose name ends in .nii or .nii.gz"
    for message, arguments in {
        named: [scan, "--out", tmp_path / "mask.png"],
        r"--out is .*scans: expected a file": [scan, "--out", folder],
        r"--probabilities is .*map: expected a file": [
            scan,
            "--out",
            mask,
            "--probabilities",
            tmp_path / "map",
        ],
        r"--lungs is .*scans: expected a file": [scan, "--out", mask, "--lungs", folder],
        r"--out is .*mask.nii.gz: expected .*scans is a folder, so a folder too": [
            folder,
            "--out",
            mask,
        ],
        r"scan.nii.gz is a scan or a lung mask and would be overwritten": [scan, "--out", scan],
        r"link.nii.gz is a scan or a lung": [scan, "--out", link],
        r"scans.scan.nii.gz is a scan or": [folder, "--out", folder],
        r"written to .*mask.nii.gz: choose two places": [
            scan,
            "--out",
            mask,
            "--probabilities",
            mask,
        ],
        r"written to .*new.nii: choose two places": [
            scan,
            "--out",
            folder / "new.nii",
            "--probabilities",
            same / "new.nii",
        ],
        r"no run in .*no_run \(no run.json\): .*study/models/dice": [scan, "--out", mask],
        r"scan.nii.gz is a scan or a lung mask": [scan, "--out", mask, "--table", scan],
        r"'nowhere.nii' does not exist": ["nowhere.nii", "--out", mask],
        r"cannot be written": [scan, "--out", link / "mask.nii.gz"],
    }.items():
        assert re.search(message, _refused(tmp_path, *arguments)), message
    (tmp_path / "empty").mkdir()
    assert "no .nii or .nii.gz file in" in _refused(
        tmp_path, tmp_path / "empty", "--out", tmp_path / "masks"
    )


def test_a_wrong_scan_is_refused_and_an_existing_mask_is_kept(folder_of_run, tmp_path):
    (tmp_path / "work").mkdir()
    mask = tmp_path / "work" / "mask.nii.gz"
    mask.write_text("existing mask")
    array = np.random.default_rng(0).integers(-1000, 0, (6, 7, 5)).astype(np.int16)
    nan = array.astype(np.float32)
    nan[3, 3, 2] = np.nan
    shorter = write_volume(tmp_path / "short.nii.gz", np.ones((6, 7, 4), np.uint8))
    moved = write_volume(
        tmp_path / "moved.nii.gz", np.ones((6, 7, 5), np.uint8), LPS + np.eye(4, k=3)
    )
    empty = write_volume(tmp_path / "empty.nii.gz", np.zeros((6, 7, 5), np.uint8))
    scan = write_volume(tmp_path / "sound.nii.gz", array)
    colour = np.zeros((6, 7, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    (tmp_path / "cut.nii.gz").write_bytes(scan.read_bytes()[:-30])
    (tmp_path / "text.nii").write_text("x" * 999)
    header = nib.load(scan).header
    header["scl_slope"], header["scl_inter"] = 2, np.nan
    (tmp_path / "slope.nii").write_bytes(header.binaryblock + bytes(4) + array.tobytes())
    header["scl_inter"], header["sform_code"], header["qform_code"], header["quatern_b"] = (
        0,
        0,
        1,
        2,
    )
    (tmp_path / "turned.nii").write_bytes(header.binaryblock + bytes(4) + array.tobytes())
    for message, arguments in {
        r"4d.nii holds an array of shape \(6, 7, 5, 2\)": [
            write_volume(tmp_path / "4d.nii", np.stack([array] * 2, 3))
        ],
        r"nan.nii: holds NaN": [write_volume(tmp_path / "nan.nii", nan)],
        r"blank.nii: every voxel is 0": [write_volume(tmp_path / "blank.nii", array * 0)],
        r"raw.nii: .*neither Hounsfield": [write_volume(tmp_path / "raw.nii", array + 2000)],
        r"colour.nii holds voxels of .*one number a voxel": [
            write_volume(tmp_path / "colour.nii", colour)
        ],
        r"cut.nii.gz is cut off": [tmp_path / "cut.nii.gz"],
        r"text.nii is not a NIfTI file": [tmp_path / "text.nii"],
        r"slope.nii has a wrong NIfTI header": [tmp_path / "slope.nii"],
        r"turned.nii has a wrong NIfTI header": [tmp_path / "turned.nii"],
        r"short.nii.gz: the image is \(6, 7, 5\) and its lung mask \(6, 7, 4\)": [
            scan,
            "--lungs",
            shorter,
        ],
        r"moved.nii.gz: image and lung mask lie in different": [scan, "--lungs", moved],
        r"lung mask empty.nii.gz: it is empty": [scan, "--lungs", empty],
        r"lung mask sound.nii.gz: holds .*expected whole labels": [scan, "--lungs", scan],
    }.items():
        error = _refused(tmp_path / "work", *arguments, "--run", folder_of_run, "--out", mask)
        assert re.search(message, error), error
    assert mask.read_text() == "existing mask"


def test_a_run_that_is_unfinished_or_damaged_is_refused(folder_of_run, tmp_path):
    scan, mask = _block(tmp_path / "work" / "scan.nii.gz"), tmp_path / "work" / "mask.nii.gz"
    asked = [tmp_path / "work", scan, "--run", folder_of_run, "--out", mask]
    weights = folder_of_run / "best.weights.h5"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    assert "is damaged, or its files are not of one run" in _refused(*asked)
    weights.write_bytes(whole)
    state = folder_of_run / "run.json"
    text = state.read_text()
    state.write_text(text.replace('"base_filters": 2', '"base_filters": 4'))
    assert "is damaged, or its files are not of one run" in _refused(*asked)
    state.write_text(text.replace('"normalisation"', '"normalization"'))
    assert "run.json does not describe a run" in _refused(*asked)
    state.write_text(text[:50])
    assert "is damaged" in _refused(*asked)
    state.write_text(text.replace('"finished": true', '"finished": false'))
    assert "has not finished (2 of 2 epochs are done): run its notebook again" in _refused(*asked)


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path, disk):
    scan = _block(tmp_path / "scan.nii.gz")
    with disk(tmp_path / "disk", "size=1m") as remount:
        (tmp_path / "disk" / "mask.nii.gz").write_text("old")
        remount("ro")
        error = _refused(tmp_path / "disk", scan, "--out", tmp_path / "disk" / "mask.nii.gz")
        assert "Read-only file system" in error
        assert "choose another place" in error

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from covseg_lib import colab, parallel
from covseg_lib.training import devices


@pytest.mark.parametrize(
    ("device", "capabilities", "bfloat16", "precision"),
    [
        ("cpu:0", [], False, "float32"),
        ("cpu:0", [], True, "mixed_bfloat16"),
        ("cpu:0", [9.0], False, "float32"),  # a GPU that Keras' backend cannot use
        ("gpu:0", [7.5], True, "mixed_float16"),  # T4
        ("gpu:0", [8.0, 7.5], True, "mixed_float16"),
        ("gpu:0", [6.0], True, "float32"),  # P100
        ("gpu:0", [9.0], False, "mixed_bfloat16"),  # H100
        ("gpu:0", [], True, "float32"),  # not NVIDIA's
        ("tpu:0", [], False, "mixed_bfloat16"),
    ],
)
def test_auto_takes_what_the_hardware_is_fast_in(
    monkeypatch, device, capabilities, bfloat16, precision
):
    monkeypatch.setattr(devices, "list_devices", lambda: [device])
    monkeypatch.setattr(colab, "gpu_capabilities", lambda: capabilities)
    monkeypatch.setattr(devices, "_has_fast_bfloat16", lambda: bfloat16)
    assert devices.dtype_policy("auto") == precision


@pytest.mark.parametrize(
    ("said", "fast"),
    [
        ("vendor_id : AuthenticAMD\nflags : avx2 avx512_bf16", True),
        ("vendor_id : GenuineIntel\nflags : avx512_bf16 amx_bf16", True),
        ("vendor_id : GenuineIntel\nflags : avx512_bf16", False),
        ("vendor_id : AuthenticAMD\nflags : avx2", False),
    ],
)
def test_a_cpu_that_knows_bfloat16_is_not_always_fast_in_it(tmp_path, said, fast):
    (tmp_path / "cpuinfo").write_text(said)
    assert devices._has_fast_bfloat16(tmp_path / "cpuinfo") == fast
    assert not devices._has_fast_bfloat16(tmp_path / "missing")


def test_what_is_asked_for_is_taken_and_nonsense_refused():
    assert devices.dtype_policy("mixed_float16") == "mixed_float16"
    with pytest.raises(ValueError, match="no precision 'fp8': choose one of auto, float32"):
        devices.dtype_policy("fp8")


def test_kernels_share_compiled_networks_on_a_gpu_only(monkeypatch):
    variables = {"HOME": "/home/alice", "TF_XLA_FLAGS": "mine"}
    monkeypatch.setattr(os, "environ", variables)
    monkeypatch.setattr(colab, "has_gpu", lambda: False)
    parallel.prepare_kernels()
    assert variables.keys() == {"HOME", "TF_XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL"}
    monkeypatch.setattr(colab, "has_gpu", lambda: True)
    parallel.prepare_kernels()
    assert variables["JAX_COMPILATION_CACHE_DIR"] == "/home/alice/.cache/covseg/jax"
    assert variables["TF_XLA_FLAGS"] == "mine"


COMPILED = """
import logging, os, re, sys
os.environ["KERAS_BACKEND"] = "jax"
import jax
jax.config.update("jax_log_compiles", True)
found = []

class Note(logging.Handler):
    def emit(self, record):
        found.extend(re.findall(r"^Compiling (?:jit.)?((?:train|test)_step)", record.getMessage()))

logging.getLogger("jax").addHandler(Note())
from dataclasses import replace
from covseg_lib.training import devices, recipes, trainer
from covseg_lib.data.slices import open_slices
from covseg_lib.study import Study
study = Study(sys.argv[1])
slices = open_slices(study)
options = {"base_filters": 2, "batch_size": 4, "precision": "float32"}
recipe = replace(recipes.make_recipe(study, "dice", epochs=2, **options), depth=1)
host = trainer.train(recipe, slices, log=lambda line: None)
print(sorted(found))
devices.list_devices = lambda: ["gpu:0"]
recipe = replace(recipe, run="on_device")
with trainer.open_training(recipe, slices, log=lambda line: None) as training:
    assert isinstance(training.training_slices.images.images, jax.Array)
    assert isinstance(training.batches[0][0], jax.Array)
device = trainer.train(recipe, slices, resume=False, log=lambda line: None)
columns = ["loss", "dice", "val_loss", "val_dice"]
assert (device.history[columns] == host.history[columns]).all(axis=None)
"""


@pytest.mark.slow
def test_jax_compiles_once_and_slices_may_lie_on_the_device(tiny_study, project):
    """Of 15 training slices the last batch has 3 of its own, of 5 validation slices none is 4."""
    pytest.importorskip("jax")
    command = [sys.executable, "-c", COMPILED, str(tiny_study.root)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.stdout == "['test_step', 'test_step', 'train_step']\n", done.stderr


TWO_DEVICES = """
import sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from covseg_lib.data.slices import open_slices
from covseg_lib.study import Study
from covseg_lib.training import devices, recipes, trainer
assert len(devices.list_devices()) == 2
slices = open_slices(Study(sys.argv[1]))
recipe = recipes.make_recipe(slices.study, "dice", epochs=1, batch_size=2)
with trainer.open_training(recipe, slices, log=lambda line: None) as training:
    seen = [image.tobytes() for images, _ in training.validation for image in np.array(images)]
expected = [image.tobytes() for image in slices.subset("validation")[0]]
print(sorted(seen) == sorted(expected))
"""


def test_with_two_devices_each_validation_slice_counts_once(tiny_study, project):
    """There are 5 of them, in batches of 2, so the last batch cannot be halved."""
    command = [sys.executable, "-c", TWO_DEVICES, str(tiny_study.root)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_where_memory_is_limited_one_notebook_runs_at_a_time(monkeypatch):
    monkeypatch.setattr(colab, "has_gpu", lambda: False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=64e9))
    monkeypatch.delenv("MEM_LIMIT", raising=False)
    assert parallel.default_workers() == parallel.MAX_NOTEBOOKS
    monkeypatch.setenv("MEM_LIMIT", "2147483648")  # on Binder, whose computers have more
    assert parallel.default_workers() == 1

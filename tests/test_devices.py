import os
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from covseg_lib import colab, parallel
from covseg_lib.study import Study
from covseg_lib.training import devices, models


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
from covseg_lib.study import Study
study = Study(sys.argv[1])
options = {"base_filters": 2, "batch_size": 4, "precision": "float32"}
recipe = replace(recipes.make_recipe(study, "dice", epochs=2, **options), depth=1)
host = trainer.train(recipe, study, log=lambda line: None)
print(sorted(found))
devices.list_devices = lambda: ["gpu:0"]
recipe = replace(recipe, run="on_device")
with trainer.open_training(recipe, study, log=lambda line: None) as training:
    assert isinstance(training.batches.images.images, jax.Array)
    assert isinstance(training.batches[0][0], jax.Array)
device = trainer.train(recipe, study, resume=False, log=lambda line: None)
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


TRAINED = """
import os, sys
from dataclasses import replace
backend, count, root, *objectives = sys.argv[1:]
os.environ["KERAS_BACKEND"] = backend
if backend == "jax":
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"
else:
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * int(count)
    tf.config.set_logical_device_configuration(cpu, parts)
from covseg_lib.training import devices, models, recipes, trainer
from covseg_lib.study import Study
if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
    import jax, keras
    # older releases of JAX choose none by themselves
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize()
study = Study(root)
for objective in objectives:
    options = {"base_filters": 4, "batch_size": 2, "learning_rate": 1e-2, "precision": "float32"}
    # a network this small learns from some seeds only
    options["seed"] = {"tensorflow": 0, "jax": 2}[backend]
    recipe = recipes.make_recipe(study, objective, f"{objective}_{count}", epochs=5, **options)
    trainer.train(replace(recipe, depth=2), study, log=lambda line: None)
print(len(devices.list_devices()))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "objectives"), [("tensorflow", ["accuracy", "dice"]), ("jax", ["dice"])]
)
def test_two_devices_give_the_scores_of_one(tiny_study, project, backend, objectives):
    pytest.importorskip(backend)
    for count in ("1", "2"):
        command = [sys.executable, "-c", TRAINED, backend, count, str(tiny_study.root), *objectives]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert done.stdout == f"{count}\n", done.stderr
    for objective in objectives:
        one, two = (models.load_run(tiny_study, f"{objective}_{count}") for count in (1, 2))
        assert (one.timing["devices"], two.timing["devices"]) == (1, 2)
        # scores of the training slices: the few validation slices score by luck
        best_of_one, best_of_two = (run.history[objective].max() for run in (one, two))
        assert best_of_two == pytest.approx(best_of_one, abs=0.03)
        assert best_of_one > 0.9


@pytest.mark.slow
def test_two_processes_joined_by_jax_train_as_one(tiny_study, project):
    pytest.importorskip("jax")
    roots = [tiny_study.root.with_name(f"machine_{number}") for number in range(2)]
    joined = os.environ | {"KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        joined["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = f"127.0.0.1:{free.getsockname()[1]}"
    machines = []
    for number, root in enumerate(roots):
        shutil.copytree(tiny_study.root, root)
        command = [sys.executable, "-c", TRAINED, "jax", "1", str(root), "dice"]
        environment = joined | {"KERAS_DISTRIBUTION_PROCESS_ID": str(number)}
        machines.append(
            subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.DEVNULL)
        )
    assert [machine.wait() for machine in machines] == [0, 0]
    first, second = (models.load_run(Study(root), "dice_1") for root in roots)
    assert first.timing["devices"] == 2
    assert first.history["loss"].tolist() == second.history["loss"].tolist()
    assert first.history["dice"].max() > 0.9


def test_where_memory_is_limited_one_notebook_runs_at_a_time(monkeypatch):
    monkeypatch.setattr(colab, "has_gpu", lambda: False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=64e9))
    monkeypatch.delenv("MEM_LIMIT", raising=False)
    assert parallel.default_workers() == parallel.MAX_NOTEBOOKS
    monkeypatch.setenv("MEM_LIMIT", "2147483648")  # on Binder, whose computers have more
    assert parallel.default_workers() == 1

"""The number format that suits the machine, and how its device is fed."""

import contextlib
import ctypes
from pathlib import Path
from typing import Any

import keras
import numpy as np

from covseg_lib import colab
from covseg_lib.settings import PRECISIONS

LARGEST_ON_DEVICE = 1e9  # bytes: 3,800 slices of 256 px
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def dtype_policy(precision: str = "auto") -> str:
    """Return the Keras dtype policy of a precision; "auto" is the fastest on this machine.

    That is mixed_bfloat16 on GPUs with compute capability 8 or higher (Ampere), TPUs, CPUs with
    AMX and AMD CPUs with avx512_bf16 (Intel CPUs with it, but without AMX, are slower in it than in
    float32: docs/training.md); mixed_float16 on GPUs with capability 7 (V100, T4); else float32.
    Raises ValueError for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    device = list_devices()[0].split(":")[0]
    if device == "gpu":
        capability = min(colab.gpu_capabilities(), default=0)
        if capability >= 8:
            return "mixed_bfloat16"
        return "mixed_float16" if capability >= 7 else "float32"
    return "mixed_bfloat16" if device == "tpu" or _has_fast_bfloat16() else "float32"


def _has_fast_bfloat16(cpu_info=Path("/proc/cpuinfo")):
    if not cpu_info.exists():  # not Linux
        return False
    flags = cpu_info.read_text()
    return "amx_bf16" in flags or ("avx512_bf16" in flags and "AuthenticAMD" in flags)


def list_devices() -> list[str]:
    """Return the devices that Keras finds, as ["gpu:0", "gpu:1"]; the first one trains."""
    if keras.backend.backend() == "torch":
        import torch

        return ["gpu:0" if torch.cuda.is_available() else "cpu:0"]
    return keras.distribution.list_devices()


def compiles_each_size() -> bool:
    """Return whether each size of a batch compiles the network again, as XLA on GPUs does."""
    return keras.backend.backend() == "jax" or not list_devices()[0].startswith("cpu")


def on_device(array: np.ndarray) -> Any:
    """Return an array or memory map; for JAX on a GPU, a copy in the GPU's memory if it fits.

    Then batches are taken there, and no pixels travel to the GPU during the training.
    """
    on_gpu = keras.backend.backend() == "jax" and not list_devices()[0].startswith("cpu")
    if not on_gpu or array.nbytes > LARGEST_ON_DEVICE:
        return array
    return keras.ops.convert_to_tensor(array)


def tensorflow_dataset(batches: keras.utils.PyDataset) -> Any:
    """Return batches as a tf.data.Dataset that does not tune itself and reads two batches ahead."""
    import tensorflow as tf

    signature = [tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in batches[0]]
    dataset = tf.data.Dataset.from_generator(
        lambda: (batches[number] for number in range(len(batches))),
        output_signature=tuple(signature),
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    count = tf.data.experimental.assert_cardinality(len(batches))
    return dataset.apply(count).prefetch(2).with_options(options)


def reuse_freed_memory() -> None:
    """Let glibc keep freed memory for the next step.

    When TensorFlow is fed by a generator it makes glibc return freed memory to the system at every
    step, which nearly doubles the time of an epoch on a CPU (docs/training.md).
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or not glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)

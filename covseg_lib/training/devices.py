"""The number format that suits the machine, and training on all of its GPUs."""

import contextlib
import ctypes
import functools
from collections.abc import Iterator
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
    """Return the devices that Keras trains on, as ["gpu:0", "gpu:1"]; with PyTorch, the first."""
    if keras.backend.backend() == "torch":
        import torch

        return ["gpu:0" if torch.cuda.is_available() else "cpu:0"]
    return keras.distribution.list_devices()


@contextlib.contextmanager
def all_devices() -> Iterator[tuple[int, int, int]]:
    """Build, compile and fit a model in such a block to train it on all devices of the machine.

    Each batch is shared by the devices: with TensorFlow by tf.distribute.MirroredStrategy (soft
    Dice is then computed for each device's part of a batch), with JAX by
    keras.distribution.DataParallel. With one device the block changes nothing.

    Yields
    ------
    (number of devices, index of this process, number of processes); a batch must be a multiple of
    the first
    """
    names = tuple(list_devices())
    if len(names) == 1:
        scope = contextlib.nullcontext()
    elif keras.backend.backend() == "jax":
        scope = _jax_data_parallel(names).scope()
    else:
        scope = _tensorflow_mirrored(names).scope()
    with scope:
        yield len(names), *_jax_process()


def _jax_process():
    """Return index and number of the processes that keras.distribution.initialize joined."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


@functools.cache
def _jax_data_parallel(names):
    return keras.distribution.DataParallel(devices=list(names), auto_shard_dataset=False)


@functools.cache
def _tensorflow_mirrored(names):
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(list(names))


def make_adam(
    learning_rate: float,
    clipnorm: float,
    policy: str = "float32",
    weight_decay: float | None = None,
) -> keras.optimizers.Optimizer:
    """Return Adam that clips the gradient of all weights together to the length `clipnorm`.

    With `weight_decay` it is AdamW. For mixed_float16 the loss is scaled, because small gradients
    would become 0.
    """
    if keras.backend.backend() == "tensorflow" and len(list_devices()) > 1:
        adam = _tensorflow_adam_for_replicas(learning_rate, clipnorm, weight_decay)
    else:
        adam = keras.optimizers.Adam(
            learning_rate, global_clipnorm=clipnorm, weight_decay=weight_decay
        )
    return keras.optimizers.LossScaleOptimizer(adam) if policy == "mixed_float16" else adam


def _tensorflow_adam_for_replicas(learning_rate, clipnorm, weight_decay):
    """Return Adam for MirroredStrategy, where Keras' own would clip each device's gradient."""
    import tensorflow as tf

    class AdamForReplicas(keras.optimizers.Adam):
        def apply(self, grads, trainable_variables=None):
            replica = tf.distribute.get_replica_context()
            whole, _ = tf.clip_by_global_norm(replica.all_reduce("sum", grads), clipnorm)
            # Keras sums over the devices again
            parts = [grad / replica.num_replicas_in_sync for grad in whole]
            super().apply(parts, trainable_variables)

    return AdamForReplicas(learning_rate, weight_decay=weight_decay)


def compiles_each_size() -> bool:
    """Return whether each size of a batch compiles the network again, as XLA on GPUs does."""
    return keras.backend.backend() == "jax" or not list_devices()[0].startswith("cpu")


def on_device(array: np.ndarray) -> Any:
    """Return an array or memory map; for JAX with one GPU, a copy in the GPU's memory if it fits.

    Then batches are taken there, and no pixels travel to the GPU during the training.
    """
    alone = keras.backend.backend() == "jax" and len(list_devices()) == 1
    if not alone or list_devices()[0].startswith("cpu") or array.nbytes > LARGEST_ON_DEVICE:
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

"""What the machine trains with: the number format it is fast in, and all of its GPUs at once."""

import contextlib
from pathlib import Path

import keras

from covseg_lib import colab
from covseg_lib.study import PRECISIONS


def precision(asked="auto"):
    """Return the Keras dtype policy for what is asked: itself, or for "auto" the fastest that this machine computes in.

    That is mixed_bfloat16 on GPUs of compute capability 8 and above (Ampere), TPUs, CPUs with AMX and AMD's with
    avx512_bf16 (Intel's without AMX know it too, and are slower in it than in float32: docs/training.md);
    mixed_float16 on GPUs of capability 7 (V100, T4); else float32. Raises ValueError for what is no precision.
    """
    if asked not in PRECISIONS:
        raise ValueError(f"no precision {asked!r}: choose one of {', '.join(PRECISIONS)}")
    if asked != "auto":
        return asked
    device = devices()[0].split(":")[0]
    if device == "gpu":
        capability = min(colab.gpu_capabilities(), default=0)
        return "mixed_bfloat16" if capability >= 8 else "mixed_float16" if capability >= 7 else "float32"
    return "mixed_bfloat16" if device == "tpu" or _cpu_is_fast_in_bfloat16() else "float32"


def devices():
    """Return the devices that Keras' backend trains on, as ["gpu:0", "gpu:1"]; of a PyTorch backend the first."""
    if keras.backend.backend() == "torch":
        import torch

        return ["gpu:0" if torch.cuda.is_available() else "cpu:0"]
    return keras.distribution.list_devices()


@contextlib.contextmanager
def all_devices():
    """Share out each batch of a model that is built and trained in this block among all `devices`.

    By the framework's own means: tf.distribute.MirroredStrategy (soft Dice is then pooled over each device's part of a
    batch), or keras.distribution.DataParallel on JAX. Yields how many they are (a batch must be a multiple of it),
    which of several processes this is, and how many those are.
    """
    found = devices()
    if len(found) == 1:
        together = contextlib.nullcontext()
    elif keras.backend.backend() == "jax":
        together = keras.distribution.DataParallel(devices=found, auto_shard_dataset=False).scope()
    else:
        together = _tensorflow_mirrored(found).scope()
    with together:
        yield len(found), *_jax_process()


def _jax_process():
    """Return (0, 1), or where keras.distribution.initialize joined several machines which one this is of how many."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def adam(learning_rate, clipnorm):
    """Return Adam that cuts the gradient of a batch to the length `clipnorm`, also where devices share the batch."""
    if keras.backend.backend() == "tensorflow" and len(devices()) > 1:
        return _tensorflow_adam_of_replicas(learning_rate, clipnorm)
    return keras.optimizers.Adam(learning_rate, global_clipnorm=clipnorm)


def _tensorflow_mirrored(found):
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(found)


def _tensorflow_adam_of_replicas(learning_rate, clipnorm):
    """Return Adam for `_tensorflow_mirrored`, in which Keras' own would clip each device's part of a gradient."""
    import tensorflow as tf

    class AdamOfReplicas(keras.optimizers.Adam):
        def apply(self, grads, trainable_variables=None):
            replica = tf.distribute.get_replica_context()
            whole, _ = tf.clip_by_global_norm(replica.all_reduce("sum", grads), clipnorm)
            # Keras sums over the devices again
            super().apply([grad / replica.num_replicas_in_sync for grad in whole], trainable_variables)

    return AdamOfReplicas(learning_rate)


def _cpu_is_fast_in_bfloat16(about=Path("/proc/cpuinfo")):
    if not about.exists():  # not Linux
        return False
    said = about.read_text()
    return "amx_bf16" in said or ("avx512_bf16" in said and "AuthenticAMD" in said)

"""What a training says of itself while it runs: a line an epoch, what has gone wrong, TensorBoard's logs."""

import numpy as np

PATIENCE = 3  # epochs without any lesion found on the validation slices, until that is called a collapse


def best_epoch(history, objective):
    """Return the number of the epoch whose weights are kept, the first of the best; from 1 on."""
    return int(history["epoch"][history[f"val_{objective}"].argmax()])


def lines(history, recipe):
    """Return what there is to say of the last epoch of a history (a list of rows): a line, and a warning if need be."""
    now, metric = history[-1], recipe.objective
    usual = [row["seconds"] for row in history[1:]] or [now["seconds"]]  # the first builds the network as well
    left = (recipe.epochs - now["epoch"]) * np.median(usual) / 60
    line = (
        f"epoch {now['epoch']:3d}/{recipe.epochs}  loss {now['loss']:.4f}  {metric} {now[metric]:.4f}  "
        f"val_loss {now['val_loss']:.4f}  val_{metric} {now[f'val_{metric}']:.4f}  "
        f"{now['seconds']:.1f} s, {'less than ' if len(history) == 1 else ''}{left:.1f} min left"
    )
    return [line, _collapse(recipe)] if _has_just_collapsed(history) else [line]


def refuse_nan(row, recipe):
    """Raise FloatingPointError where an epoch's loss is no number: nothing can be learned from there on."""
    if not np.isfinite(row["loss"]):
        raise FloatingPointError(
            f"the loss is {row['loss']} in epoch {row['epoch']}: the training has broken down; backup and best "
            f"weights are those of the epochs before. Try a smaller LEARNING_RATE (now {recipe.learning_rate:g}), or "
            f'PRECISION = "float32" (now {recipe.precision}), with another RUN or with RESUME = False'
        )


def _has_just_collapsed(history):
    """Tell whether `PATIENCE` epochs have passed, and no more, since a lesion was last marked."""
    empty = [row["val_marked"] == 0 for row in history]
    return all(empty[-PATIENCE:]) and len(empty) >= PATIENCE and (len(empty) == PATIENCE or not empty[-PATIENCE - 1])


def _collapse(recipe):
    return (
        f"WARNING: no lesion marked on any validation slice for {PATIENCE} epochs. The model has collapsed to the "
        f"empty mask and seldom comes back. Try another SEED (now {recipe.seed}), half or twice the LEARNING_RATE (now "
        f"{recipe.learning_rate:g}) or a larger BATCH_SIZE (now {recipe.batch_size}: a batch without a lesion teaches "
        "that there are none), with another RUN or with RESUME = False"
    )


def tensorboard_tensorflow(folder):
    """Return a watcher of a training that logs each epoch for TensorBoard in `folder`; needs TensorFlow itself."""

    def watch(history, model):
        import tensorflow as tf

        row = history.iloc[-1]
        with tf.summary.create_file_writer(str(folder)).as_default(step=int(row["epoch"])):
            for name, value in row.items():
                side, kind = ("validation", name[4:]) if name.startswith("val_") else ("train", name)
                tf.summary.scalar(f"{kind}/{side}", value)

    return watch

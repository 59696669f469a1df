"""The report's U-Net (section 2.3.2)."""

import math

import keras
from keras import layers


def build_unet(
    size: int = 256,
    base_filters: int = 32,
    depth: int = 4,
    lesion_prior: float = 0.01,
    dtype: str = "float32",
    channels: int = 1,
    norm_layer: str = "none",
) -> keras.Model:
    """Build the U-Net: a slice goes in, the probability of a lesion comes out for every pixel.

    Each of the `depth` blocks on the way down has two convolutions and halves the picture, while
    the number of filters doubles. Each block on the way up doubles the picture again, and gets the
    output of the block of the same size on the way down by concatenation. With the defaults it is
    the report's network: 32 to 512 filters, 7,759,521 parameters.

    Parameters
    ----------
    size : int
        Rows and columns of a slice, a multiple of 2**depth.
    base_filters, depth : int
        Filters of the first block; blocks on each way.
    lesion_prior : float
        The share of lesion pixels that the untrained network predicts (bias of the last layer).
        With 0.5 (a bias of 0) the network first learns "no lesion anywhere", and may stay there.
    dtype : str
        Keras' dtype policy of all layers but the last, whose sigmoid is computed in float32.
    channels : int
        The slice itself is the only one in the report.
    norm_layer : "none", "instance" or "group"
        After each 3 x 3 convolution: nothing, as in the report; or GroupNormalization, with each
        filter for itself ("instance"), or filters in up to 8 groups.

    Returns
    -------
    keras.Model
        (B, size, size, channels) normalised slices -> (B, size, size, 1) probabilities, float32.

    Raises
    ------
    ValueError
        `size` cannot be halved `depth` times.

    Notes
    -----
    Ronneberger et al., U-Net, MICCAI 2015, with `same` convolutions instead of cropping. Kernels
    are initialised for ReLU as in He et al., ICCV 2015.
    """
    if size % 2**depth:
        raise ValueError(
            f"size {size} cannot be halved {depth} times: expected a multiple of {2**depth}"
        )
    inputs = keras.Input((size, size, channels))  # (B, 256, 256, 1)
    x, skips = inputs, []
    for level in range(depth):  # (B, 256, 256, 32) ... (B, 32, 32, 256)
        x = _convolve_twice(x, base_filters * 2**level, dtype, norm_layer)
        skips.append(x)
        x = layers.MaxPooling2D(2, dtype=dtype)(x)
    x = _convolve_twice(x, base_filters * 2**depth, dtype, norm_layer)  # (B, 16, 16, 512)
    for level in reversed(range(depth)):  # (B, 32, 32, 256) ... (B, 256, 256, 32)
        filters = base_filters * 2**level
        x = layers.Conv2DTranspose(
            filters, 2, strides=2, kernel_initializer="he_normal", dtype=dtype
        )(x)
        x = layers.Concatenate(dtype=dtype)([skips[level], x])
        x = _convolve_twice(x, filters, dtype, norm_layer)
    prior = keras.initializers.Constant(math.log(lesion_prior / (1 - lesion_prior)))
    outputs = layers.Conv2D(1, 1, activation="sigmoid", bias_initializer=prior, dtype="float32")(x)
    return keras.Model(inputs, outputs, name="unet")  # (B, 256, 256, 1)


def _convolve_twice(x, filters, dtype, norm_layer):
    for _ in range(2):
        x = layers.Conv2D(
            filters,
            3,
            padding="same",
            activation="relu" if norm_layer == "none" else None,
            kernel_initializer="he_normal",
            dtype=dtype,
        )(x)
        if norm_layer != "none":
            groups = filters if norm_layer == "instance" else math.gcd(filters, 8)
            x = layers.GroupNormalization(groups, dtype=dtype)(x)
            x = layers.ReLU(dtype=dtype)(x)
    return x

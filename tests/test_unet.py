import keras
import numpy as np
import pytest

from covseg_lib.training.unet import build_unet


@pytest.mark.parametrize("size", [64, 256])
def test_the_reports_network_has_7759521_parameters(size):
    assert build_unet(size).count_params() == 7_759_521


def test_a_slice_in_gives_a_probability_a_pixel():
    model = build_unet(16, base_filters=2, depth=2)
    out = keras.ops.convert_to_numpy(model(np.zeros((3, 16, 16, 1), "float32")))
    assert out.shape == (3, 16, 16, 1)
    assert out == pytest.approx(0.01, abs=1e-4)  # of an empty picture: the lesions' prior


def test_the_filters_double_and_halve():
    filters = [
        layer.filters
        for layer in build_unet(16, base_filters=3, depth=2).layers
        if hasattr(layer, "filters")
    ]
    assert filters == [3, 3, 6, 6, 12, 12, 6, 6, 6, 3, 3, 3, 1]


def test_a_size_that_cannot_be_halved_is_an_error():
    with pytest.raises(ValueError, match="multiple of 16"):
        build_unet(100)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_weights_and_the_last_sigmoid_are_float32_in_every_precision(dtype):
    model = build_unet(16, base_filters=2, depth=2, dtype=dtype)
    assert model.layers[1].compute_dtype == dtype.removeprefix("mixed_")
    assert model.layers[-1].compute_dtype == "float32"
    assert {weights.dtype for weights in model.weights} == {"float32"}


@pytest.mark.parametrize(("norm_layer", "groups"), [("instance", [4, 16]), ("group", [4, 8])])
def test_normalisation_layers_follow_each_convolution(norm_layer, groups):
    model = build_unet(16, base_filters=4, depth=2, channels=3, norm_layer=norm_layer)
    assert model.input_shape == (None, 16, 16, 3)
    found = [layer for layer in model.layers if isinstance(layer, keras.layers.GroupNormalization)]
    assert len(found) == 10
    assert [found[0].groups, found[4].groups] == groups
    plain = build_unet(16, base_filters=4, depth=2, channels=3)
    added = sum(2 * layer.gamma.shape[0] for layer in found)
    assert model.count_params() == plain.count_params() + added


def test_an_instance_norm_forgets_brightness_and_contrast():
    model = build_unet(16, base_filters=2, depth=2, norm_layer="instance")
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 1)).astype("float32")
    inner = keras.Model(model.input, model.layers[2].output)
    first, second = (keras.ops.convert_to_numpy(inner(x)) for x in (image, 3 * image))
    assert np.abs(first - second).max() < 0.01

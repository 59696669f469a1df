"""The classical methods of Chapter 1, on images with a known answer."""

import numpy as np
import pytest

from covseg_lib.evaluation import metrics
from covseg_lib.lessons import classical

SQUARE = np.zeros((60, 60), bool)
SQUARE[20:32, 24:36] = True
PICTURE = np.where(SQUARE, 200, 50).astype(np.uint8)


def _noisy(seed=0):
    noise = np.random.default_rng(seed).normal(0, 8, PICTURE.shape)
    return (PICTURE + noise).clip(0, 255).astype(np.uint8)


def test_a_threshold_keeps_what_is_brighter():
    image = np.array([[10, 20], [30, 40]])
    assert classical.threshold(image, 20).tolist() == [[False, False], [True, True]]


def test_otsu_separates_two_levels():
    assert (classical.otsu(_noisy()) == SQUARE).all()


def test_a_lung_field_is_the_dark_region_inside_the_body_with_its_vessels():
    chest, lung, vessel = (np.zeros((100, 100), bool) for _ in range(3))
    chest[10:90, 10:90], lung[30:70, 30:70], vessel[48:52, 48:52] = True, True, True
    found = classical.lung_field(np.where(chest & ~lung | vessel, 200, 0).astype(np.uint8))
    assert (found == lung).all()


@pytest.mark.parametrize("edges", [classical.sobel, classical.canny])
def test_edges_lie_on_the_outline_and_linked_edges_are_filled(edges):
    found = edges(PICTURE)
    rows, columns = np.nonzero(found)
    assert not found[23:29, 27:33].any()
    assert found[18:22, 30].any()
    assert found[26, 22:26].any()
    assert min(rows.min(), columns.min() - 4, 51 - rows.max(), 55 - columns.max()) >= 17
    linked = classical.link_edges(found)
    assert linked[21:31, 25:35].all()
    assert metrics.dice(SQUARE, linked) > 0.8


def test_linking_closes_a_gap_and_removes_open_lines():
    ring = np.zeros((100, 100), bool)
    ring[40:52, 40:52], ring[41:51, 41:51] = True, False
    filled = ring.copy()
    filled[40:52, 40:52] = True
    ring[40, 45] = False  # a gap of one pixel
    ring[80, 10:60] = True  # a loose end
    linked = classical.link_edges(ring)
    assert linked[41:51, 41:51].all()
    assert not linked[~filled].any()


def test_a_contour_around_an_organ_is_not_filled():
    ring = np.zeros((100, 100), bool)
    ring[20:80, 20:80], ring[21:79, 21:79] = True, False
    assert not classical.link_edges(ring)[30:70, 30:70].any()


def test_a_seed_is_inside_the_lesion_and_has_its_median_grey_level():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    image = np.full((9, 9), 100, np.uint8)
    image[3:6, 3:6] = 250  # a vessel through the lesion
    image[5, 4] = 110
    assert classical.seed_in(image, mask) == (5, 4)


def test_a_grown_region_is_connected_and_leaks_over_a_bridge():
    two = PICTURE.copy()
    two[20:32, 44:56] = 200
    grown = classical.region_growing(two, (26, 30), 40)
    assert metrics.dice(SQUARE, grown) > 0.9
    assert not grown[:, 40:].any()
    two[26, 36:44] = two[25, 36:44] = two[27, 36:44] = 200
    assert classical.region_growing(two, (26, 30), 40)[26, 50]


def test_kmeans_clusters_are_from_dark_to_bright_and_share_no_pixel():
    image = np.array([[0, 2, 100], [102, 250, 252]], np.uint8)
    dark, middle, bright = classical.kmeans(image, 3)
    assert np.argwhere(dark).tolist() == [[0, 0], [0, 1]]
    assert np.argwhere(middle).tolist() == [[0, 2], [1, 0]]
    assert np.argwhere(bright).tolist() == [[1, 1], [1, 2]]


def test_fuzzy_memberships_sum_to_one_and_are_one_half_in_between():
    image = np.array([[0, 0, 0, 100, 200, 200, 200]], np.uint8)
    dark, bright = classical.fuzzy_cmeans(image, 2)
    assert np.allclose(dark + bright, 1)
    assert dark[0, 3] == pytest.approx(0.5, abs=0.01)
    assert (dark[0, :3] > 0.99).all()
    assert (bright[0, 4:] > 0.99).all()


def test_the_truth_chooses_the_mask_with_the_best_dice():
    assert classical.best_by_truth([~SQUARE, SQUARE, np.ones_like(SQUARE)], SQUARE) is SQUARE


def test_the_best_threshold_includes_pixels_brighter_than_the_lesion_only_if_it_must():
    image = np.array([[10, 90, 120, 250]], np.uint8)
    assert classical.best_threshold(image, np.array([[0, 0, 0, 1]])).tolist() == [
        [False, False, False, True]
    ]
    assert classical.best_threshold(image, np.array([[0, 1, 1, 0]])).tolist() == [
        [False, True, True, True]
    ]


def test_the_table_scores_the_slice_and_the_lung_field():
    truth, found, lungs = (
        np.array(mask, bool) for mask in ([1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0])
    )
    table = classical.dice_table({"one": found, "nothing": found & False}, truth, lungs)
    assert table.index.tolist() == ["one", "nothing"]
    assert np.allclose(table, [[1 / 2, 2 / 3], [0, 0]])
    outside = classical.dice_table({"one": found}, truth, ~lungs)
    assert np.allclose(outside, [[1 / 2, 0]])
    whole = classical.dice_table({"all": truth | lungs}, truth | [0, 0, 1, 1] > 0, lungs)
    assert whole["in the lung field"].tolist() == [1]


def test_far_slices_have_lesions_and_are_not_neighbours():
    masks = np.zeros((30, 2, 2), np.uint8)
    masks[[4, 11, 12, 15, 18, 19, 25]] = 1
    assert classical.far_slices(masks, 15).tolist() == [4, 11, 19, 25]
    assert classical.far_slices(masks, 15, count=2).tolist() == [4, 25]
    with pytest.raises(ValueError, match="no slice with lesions more than 3 slices from slice 15"):
        classical.far_slices(masks * (np.abs(np.arange(30) - 15) < 4)[:, None, None], 15)


def test_features_are_grey_level_surroundings_and_position():
    features = classical.pixel_features(PICTURE).reshape(60, 60, 5)
    assert (features[..., 0] == PICTURE).all()
    assert features[30, 15, 3:].tolist() == [0.5, 0.25]
    # just outside the outline: more smoothing, more of the bright square
    assert 50 < features[26, 23, 1] < features[26, 23, 2] < 200
    assert features[5, 5, 2] == pytest.approx(50)


def test_a_network_on_pixels_learns_a_bright_square():
    images = np.stack([_noisy(seed) for seed in (1, 2)])
    network = classical.train_on_pixels(images, np.stack([SQUARE, SQUARE]))
    assert metrics.dice(SQUARE, classical.classify(network, _noisy(3))) > 0.95


def test_a_network_on_pixels_learns_a_rare_lesion_too():
    truth = np.zeros((200, 200), bool)
    truth[90:98, 90:98] = True
    noise = np.random.default_rng(0).normal(0, 8, (3, 200, 200))
    images = np.where(truth, 120, 50) + noise
    network = classical.train_on_pixels(images[:2], np.stack([truth, truth]))
    assert metrics.dice(truth, classical.classify(network, images[2])) > 0.8

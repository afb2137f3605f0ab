"""The random draws follow their stated distributions: tested on 10,000 views of one seed."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tf_simclr.data.draws import ViewOptions, crop_box, draw_views

DRAWS = 10_000
# With a fixed seed a correct distribution always passes; one that is off by a few percent fails.
LEAST_P = 1e-3


@pytest.fixture(scope="module")
def drawn():
    batch = draw_views(ViewOptions(), 3, DRAWS // 2, seed=0, step=0)
    return {name: value.numpy() for name, value in batch.items()}


def flat(drawn, name):
    return drawn[name].reshape(DRAWS, *drawn[name].shape[2:])


def assert_uniform(values, low, high):
    assert values.min() >= low and values.max() <= high
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > LEAST_P


def assert_rate(happened, rate):
    assert stats.binomtest(int(happened.sum()), len(happened), rate).pvalue > LEAST_P


def test_rates(drawn):
    assert_rate(flat(drawn, "flip"), 0.5)
    assert_rate(flat(drawn, "grayscale"), 0.2)
    assert_rate(flat(drawn, "hue") != 0, 0.8)
    assert_rate(flat(drawn, "sigma") > 0, 0.5)


def test_grayscale_and_blur_do_not_depend_on_the_jitter(drawn):
    jittered = flat(drawn, "hue") != 0
    assert_rate(flat(drawn, "grayscale")[jittered], 0.2)
    assert_rate(flat(drawn, "sigma")[jittered] > 0, 0.5)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize(("strength", "low", "high"), [(1.0, 0.2, 1.8), (0.5, 0.6, 1.4)])
def test_jitter_factors(name, strength, low, high):
    options = ViewOptions(color_jitter_strength=strength)
    values = draw_views(options, 3, DRAWS // 2, seed=1, step=0)[name].numpy().ravel()
    assert_uniform(values[values != 1.0], low, high)


def test_hue_and_sigma(drawn):
    hue, sigma = flat(drawn, "hue"), flat(drawn, "sigma")
    assert_uniform(hue[hue != 0], -0.2, 0.2)
    assert_uniform(sigma[sigma > 0], 0.1, 2.0)


def test_all_orders_are_as_likely(drawn):
    counts = np.bincount(flat(drawn, "order"), minlength=24)
    assert len(counts) == 24 and stats.chisquare(counts).pvalue > LEAST_P


def crops_of_the_paper(rng, count, height, width):
    """Area U[0.08, 1], aspect log-uniform in [3/4, 4/3], drawn until the crop fits."""
    kept = []
    while len(kept) < count:
        area = rng.uniform(0.08, 1.0) * height * width
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = np.sqrt(area * aspect), np.sqrt(area / aspect)
        if round(w) <= width and round(h) <= height:
            kept.append((w * h / (height * width), w / h))
    return np.array(kept)


@pytest.mark.parametrize(("height", "width"), [(1000, 1000), (750, 1000)])
def test_crops(drawn, height, width):
    boxes = (
        crop_box(tf.constant(drawn["crop"]), height, width, ViewOptions()).numpy().reshape(-1, 4)
    )
    top, left, h, w = boxes.T
    area, aspect = crops_of_the_paper(np.random.default_rng(0), 20_000, height, width).T
    assert stats.ks_2samp(h * w / (height * width), area).pvalue > LEAST_P
    assert stats.ks_2samp(w / h, aspect).pvalue > LEAST_P
    # Shifted by half a pixel, so that the distribution of whole pixels is nearly continuous.
    for place, room in ((top, height - h), (left, width - w)):
        roomy = room > 100
        assert_uniform((place[roomy] + 0.5) / (room[roomy] + 1), 0.0, 1.0)


def test_views_of_an_image_are_independent(drawn):
    for name in ("brightness", "hue", "sigma", "order", "flip"):
        first, second = drawn[name].astype(float).T
        assert stats.spearmanr(first, second).pvalue > LEAST_P
    first, second = drawn["crop"][:, :, 0].reshape(-1, 2, 4).transpose(1, 2, 0)
    for a, b in zip(first, second):
        assert stats.spearmanr(a, b).pvalue > LEAST_P

"""What is proposed for a data set, a machine and a time: a table, without a step of training."""

from __future__ import annotations

import dataclasses

import pytest

from tf_simclr.config import FIELDS, Config
from tf_simclr.training import ladder, proposing
from tf_simclr.training.ladder import Facts, Rung

PHOTOS = Facts(images=300, side=375, pixels=375 * 500, minutes=30.0, free=8 * 2**30)
SMALL = Facts(images=50_000, side=32, pixels=1024, one_size=True, decoded=True, minutes=30.0)
MANY = dataclasses.replace(PHOTOS, images=1_000_000, minutes=0.0)
# Seconds an image. Others follow by the number of multiplications.
SLOW = {Rung("resnet18", 0.5, 64): 3e-3}  # Two cores.
FAST = {Rung("resnet50", 1.0, 224): 1 / 2500}  # An accelerator.


def proposal(facts, measured, given=None, micro=0, too_large=frozenset()):
    """{name: value} of what is proposed."""
    given = given or {}
    rung = ladder.choose(facts, given, measured, too_large)
    choices = proposing.propose(facts, given, rung, measured, micro)
    assert all(name in FIELDS and reason.endswith(".") for name, _, reason in choices)
    values = {name: value for name, value, _ in choices}
    assert len(values) == len(choices)
    Config(**values, workdir="w")  # Raises what is out of range.
    return values


@pytest.mark.parametrize(
    ("facts", "measured", "expected"),
    [
        # 0.85 * 1800 s / 9 ms = 170,000 images; 2000 steps of 64 are 128,000.
        (
            PHOTOS,
            {**SLOW, Rung("resnet18", 0.5, 128): 9e-3},
            {"encoder": "resnet18", "width_multiplier": 0.5, "image_size": 128}
            | {"train_batch_size": 64, "learning_rate_scaling": "sqrt", "use_blur": True},
        ),
        # 20 passes over 50,000 need 1.53 ms an image: 1.4 ms are enough at 16 px, 5.6 not at 32.
        (
            SMALL,
            {Rung("resnet18", 0.5, 16): 1.4e-3},
            {"image_size": 16, "train_batch_size": 256, "use_blur": False, "temperature": 0.1}
            | {"color_jitter_strength": 0.5, "grayscale_probability": 0.1, "loss": "decoupled"},
        ),
        # A thousandth of that: the largest that small images have.
        (
            SMALL,
            {Rung("resnet18", 0.5, 16): 1.4e-6},
            {"encoder": "resnet50", "width_multiplier": 1.0, "image_size": 32},
        ),
        # 8 hours of 2500 images a second are 61 passes.
        (
            dataclasses.replace(MANY, half="mixed_bfloat16", why_half="It does"),
            FAST,
            {"encoder": "resnet50", "image_size": 224, "train_batch_size": 256}
            | {"precision": "mixed_bfloat16", "train_epochs": 61, "color_jitter_strength": 1.0},
        ),
        # A hundredth of that is not even one pass: the cheapest.
        (
            dataclasses.replace(MANY, minutes=60.0),
            {Rung("resnet18", 0.5, 64): 4e-3},
            {"encoder": "resnet18", "width_multiplier": 0.5, "image_size": 64},
        ),
        # Few small images in a second: 100 passes, or 2000 steps where those are more.
        (
            dataclasses.replace(SMALL, images=64, minutes=0.0),
            {Rung("resnet18", 0.5, 16): 1e-3},
            {"train_batch_size": 16, "train_epochs": 500},
        ),
    ],
    ids=["photos", "small", "small and fast", "million", "million and slow", "few"],
)
def test_table(facts, measured, expected):
    found = proposal(facts, measured)
    assert {name: found.get(name) for name in expected} == expected


def test_sizes_do_not_exceed_the_images():
    for side, one_size, sizes in (
        (8, True, {16}),
        (28, True, {16, 28}),
        (28, False, {16}),
        (50, False, {16, 32}),
        (100, True, {64, 96}),
        (1000, False, {64, 96, 128, 160, 224}),
    ):
        facts = dataclasses.replace(PHOTOS, side=side, one_size=one_size)
        found = ladder.rungs(facts, {})
        assert {rung.size for rung in found} == sizes
        work = [ladder.work(rung) for rung in found]
        assert work == sorted(work) and len(set(work)) == len(work)


@pytest.mark.parametrize(
    "given",
    [
        {"encoder": "MobileNetV2"},
        {"encoder": "resnet34", "image_size": 200},
        {"width_multiplier": 0.25, "temperature": 0.5},
        {"image_size": 32, "use_blur": True},
        {"train_batch_size": 100, "optimizer": "adamw"},
        {"learning_rate": 0.3, "loss": "nt_xent"},
        {"learning_rate_scaling": "linear"},
        {"loss": "triplet", "checkpoint_epochs": 3},
        {"train_steps": 50},
        {"train_epochs": 7},
        {"cache": "off", "num_proj_layers": 3},
        {"optimizer": "momentum", "precision": "float32"},
    ],
    ids=str,
)
def test_what_is_given_is_kept(given):
    facts = dataclasses.replace(
        PHOTOS, images=40_000, side=3000, pixels=12e6, half="mixed_bfloat16"
    )
    width = given.get("width_multiplier", 0.5)
    first = Rung(given.get("encoder", "resnet18"), width, given.get("image_size", 64))
    found = proposal(facts, {first: 1e-3}, given)
    assert found.items() >= given.items()
    assert "temperature" not in found or given.get("loss") != "triplet"
    assert "width_multiplier" not in found or "encoder" not in given or "resnet" in given["encoder"]
    assert "learning_rate_scaling" not in found or "learning_rate" not in given
    assert "checkpoint_steps" not in found or "checkpoint_epochs" not in given
    assert "cache_side" not in found or "cache" not in given


def test_the_rate_follows_from_optimizer_batch_and_scaling():
    # LARS: 0.1 * sqrt(64) = 0.8, which is 3.2 * 64 / 256.
    assert proposal(PHOTOS, SLOW)["learning_rate"] == 0.1
    assert proposal(PHOTOS, SLOW, {"learning_rate_scaling": "linear"})["learning_rate"] == 3.2
    assert proposal(PHOTOS, SLOW, {"learning_rate_scaling": "none"})["learning_rate"] == 0.8
    assert proposal(PHOTOS, SLOW, {"optimizer": "adamw"})["learning_rate"] == 1e-3


def test_memory():
    rungs = ladder.rungs(PHOTOS, {})
    best = ladder.choose(PHOTOS, {}, {rungs[0]: 1e-6})
    assert best == rungs[-1]
    assert ladder.choose(PHOTOS, {}, {rungs[0]: 1e-6}, frozenset({best})) == rungs[-2]
    assert ladder.choose(PHOTOS, {}, {}, frozenset(rungs)) is None
    assert proposal(PHOTOS, SLOW, micro=16)["micro_batch_size"] == 16
    assert "micro_batch_size" not in proposal(PHOTOS, SLOW)


@pytest.mark.parametrize(
    ("images", "side", "free", "expected"),
    [
        (300, 375, 8, {}),  # 0.17 GB are held by --cache=auto.
        (3000, 3000, 64, {"cache_side": 160}),  # 160 = 64 * 512 / 224 in steps of 32.
        (60_000, 3000, 64, {"cache_side": 160, "cache": "on"}),  # 6 GB.
        (60_000, 3000, 8, {}),  # More than half of the memory.
        (40_000, 180, 64, {"cache": "on"}),  # 5 GB; reducing saves little.
    ],
)
def test_images_held_in_memory(images, side, free, expected):
    facts = Facts(images, side, side * side * 4 / 3, minutes=1.0, free=free * 2**30)
    found = proposal(facts, SLOW)
    assert found["image_size"] == 64
    assert {name: found[name] for name in ("cache_side", "cache") if name in found} == expected


def test_batches_are_shared_by_replicas():
    for images, replicas, batch in ((300, 1, 64), (300, 3, 48), (20, 1, 8), (10**6, 8, 256)):
        facts = dataclasses.replace(PHOTOS, images=images, replicas=replicas)
        assert ladder.batch_of(facts, {}) == batch
    assert ladder.batch_of(dataclasses.replace(PHOTOS, images=20, replicas=16), {}) == 16


def test_labels_channels_and_bad_files():
    facts = dataclasses.replace(SMALL, labels=True, channels=1, bad=2)
    found = proposal(facts, {Rung("resnet18", 0.5, 16): 1.4e-3})
    assert found["skip_bad_images"] is True and "grayscale_probability" not in found
    assert found["eval_every_epochs"] == 2.0  # 21.9 passes.
    assert "eval_every_epochs" not in proposal(SMALL, {Rung("resnet18", 0.5, 16): 1e-3})


def test_hints_are_for_what_no_setting_mends():
    few = proposing.hints(PHOTOS, {})
    assert few[0].startswith("300 images are few") and "--init_from=imagenet" in few[0]
    assert len(proposing.hints(SMALL, {})) == 1
    assert not proposing.hints(SMALL, {"flip_probability": 0.5})
    assert len(proposing.hints(PHOTOS, {"init_from": "imagenet"})) == 1


def test_steps_are_timed_on_as_many_images_as_take_about_as_long():
    for rung, images in (
        (Rung("resnet18", 0.5, 16), 256),
        (Rung("resnet18", 1.0, 128), 32),
        (Rung("resnet50", 1.0, 224), 32),
    ):
        assert ladder.images_timed(rung, 256) == images
    assert ladder.images_timed(Rung("resnet18", 0.5, 16), 8) == 8

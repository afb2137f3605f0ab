"""The label feature of a TFDS set: the usual one, or the one that --label names."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.tfds_sets import COUNT, prepare
from tf_simclr.data import sources
from tf_simclr.data.draws import example_indices
from tf_simclr.data.pipeline import require_labels, two_view_dataset
from tf_simclr.data.sources import open_source
from tf_simclr.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tfds"))
    labels = {"labelled": False, "shards": 2}
    prepare(path, "number", **labels, digit=(np.int64, lambda i: i % 4))
    prepare(
        path, "byte", **labels, digit=(np.uint8, lambda i: i % 3), flag=(np.bool_, lambda i: i > 3)
    )
    prepare(path, "caption", **labels, caption=(tfds.features.Text(), lambda i: f"a {i}"))
    prepare(
        path,
        "many",
        **labels,
        tags=(tfds.features.Sequence(tfds.features.ClassLabel(num_classes=3)), lambda i: [i % 3]),
        box=(tfds.features.BBoxFeature(), lambda i: tfds.features.BBox(0.0, 0.0, 1.0, 1.0)),
    )
    prepare(
        path,
        "two",
        **labels,
        coarse=(tfds.features.ClassLabel(names=["x", "y"]), lambda i: i % 2),
        fine=(tfds.features.ClassLabel(names=["a", "b", "c", "d"]), lambda i: i % 4),
    )
    inside = tfds.features.FeaturesDict(
        {"kind": tfds.features.ClassLabel(names=["p", "q"]), "age": np.int64}
    )
    prepare(path, "nested", **labels, about=(inside, lambda i: {"kind": i % 2, "age": i % 9}))
    prepare(
        path,
        "odd",
        **labels,
        depth=(np.int64, lambda i: i - 5),
        key=(np.int64, lambda i: i * 10**6),
    )
    prepare(path, "usual", other=(tfds.features.ClassLabel(num_classes=5), lambda i: i % 5))
    return path


@pytest.fixture(params=[2**30, 0], ids=["in memory", "by record"])
def limit(request, monkeypatch):
    monkeypatch.setattr(sources, "MEMORY_LIMIT", request.param)


@pytest.mark.parametrize(
    ("name", "label", "classes", "expected"),
    [
        ("number", "digit", "0123", lambda i: i % 4),
        ("byte", "digit", "012", lambda i: i % 3),
        ("byte", "flag", "01", lambda i: int(i > 3)),
        ("two", "coarse", "xy", lambda i: i % 2),
        ("two", "fine", "abcd", lambda i: i % 4),
        ("nested", "about/kind", "pq", lambda i: i % 2),
        ("nested", "about/age", "012345678", lambda i: i % 9),
        ("usual", "", ("red", "green", "blue"), lambda i: i % 3),
        ("usual", "other", "01234", lambda i: i % 5),
    ],
)
def test_a_feature_that_is_chosen_is_the_label(data_dir, limit, name, label, classes, expected):
    source = open_source(name, data_dir, label=label)
    require_labels(source)
    assert source.class_names == tuple(classes) and source.labels.dtype == np.int64
    np.testing.assert_array_equal(source.labels, [expected(i) for i in range(COUNT)])
    part = source.take(np.arange(5, 9))
    assert part.class_names == tuple(classes) and part.labels[0] == expected(5)
    assert open_source(name, data_dir, label=label).fingerprint == source.fingerprint


def test_pairs_carry_the_label_that_is_chosen(data_dir, limit):
    source = open_source("two", data_dir, label="fine")
    dataset = two_view_dataset(source, batch_size=8, image_size=4, seed=3, labels=True)
    for step, batch in enumerate(dataset.take(2)):
        drawn = example_indices(COUNT, 8, 3, step)
        np.testing.assert_array_equal(batch["label"], drawn % 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", r"none of its features is a class label.*--label=digit \(int64\)"),
        ("caption", r"none of its features is a class label.*not usable: caption \(text\)"),
        ("many", r"none of its.*not usable: box \(float32 \[4\]\), tags \(several values"),
        (
            "two",
            r"several .*: --label=(coarse|fine) \(class label\), --label=(coarse|fine) ",
        ),
        ("nested", r"inside another feature.*--label=about/kind \(class label\)"),
    ],
)
def test_why_there_are_none(data_dir, limit, name, message):
    source = open_source(name, data_dir)
    assert source.labels is None and source.class_names is None
    with pytest.raises(UserError, match=message):
        require_labels(source)
    with pytest.raises(UserError, match=message):
        require_labels(source.take(np.arange(3)))


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("number", "digits", "for --label 'digits': did you mean 'digit'"),
        ("caption", "caption", r"--label=caption of .* is text; .*--label=id \(int64\)"),
        ("many", "tags", "--label=tags of .* is several values for each example"),
        ("nested", "about", "for --label 'about'"),
        ("nested", "kind", "for --label 'kind': did you mean .*'about/kind'"),
        ("digits", "label", "--label=label selects a feature of a TFDS data set"),
        ("folder", "x", "--label=x selects .*--dataset=folder are the names of its sub-folders"),
    ],
)
def test_what_cannot_be_the_label_is_refused(data_dir, name, label, message):
    with pytest.raises(UserError, match=message):
        open_source(name, data_dir, label=label)


@pytest.mark.parametrize(
    ("label", "message"), [("depth", "are from -5 to 54"), ("key", "are from 0 to 59000000")]
)
def test_numbers_that_are_no_classes_are_refused(data_dir, limit, label, message):
    with pytest.raises(UserError, match=f"--label={label}: its values {message}"):
        require_labels(open_source("odd", data_dir, label=label))


def test_withheld_labels_are_said(tmp_path):
    prepare(str(tmp_path), "withheld", label=lambda i: -1)
    with pytest.raises(UserError, match="'label' is -1 for some examples.*withheld"):
        require_labels(open_source("withheld", str(tmp_path)))

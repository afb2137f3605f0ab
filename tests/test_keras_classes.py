"""Every Keras class of the package goes through Keras' serialisation, or says why it does not."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil

import pytest
import tensorflow as tf

import tf_simclr
from tf_simclr.losses import (
    DecoupledContrastiveLoss,
    MarginTriplet,
    NTLogistic,
    NTXent,
    SupervisedContrastive,
)
from tf_simclr.models.heads import ProjectionHead
from tf_simclr.models.simclr import SimCLR
from tf_simclr.optim.lamb import LAMB
from tf_simclr.optim.lars import LARS
from tf_simclr.optim.schedules import WarmupCosine

KINDS = (
    tf.keras.layers.Layer,  # Models and metrics too.
    tf.keras.losses.Loss,
    tf.keras.optimizers.Optimizer,
    tf.keras.optimizers.schedules.LearningRateSchedule,
)


def encoder():
    images = tf.keras.Input([6, 6, 3])
    h = tf.keras.layers.GlobalAveragePooling2D()(tf.keras.layers.Conv2D(4, 3)(images))
    return tf.keras.Model(images, h)


SCHEDULE = WarmupCosine(0.3, 2, 10)
CASES = {
    "DecoupledContrastiveLoss": lambda: DecoupledContrastiveLoss(0.3),
    "LAMB": lambda: LAMB(SCHEDULE, weight_decay=0.01),
    "LARS": lambda: LARS(SCHEDULE, weight_decay=0.01, momentum=0.8),
    "MarginTriplet": lambda: MarginTriplet(0.8),
    "NTLogistic": lambda: NTLogistic(0.3),
    "NTXent": lambda: NTXent(0.3),
    "ProjectionHead": lambda: ProjectionHead(num_layers=2, out_dim=5),
    "SimCLR": lambda: SimCLR(encoder(), ProjectionHead(2, 5), loss=NTXent(0.3), probe_classes=3),
    "SupervisedContrastive": lambda: SupervisedContrastive(0.3),
    "WarmupCosine": lambda: WarmupCosine(0.3, 2, 10),
}
NOT_SERIALISED = {
    "ContrastiveLoss": "the base class: its subclasses are serialised",
    "TemperatureLoss": "likewise",
    "ClassifierTraining": "lives during fine-tuning; what is saved is the classifier in it",
    "_Mean": "made by SimCLR, which saves no metric; see tests/models/test_saving.py",
    "_Sum": "made by SimCLR, which saves no metric; see tests/models/test_saving.py",
}


def classes_of_the_package() -> dict[str, type]:
    found = {}
    for module in pkgutil.walk_packages(tf_simclr.__path__, "tf_simclr."):
        if not module.name.endswith("__main__"):
            for name, member in vars(importlib.import_module(module.name)).items():
                if inspect.isclass(member) and member.__module__ == module.name:
                    if issubclass(member, KINDS):
                        found[name] = member
    return found


def test_each_class_has_a_case_or_a_reason():
    assert not CASES.keys() & NOT_SERIALISED.keys()
    assert classes_of_the_package().keys() == CASES.keys() | NOT_SERIALISED.keys()


@pytest.mark.parametrize("name", sorted(CASES))
def test_comes_back_from_json_under_the_packages_name(name):
    instance = CASES[name]()
    config = tf.keras.utils.serialize_keras_object(instance)
    assert config["registered_name"] == f"tf_simclr>{name}"
    text = json.dumps(config)
    again = tf.keras.utils.deserialize_keras_object(json.loads(text))
    assert type(again) is type(instance)
    assert json.dumps(tf.keras.utils.serialize_keras_object(again)) == text
    derived = {"self", "kwargs", "temperature"} - config["config"].keys()  # SimCLR: in its loss.
    given = set(inspect.signature(type(instance).__init__).parameters) - derived
    assert given <= config["config"].keys(), "an argument of the constructor is not saved"

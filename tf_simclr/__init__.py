"""SimCLR in TensorFlow 2 / Keras: learn an image encoder from unlabelled images.

    source = tf_simclr.open_source("folder", "my/photos")
    dataset = tf_simclr.two_view_dataset(source, batch_size=256, image_size=224)
    encoder = tf_simclr.build_encoder("resnet50", image_size=224)
    model = tf_simclr.SimCLR(encoder)
    model.compile(optimizer=tf_simclr.LARS(tf_simclr.WarmupCosine(0.3, 500, 5000)))
    model.fit(dataset, steps_per_epoch=500, epochs=10)
    tf_simclr.export_encoder(encoder, "encoder")

Papers: arXiv:2002.05709 (SimCLR), arXiv:2006.10029 (SimCLRv2).
"""

from __future__ import annotations

import importlib
import os
import sys

# Asks the TensorFlow of these Pythons for Keras 2 (see stack.py); too late if it is imported.
if sys.version_info >= (3, 12) and "tensorflow" not in sys.modules:
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

__version__ = "0.1.0"

# Each public name and its module, loaded when first asked for: TensorFlow takes seconds to import,
# which `--help` or a mistyped flag should not.
_HOMES = {
    "Contrast": "losses",
    "ContrastiveLoss": "losses",
    "DecoupledContrastiveLoss": "losses",
    "LAMB": "optim.lamb",
    "LARS": "optim.lars",
    "MarginTriplet": "losses",
    "NTLogistic": "losses",
    "NTXent": "losses",
    "ProjectionHead": "models.heads",
    "SimCLR": "models.simclr",
    "SupervisedContrastive": "losses",
    "UserError": "errors",
    "WarmupCosine": "optim.schedules",
    "array_source": "data.sources",
    "build_encoder": "models.encoders",
    "build_optimizer": "optim.factory",
    "check_exportable": "export",
    "classifier": "models.classifier",
    "export_encoder": "export",
    "finish_views": "augment",
    "in_memory": "data.in_memory",
    "labelled_dataset": "data.pipeline",
    "load_encoder": "export",
    "nt_xent": "losses",
    "open_source": "data.sources",
    "scaled_learning_rate": "optim.schedules",
    "two_view_dataset": "data.pipeline",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'tf_simclr' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tf_simclr.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

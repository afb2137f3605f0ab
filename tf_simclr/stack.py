"""The door to Keras: every module of this package takes `keras` from here.

It is Keras 2 on both stacks: TensorFlow 2.15 contains it; with later versions of TensorFlow, whose
`tf.keras` is Keras 3, it is the package tf_keras. On Python 3.12 and newer, importing this package
before TensorFlow makes `tf.keras` Keras 2 too.
"""

from __future__ import annotations

import importlib
import types

import tensorflow as tf

from tf_simclr.errors import UserError


def keras_for(version: str) -> types.ModuleType:
    """Keras 2 for a version of TensorFlow.

    Args:
      version: that of the TensorFlow which is imported, such as "2.21.0".

    Raises:
      UserError: TensorFlow is too old; or tf_keras is needed, and missing or of another version.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < (2, 15):
        raise UserError(
            f"TensorFlow {version} is installed, and this package needs 2.15 or newer. Install it "
            "in an environment of its own: pip install 'tensorflow~=2.15.1'."
        )
    if (major, minor) == (2, 15):
        return tf.keras
    try:
        keras = importlib.import_module("tf_keras")
        found = f"tf-keras {keras.__version__}"
    except Exception as error:  # With another version of TensorFlow its import fails in any way.
        found = f"no tf-keras that can be imported ({error})"
    if found.split(".")[:2] != [f"tf-keras {major}", str(minor)]:
        raise UserError(
            f"TensorFlow {version} is installed with {found}, and this package needs Keras 2 of "
            f"the same version: pip install 'tf-keras~={major}.{minor}.0'."
        )
    return keras


keras = keras_for(tf.__version__)

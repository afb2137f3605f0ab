"""How an image is stored, turned or mirrored, by its EXIF data (CIPA DC-008), in the graph."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.data.binary import either, numbers

_ORIENTATION, _SHORT = 0x0112, 3  # The tag, and the type that its value must have.


def exif_orientation(exif: tf.Tensor) -> tf.Tensor:
    """Reads the orientation from EXIF data: a TIFF header, a directory, and more.

    Args:
      exif: scalar string, from "II" or "MM" on.

    Returns:
      int64 scalar from 1 to 8; 1, upright, where the data are damaged or do not say.
    """
    header = tf.strings.substr(exif, 0, 4)
    big_endian = header == b"MM\0*"

    def words(place, count, dtype):
        both = (numbers(exif, place, count, dtype, big_endian=big) for big in (True, False))
        return tf.where(big_endian, *both)

    directory = words(4, 1, tf.int32)[0]
    count = tf.maximum(words(directory, 1, tf.uint16)[0], 1)
    entries = tf.reshape(words(directory + 2, 6 * count, tf.uint16), [-1, 6])
    tag, kind, value = entries[:, 0], entries[:, 1], entries[:, 4]
    # Two words hold how many values there are; in either byte order one of them is 0.
    found = (tag == _ORIENTATION) & (kind == _SHORT) & (entries[:, 2] + entries[:, 3] == 1)
    orientation = tf.reduce_max(either(found, value, 0))
    valid = (big_endian | (header == b"II*\0")) & (orientation >= 1) & (orientation <= 8)
    return either(valid, orientation, 1)

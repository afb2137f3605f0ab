"""From a source to batches: two random views for pretraining, labelled images for the rest.

The host decodes, crops, resizes and flips, and hands over uint8; colour jitter, grayscale and blur
are left to the accelerator (`augment.finish_views`).
The batch of step s is a pure function of (seed, s): see `draws`.
"""

from __future__ import annotations

import re

import tensorflow as tf

from tf_simclr import augment, native
from tf_simclr.data.draws import (
    ViewOptions,
    crop_box,
    draw_crops,
    draw_finishing,
    example_indices,
)
from tf_simclr.data.in_order import eval_view
from tf_simclr.errors import UserError

_FOREVER = 2**40  # Steps; times a batch it still fits int64.
_MOST_FLOATS = 2**22  # In a crop: 16 MiB. A larger crop is resized from bytes, which is slower.


def two_view_dataset(
    source,
    *,
    batch_size: int,
    image_size: int,
    seed: int = 0,
    start_step: int = 0,
    input_context: tf.distribute.InputContext | None = None,
    data_service: str | None = None,
    labels: bool = False,
    **view_options,
) -> tf.data.Dataset:
    """Endless batches of two random views of each image.

    Args:
      source: from `open_source` or `array_source`; labels are needed with `labels` only.
      batch_size: N, the global batch in images.
      image_size: side of the views in pixels.
      seed: any integer; the same seed gives the same batches.
      start_step: the first step to yield; costs nothing, whatever its value.
      input_context: under `strategy.distribute_datasets_from_function`, says which replicas this
        host feeds: elements are then the replicas' shares of the batch, in turn.
      data_service: "grpc://host:port" of the dispatcher of a `tf.data` service. Its workers then
        make the batches: the same ones, each once, in the order in which they are ready.
      labels: whether batches hold the labels of the images, for losses that need them.
      **view_options: as `ViewOptions`: color_jitter_strength=1.0, blur=True, ...

    Returns:
      A dataset of dicts for `finish_views` (and `SimCLR.fit`): "images" uint8 [B, 2, H, W, C] and
      the entries of `draws.draw_finishing`, each [B, 2]; with `labels` also "label" int64 [B]. B is
      the replica's share of `batch_size`.

    Raises:
      UserError: a batch larger than the set or not divisible by the replicas; an option out of
        range; a data service's address of another form; labels that the source does not have.
    """
    options = ViewOptions(**view_options)
    if labels:
        require_labels(source)
    _check(source, batch_size, image_size)
    _check_address(data_service)
    shares = _Shares(source, options, batch_size, seed, start_step, input_context)
    shape = [shares.size, 2, image_size, image_size, source.channels]
    classes = tf.constant(source.labels, tf.int64) if labels else None

    def whole(number, images):
        batch = _with_shapes({"images": images, **shares.draw_finishing(number)}, shape)
        if labels:
            batch["label"] = tf.gather(classes, shares.indices(number))
        return batch

    if source.image_shape:
        dataset = shares.numbers.map(
            lambda number: whole(
                number, _crop_together(source, shares.draw_crops(number), image_size, options)
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    else:
        # A data service's workers are other processes, which do not know our kernels.
        kernels = None if data_service else native.kernels()
        dataset = shares.images().map(
            lambda drawn: (
                drawn["share"],
                _decode_and_crop(source, drawn, image_size, options, kernels),
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        dataset = dataset.batch(shares.size, drop_remainder=True)
        dataset = dataset.map(lambda numbers, images: whole(numbers[0], images))
    if data_service:
        # Each step goes to one worker. A step needs nothing but its number, so any worker will do.
        dynamic = tf.data.experimental.service.ShardingPolicy.DYNAMIC
        dataset = dataset.apply(
            tf.data.experimental.service.distribute(processing_mode=dynamic, service=data_service)
        )
    return _endless(dataset)


def labelled_dataset(
    source,
    *,
    batch_size: int,
    image_size: int,
    seed: int = 0,
    start_step: int = 0,
    random_crop: bool = True,
    input_context: tf.distribute.InputContext | None = None,
    **view_options,
) -> tf.data.Dataset:
    """Endless shuffled batches of labelled images, for fine-tuning and the online probe.

    Args:
      source: with labels.
      batch_size, image_size, seed, start_step, input_context: as `two_view_dataset`.
      random_crop: crop and flip at random (paper, appendix B.5), else the evaluation view.
      **view_options: crop_area, crop_aspect and flip_probability apply.

    Returns:
      A dataset of (images float32 [B, H, W, C] in [0, 1], labels int64 [B]).

    Raises:
      UserError: no labels, or as `two_view_dataset`.
    """
    options = ViewOptions(**view_options)
    require_labels(source)
    _check(source, batch_size, image_size)
    shares = _Shares(source, options, batch_size, seed, start_step, input_context)
    labels = tf.constant(source.labels, tf.int64)
    kernels = native.kernels()

    def example(drawn):
        image = source.load(drawn["index"])
        if random_crop:
            crop, flip = drawn["crop"][:1], drawn["flip"][:1]
            view = _crops(image, crop, flip, image_size, options, kernels)[0]
            view = tf.cast(view, tf.float32) / 255.0
        else:
            view = eval_view(image, image_size)
        shape = [image_size, image_size, source.channels]
        return tf.ensure_shape(view, shape), tf.gather(labels, drawn["index"])

    dataset = shares.images().map(example, num_parallel_calls=tf.data.AUTOTUNE)
    return _endless(dataset.batch(shares.size, drop_remainder=True))


def require_labels(source) -> None:
    """Raises UserError if a source has no labels."""
    if source.labels is None:
        raise UserError(
            f"data set {source.name!r} has no labels, which this needs: {source.unlabelled}"
        )


def _check(source, batch_size, image_size):
    if batch_size < 1 or batch_size > source.num_examples:
        raise UserError(
            f"batch_size must lie in [1, {source.num_examples}], the images of "
            f"{source.name!r}; received {batch_size!r}."
        )
    if image_size < 1:
        raise UserError(f"image_size must be positive; received {image_size!r}.")


def _check_address(data_service):
    if data_service and not re.fullmatch(r"[a-z]+://[^/:]+:\d+", data_service):
        raise UserError(
            "data_service must be the dispatcher's address, such as grpc://10.0.0.5:5050; received "
            f"{data_service!r}."
        )


class _Shares:
    """The batches of all steps in shares, one per replica; share by share what is drawn for it.

    On a host with L replicas, share n belongs to step n // L.

    Attributes:
      size: images in a share.
      numbers: the dataset of the shares' numbers, int64, endless.
    """

    def __init__(self, source, options, batch_size, seed, start_step, context):
        replicas = context.num_replicas_in_sync if context else 1
        if batch_size % replicas:
            raise UserError(
                f"batch_size={batch_size} is not divisible by the {replicas} replicas; "
                f"the nearest that is: {max(batch_size // replicas, 1) * replicas}."
            )
        self.size = batch_size // replicas
        self._local = replicas // (context.num_input_pipelines if context else 1)
        self._first_replica = self._local * (context.input_pipeline_id if context else 0)
        # Not a counter: a data service can split only a range, so that each worker gets its part.
        self.numbers = tf.data.Dataset.range(start_step * self._local, _FOREVER)
        self._source, self._options = source, options
        self._batch_size, self._seed = batch_size, seed

    def images(self) -> tf.data.Dataset:
        """One element per image: its entries of `draw_crops`, and "share", the share's number.

        What is drawn for the device is not among them: `draw_finishing` draws it for whole shares.
        """

        def crops(number):
            return {**self.draw_crops(number), "share": tf.fill([self.size], number)}

        return self.numbers.map(crops, num_parallel_calls=tf.data.AUTOTUNE).unbatch()

    def draw_crops(self, number) -> dict:
        """`draws.draw_crops` for one share, and "index", its images."""
        step = number // self._local
        drawn = draw_crops(self._options, self._batch_size, self._seed, step)
        return {**self._rows(drawn, number), "index": self.indices(number)}

    def indices(self, number) -> tf.Tensor:
        """The images of one share, int64 [B]."""
        step = number // self._local
        index = example_indices(self._source.num_examples, self._batch_size, self._seed, step)
        return self._rows({"index": index}, number)["index"]

    def draw_finishing(self, number) -> dict:
        """`draws.draw_finishing` for one share."""
        step, channels = number // self._local, self._source.channels
        drawn = draw_finishing(self._options, channels, self._batch_size, self._seed, step)
        return self._rows(drawn, number)

    def _rows(self, drawn, number):
        """The share's rows of what was drawn for the global batch."""
        first = (self._first_replica + number % self._local) * self.size
        return {
            name: tf.ensure_shape(values[first : first + self.size], [self.size, *values.shape[1:]])
            for name, values in drawn.items()
        }


def _endless(dataset):
    """Prefetched, and without an end for Keras, whose `fit` then requires steps_per_epoch."""
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return dataset.apply(endless).prefetch(tf.data.AUTOTUNE)


def _crop_together(source, drawn, image_size, options):
    """Both views of a share at once, from images of one shape: uint8 [B, 2, H, W, C]."""
    images, flips = source.load(drawn["index"]), drawn["flip"]
    sides = (tf.fill(flips.shape, side) for side in images.shape[1:3])
    boxes = crop_box(drawn["crop"], *sides, options)
    return _resize_together(images, boxes, flips, image_size)


@tf.function(jit_compile=True)  # XLA fuses the operations around the products.
def _resize_together(images, boxes, flips, image_size):
    views = augment.resize_crop(
        tf.repeat(images, 2, axis=0),
        tf.reshape(boxes, [-1, 4]),
        tf.reshape(flips, [-1]),
        image_size,
    )
    return tf.reshape(_to_uint8(views), [*flips.shape, *views.shape[1:]])


def _decode_and_crop(source, drawn, image_size, options, kernels):
    """Both views of one image, decoded once: uint8 [2, H, W, C]."""
    image = source.load(drawn["index"])
    return _crops(image, drawn["crop"], drawn["flip"], image_size, options, kernels)


def _crops(image, uniforms, flips, image_size, options, kernels):
    """uint8 views [N, H, W, C] of one image, one per row of `uniforms` and of `flips`."""
    count = len(uniforms)
    height, width = (tf.repeat(side, count) for side in tf.unstack(tf.shape(image)[:2]))
    boxes = crop_box(uniforms, height, width, options)
    if kernels:
        views = kernels.crop_views(image=image, boxes=boxes, flips=flips, size=image_size)
        return tf.ensure_shape(views, [count, image_size, image_size, image.shape[-1]])
    views = []
    for box, flip in zip(tf.unstack(boxes), tf.unstack(flips)):
        top, left, height, width = tf.unstack(box)
        crop = image[top : top + height, left : left + width]
        views.append(_mirrored(_rounded(_bicubic(crop, image_size)), flip))
    return tf.stack(views)


def _mirrored(view, flip):
    # Not view[:, ::-1], as TensorFlow gathers far faster than it reverses.
    columns = tf.range(view.shape[1] - 1, -1, -1)
    return tf.cond(flip, lambda: tf.gather(view, columns, axis=1), lambda: view)


def _bicubic(crop, image_size):
    def resize(x):
        return tf.image.resize(x, [image_size, image_size], "bicubic")

    # Resizing floats is faster.
    few = tf.size(crop) < _MOST_FLOATS
    return tf.cond(few, lambda: resize(tf.cast(crop, tf.float32)), lambda: resize(crop))


def _to_uint8(x):
    return tf.cast(tf.clip_by_value(x + 0.5, 0.0, 255.0), tf.uint8)


def _rounded(x):
    """`_to_uint8` in one pass over memory, where XLA does not compile it."""
    quantized = tf.raw_ops.QuantizeV2(  # tf.quantization.quantize logs a warning.
        input=x,
        min_range=0.0,
        max_range=255.0,
        T=tf.quint8,
        mode="MIN_COMBINED",
        round_mode="HALF_AWAY_FROM_ZERO",
    )
    return tf.bitcast(quantized.output, tf.uint8)


def _with_shapes(batch, shape):
    """Static shapes, which TPUs and the strategies' batch splitting need."""
    return {
        name: tf.ensure_shape(value, shape if name == "images" else shape[:2])
        for name, value in batch.items()
    }

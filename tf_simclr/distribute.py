"""Where the step runs: one device, GPUs, hosts or a TPU; and what replicas tell each other."""

from __future__ import annotations

import os

import tensorflow as tf

from tf_simclr.errors import UserError, unknown_name

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def make_strategy(
    name: str = "auto",
    *,
    tpu_name: str | None = None,
    tpu_zone: str | None = None,
    gcp_project: str | None = None,
    virtual_cpus: int = 0,
) -> tf.distribute.Strategy:
    """Makes the distribution strategy; call it before anything else touches TensorFlow's devices.

    Args:
      name: "one_device"; "mirrored" (every GPU of this host, or every virtual CPU);
        "multi_worker" (hosts named by TF_CONFIG); "tpu"; "auto": multi_worker when TF_CONFIG is
        set, tpu when `tpu_name` is given, mirrored with two or more GPUs, else one device.
      tpu_name, tpu_zone, gcp_project: as `TPUClusterResolver` takes them; "local" on a TPU VM.
      virtual_cpus: split the CPU into this many devices, to try replicas without GPUs; 0: do not.

    Returns:
      The strategy. Its `num_replicas_in_sync` is the number of replicas.

    Raises:
      UserError: unknown name, or a device that is not there.
    """
    if name not in STRATEGIES:
        raise unknown_name("strategy", name, STRATEGIES)
    if virtual_cpus:
        _split_cpu(virtual_cpus)
    if name == "auto":
        name = _choose(tpu_name)
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("/gpu:0" if _gpus() else "/cpu:0")
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_gpus() or _cpus())
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=tpu_name, zone=tpu_zone, project=gcp_project
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"--strategy=tpu found no TPU under --tpu_name={tpu_name!r}: {error}. "
            "On a TPU VM pass --tpu_name=local."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def num_replicas() -> int:
    """Replicas in sync in the current strategy; 1 where there is none."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def gather_others(x: tf.Tensor) -> tf.Tensor:
    """What the other replicas have where this one has `x`, concatenated along axis 0.

    Not differentiable: whoever gathers knows what the gradient needs of the others.

    Args:
      x: [n, D], the same shape on every replica.

    Returns:
      [(replicas - 1) * n, D], of the replicas after this one, then those before it. Outside a
      replica context, or with one replica, [0, D].
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x[:0]
    replicas, n = context.num_replicas_in_sync, tf.shape(x)[0]
    everything = context.all_gather(x, axis=0)
    own_first = tf.roll(everything, -context.replica_id_in_sync_group * n, axis=0)
    rows = None if x.shape[0] is None else (replicas - 1) * x.shape[0]
    return tf.ensure_shape(own_first[n:], [rows, *x.shape[1:]])


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes checkpoints, logs and exports."""
    resolver = strategy.cluster_resolver
    if resolver is None or not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    return resolver.task_type in (None, "chief") or (
        resolver.task_type == "worker"
        and not resolver.task_id
        and "chief" not in resolver.cluster_spec().jobs
    )


def _choose(tpu_name: str | None) -> str:
    if os.environ.get("TF_CONFIG"):
        return "multi_worker"
    if tpu_name:
        return "tpu"
    return "mirrored" if len(_gpus()) > 1 or len(_cpus()) > 1 else "one_device"


def _gpus() -> list[str]:
    return [f"/gpu:{i}" for i in range(len(tf.config.list_logical_devices("GPU")))]


def _cpus() -> list[str]:
    return [f"/cpu:{i}" for i in range(len(tf.config.list_logical_devices("CPU")))]


def _split_cpu(count: int) -> None:
    try:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration() for _ in range(count)],
        )
    except RuntimeError as error:
        raise UserError(
            f"virtual_cpus={count} must be set before TensorFlow's first operation: {error}"
        ) from error

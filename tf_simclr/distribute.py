"""Distribution strategies (one device, GPUs, hosts or a TPU) and collectives over replicas."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import tensorflow as tf

from tf_simclr.errors import UserError, unknown_name
from tf_simclr.stack import keras

_SLURM_PORTS = 20_000  # Jobs use ports from here to 8,000 above.

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def make_strategy(
    name: str = "auto",
    *,
    tpu_name: str | None = None,
    tpu_zone: str | None = None,
    gcp_project: str | None = None,
    virtual_cpus: int = 0,
    this_host_only: bool = False,
) -> tf.distribute.Strategy:
    """Makes the distribution strategy; call it before anything else uses TensorFlow's devices.

    Args:
      name: "one_device"; "mirrored" (every GPU of this host, or every virtual CPU);
        "multi_worker" (the hosts in TF_CONFIG, or those of a Slurm step); "tpu"; or "auto":
        multi_worker if TF_CONFIG is set or Slurm has started several tasks, tpu if `tpu_name` is
        given, mirrored with two or more GPUs or virtual CPUs, else one device.
      tpu_name, tpu_zone, gcp_project: as for `TPUClusterResolver`; "local" on a TPU VM.
      virtual_cpus: devices to split the CPU into, to try replicas without GPUs; 0: no split.
      this_host_only: whether "auto" and "multi_worker" use the devices of this host only.

    Returns:
      The strategy. Its `num_replicas_in_sync` is the number of replicas.

    Raises:
      UserError: the name is unknown, or the device does not exist.
    """
    if name not in STRATEGIES:
        raise unknown_name("strategy", name, STRATEGIES)
    if virtual_cpus:
        _split_cpu(virtual_cpus)
    if this_host_only and name in ("auto", "multi_worker"):
        name = _choose_here()
    if name == "auto":
        name = _choose(tpu_name)
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("/gpu:0" if _gpus() else "/cpu:0")
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_gpus() or _cpus())
    if name == "multi_worker":
        return _multi_worker()
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


def first_task() -> bool:
    """Whether this is the only process, or the first that TF_CONFIG or Slurm lists."""
    if os.environ.get("TF_CONFIG") or _slurm_tasks():
        return _resolver_place(_resolver())[1] == 0
    return True


def enable_determinism(seed: int) -> None:
    """Allows only bitwise reproducible operations; call it before any operation runs."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def several_hosts(strategy: tf.distribute.Strategy) -> bool:
    """Whether other processes take part in each step."""
    return len(host_names(strategy)[0]) > 1


def host_names(strategy: tf.distribute.Strategy) -> tuple[list[str], int]:
    """(every host's task and address, the index of this one); ([], 0) for a single process."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return [], 0
    return _resolver_place(strategy.cluster_resolver)


def on_replicas(
    strategy: tf.distribute.Strategy, step: Callable, jit_compile: bool = False
) -> Callable:
    """Returns a function of `args` that runs `step` on every replica, as `strategy.run` does.

    Args:
      strategy: the current strategy.
      step: the function that each replica calls on its share of the arguments.
      jit_compile: compile `step` with XLA into one program. XLA has no collective operations on
        CPUs, so several CPU replicas get one program for each part between collectives.
    """
    if not jit_compile:
        return functools.partial(strategy.run, step)
    on_cpus = all("CPU" in device.upper() for device in strategy.extended.worker_devices)
    if on_cpus and strategy.num_replicas_in_sync > 1:

        def run(args):
            # Outside the step: the scope belongs to the graph into which all replicas are traced.
            with tf.xla.experimental.jit_scope():
                return strategy.run(step, args)

        return run
    return functools.partial(strategy.run, tf.function(step, jit_compile=True))


def num_replicas() -> int:
    """Number of replicas in sync in the current strategy; 1 without a strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def gather_others(x: tf.Tensor) -> tf.Tensor:
    """Gathers `x` from the other replicas, concatenated along axis 0.

    Not differentiable: the caller defines the gradient.

    Args:
      x: [n, D], the same shape on every replica.

    Returns:
      [(replicas - 1) * n, D]: first from the replicas after this one, then from those before it.
      [0, D] outside a replica context, or with one replica.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x[:0]
    replicas, n = context.num_replicas_in_sync, tf.shape(x)[0]
    # A tensor that all replicas share would come back as it is; an identity is each replica's own.
    everything = context.all_gather(tf.identity(x), axis=0)
    own_first = tf.roll(everything, -context.replica_id_in_sync_group * n, axis=0)
    rows = None if x.shape[0] is None else (replicas - 1) * x.shape[0]
    return tf.ensure_shape(own_first[n:], [rows, *x.shape[1:]])


def replica_number() -> int | tf.Tensor:
    """The place of this replica among all replicas, int32; 0 outside a replica context."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 0
    return context.replica_id_in_sync_group


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process, as the first of `host_names`, writes checkpoints, logs and exports."""
    return host_names(strategy)[1] == 0


def _resolver_place(resolver) -> tuple[list[str], int]:
    """(every host's task and address, the index of this one), the chief first."""
    jobs = resolver.cluster_spec().as_dict()
    tasks = [(job, i) for job in ("chief", "worker") for i in range(len(jobs.get(job, ())))]
    names = [f"{job} {i} ({jobs[job][i]})" for job, i in tasks]
    return names, tasks.index((resolver.task_type, resolver.task_id))


def _multi_worker() -> tf.distribute.Strategy:
    resolver = _resolver()
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except (tf.errors.OpError, RuntimeError) as error:
        raise UserError(
            f"the hosts {resolver.cluster_spec().as_dict()} did not find each other: {error}"
        ) from error


def _resolver():
    """The cluster resolver for the hosts that the environment lists.

    Raises:
      UserError: the environment lists no hosts, or not this one.
    """
    try:
        resolver = _resolve()
        _resolver_place(resolver)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the environment names no cluster that this host is in ({error!r}). Set TF_CONFIG on "
            'each host, such as {"cluster": {"worker": ["host-a:12345", "host-b:12345"]}, "task": '
            '{"type": "worker", "index": 0}}, or start the tasks with srun.'
        ) from error
    return resolver


def _resolve():
    resolvers = tf.distribute.cluster_resolver
    if os.environ.get("TF_CONFIG") or not _slurm_tasks():
        return resolvers.TFConfigClusterResolver()
    # Not TensorFlow's SlurmClusterResolver: it sorts hosts alphabetically (n10 before n9), so
    # their order differs from Slurm's ranks, and it needs a GPU.
    from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as slurm

    hosts = slurm.expand_hostlist(os.environ["SLURM_STEP_NODELIST"])
    counts = slurm.expand_tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])
    # Each job has its own ports, as jobs of the same user may share a host.
    base = _SLURM_PORTS + 8 * (int(os.environ.get("SLURM_JOB_ID", 0)) % 1000)
    workers = [f"{host}:{base + i}" for host, n in zip(hosts, counts) for i in range(n)]
    return resolvers.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": workers}),
        task_type="worker",
        task_id=int(os.environ["SLURM_PROCID"]),
        rpc_layer="grpc",
    )


def _slurm_tasks() -> int:
    """Number of tasks in this process's Slurm step; 0 outside Slurm or for a single task."""
    count = int(os.environ.get("SLURM_STEP_NUM_TASKS", 0))
    return count if count > 1 and "SLURM_PROCID" in os.environ else 0


def _choose(tpu_name: str | None) -> str:
    if os.environ.get("TF_CONFIG") or _slurm_tasks():
        return "multi_worker"
    if tpu_name:
        return "tpu"
    return _choose_here()


def _choose_here() -> str:
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


def on_cpu() -> bool:
    """Whether there is no accelerator, so that a step may take minutes."""
    return not tf.config.list_logical_devices("GPU") + tf.config.list_logical_devices("TPU")

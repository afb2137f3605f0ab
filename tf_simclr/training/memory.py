"""Estimates a training step's memory from its graph, and finds the memory available."""

from __future__ import annotations

import os
import re

import tensorflow as tf
from tensorflow.python.client import device_lib  # The only way to get a GPU's memory limit.

_IN_PLACE = (
    "Add",
    "AddV2",
    "Sub",
    "Mul",
    "Relu",
    "Relu6",
    "ReluGrad",
    "Exp",
    "Identity",
    "Reshape",
)
"""Operations that reuse the memory of an input with no later use."""


def peak_bytes(function) -> int:
    """Peak memory of a function's tensors, if its operations run in the order of tracing.

    Variables and scratch space inside kernels are not counted.

    Args:
      function: a `ConcreteFunction` with static shapes; tensors of unknown shape count as 0.
    """
    inputs = sum(_bytes(tensor) for tensor in function.inputs)
    return inputs + _peak(function.graph)


def available_bytes() -> int | None:
    """Memory available on a replica's device; None where TensorFlow does not report it (TPUs)."""
    if tf.config.list_logical_devices("TPU"):
        return None
    if tf.config.list_logical_devices("GPU"):
        devices = [d for d in device_lib.list_local_devices() if d.device_type == "GPU"]
        return min(device.memory_limit for device in devices)
    return host_bytes() // max(len(tf.config.list_logical_devices("CPU")), 1)


def host_bytes() -> int:
    """Free memory of this host, at most its container's limit."""
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        with open("/proc/meminfo") as file:
            free.append(1024 * int(re.search(r"MemAvailable:\s*(\d+)", file.read())[1]))
        with open("/sys/fs/cgroup/memory.max") as file:
            free.append(int(file.read()))
    except (OSError, TypeError, ValueError):
        pass  # Not Linux, no container, or one without limit ("max").
    return min(free)


def _peak(graph) -> int:
    """Peak bytes beyond the inputs, which the caller holds."""
    operations = graph.get_operations()
    last_use = {}
    for position, operation in enumerate(operations):
        for tensor in operation.inputs:
            last_use[tensor.ref()] = position
    for tensor in graph.outputs:
        last_use[tensor.ref()] = len(operations)
    live = peak = 0
    for position, operation in enumerate(operations):
        dying = sum(
            _bytes(tensor)
            for tensor in {t.ref(): t for t in operation.inputs}.values()
            if last_use[tensor.ref()] == position and tensor.op.type != "Placeholder"
        )
        if operation.type == "Placeholder":
            continue
        made = sum(_bytes(t) for t in operation.outputs if t.ref() in last_use)
        if operation.type in _IN_PLACE and dying >= made:
            live += made - dying
            peak = max(peak, live)
            continue
        peak = max(peak, live + made + _inner_peak(graph, operation))
        live += made - dying
    return peak


def _inner_peak(graph, operation) -> int:
    """Peak bytes of the functions an operation calls, such as the body of a loop."""
    names = []
    for name in operation.node_def.attr:
        attribute = operation.node_def.attr[name]
        if attribute.HasField("func"):
            names.append(attribute.func.name)
    inner = [graph._get_function(name) for name in names]
    return max((_peak(f.graph) for f in inner if hasattr(f, "graph")), default=0)


def _bytes(tensor) -> int:
    if not tensor.shape.is_fully_defined() or tensor.dtype in (tf.resource, tf.variant, tf.string):
        return 0
    return tensor.shape.num_elements() * tensor.dtype.size

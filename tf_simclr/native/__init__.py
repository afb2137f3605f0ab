"""Kernels in C for what TensorFlow's operations do slowly on a CPU: cropping and finishing views.

They are compiled once in a process, in about a second, when first needed: by the machine's own C
compiler, for its own processor, against TensorFlow's C interface. Without a compiler TensorFlow's
operations do the same: crops have the same bits, finished views differ by 1e-5 at most.
"""

from tf_simclr.native.compiling import SWITCH, kernels, state

__all__ = ["SWITCH", "kernels", "state"]

"""NT-Xent over the global batch, and what its embeddings are watched by.

Everything here is computed in float32 whatever the embeddings' dtype.
"""

from tf_simclr.losses.nt_xent import (
    NTXent,
    NTXentOutput,
    chance_level,
    check_temperature,
    nt_xent,
    replica_share,
    untrained_level,
)
from tf_simclr.losses.spread import alignment, effective_rank, embedding_std, uniformity

__all__ = [
    "NTXent",
    "NTXentOutput",
    "alignment",
    "chance_level",
    "check_temperature",
    "effective_rank",
    "embedding_std",
    "nt_xent",
    "replica_share",
    "uniformity",
    "untrained_level",
]

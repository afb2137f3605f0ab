"""Contrastive losses over the global batch, and what their embeddings are watched by.

A loss is a value, a `ContrastiveLoss` (`contrast.py`); NT-Xent is one. A loss says all of itself
that a model or a run asks for, so no other room knows which one it has.

Everything here is computed in float32 whatever the embeddings' dtype.
"""

from tf_simclr.losses.choice import chosen_loss
from tf_simclr.losses.contrast import Contrast, ContrastiveLoss, replica_share
from tf_simclr.losses.nt_xent import NTXent, chance_level, nt_xent, untrained_level
from tf_simclr.losses.spread import alignment, effective_rank, embedding_std, uniformity

__all__ = [
    "Contrast",
    "ContrastiveLoss",
    "NTXent",
    "alignment",
    "chance_level",
    "chosen_loss",
    "effective_rank",
    "embedding_std",
    "nt_xent",
    "replica_share",
    "uniformity",
    "untrained_level",
]

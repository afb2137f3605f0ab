"""Contrastive losses over the global batch, and metrics of their embeddings.

A loss is a value, a `ContrastiveLoss` (`contrast.py`); NT-Xent is one. It describes
itself fully, so no other room needs to know which loss it has.

Everything here is computed in float32 whatever the embeddings' dtype.
"""

from tf_simclr.losses.choice import chosen_loss
from tf_simclr.losses.contrast import Contrast, ContrastiveLoss, contrast_of, replica_share
from tf_simclr.losses.decoupled import DecoupledContrastiveLoss, decoupled
from tf_simclr.losses.nt_logistic import NTLogistic, nt_logistic
from tf_simclr.losses.nt_xent import NTXent, chance_level, nt_xent, untrained_level
from tf_simclr.losses.spread import alignment, effective_rank, embedding_std, uniformity
from tf_simclr.losses.supervised import SupervisedContrastive, supervised
from tf_simclr.losses.triplet import MarginTriplet, triplet

# By the names of --loss; their settings are in `config_rules.LOSS_SETTINGS`.
LOSSES = {
    "nt_xent": NTXent,
    "decoupled": DecoupledContrastiveLoss,
    "nt_logistic": NTLogistic,
    "triplet": MarginTriplet,
    "supervised": SupervisedContrastive,
}

__all__ = [
    "LOSSES",
    "Contrast",
    "ContrastiveLoss",
    "DecoupledContrastiveLoss",
    "MarginTriplet",
    "NTLogistic",
    "NTXent",
    "SupervisedContrastive",
    "alignment",
    "chance_level",
    "chosen_loss",
    "contrast_of",
    "decoupled",
    "effective_rank",
    "embedding_std",
    "nt_logistic",
    "nt_xent",
    "replica_share",
    "supervised",
    "triplet",
    "uniformity",
    "untrained_level",
]

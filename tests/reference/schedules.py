"""Linear warmup, then cosine to zero, in plain Python: the oracle of the schedule tests.

SimCLR, arXiv:2002.05709, section 2.2 and appendix B.6: linear warmup for the first epochs, then
cosine decay without restarts (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5).
"""

from __future__ import annotations

import math


def warmup_cosine(step: int, peak: float, warmup_steps: int, total_steps: int) -> float:
    """The learning rate of the update that takes step `step` to `step + 1`; 0 from the end on."""
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))

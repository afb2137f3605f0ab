"""A training run of any model: its plan, its session and the loop over steps."""

from tf_simclr.training.plan import Plan, make_plan
from tf_simclr.training.session import Session

__all__ = ["Plan", "Session", "make_plan"]

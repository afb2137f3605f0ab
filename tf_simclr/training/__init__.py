"""A training run, whatever it trains: its plan, its session, the loop over steps."""

from tf_simclr.training.plan import Plan, make_plan
from tf_simclr.training.session import Session

__all__ = ["Plan", "Session", "make_plan"]

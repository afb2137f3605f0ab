"""Copies among the images of a data set: exact, near, between training and evaluation."""

from tf_simclr.duplicates.cosine import Neighborhood
from tf_simclr.duplicates.findings import Findings
from tf_simclr.duplicates.groups import Finder, Groups, groups_of
from tf_simclr.duplicates.hashing import hashes_of
from tf_simclr.duplicates.leaks import leaks_of
from tf_simclr.duplicates.sheet import contact_sheet

__all__ = [
    "Finder",
    "Findings",
    "Groups",
    "Neighborhood",
    "contact_sheet",
    "groups_of",
    "hashes_of",
    "leaks_of",
]

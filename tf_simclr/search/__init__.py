"""The nearest images in a table of embeddings: queries, backends, and what is shown."""

from tf_simclr.search.answers import Answer, Match, answers, as_json, as_text
from tf_simclr.search.backends import BACKENDS, exact, faiss, resolve
from tf_simclr.search.queries import Queries, check_encoder, image_of, of_encoder, of_key
from tf_simclr.search.sheet import contact_sheet

__all__ = [
    "BACKENDS",
    "Answer",
    "Match",
    "Queries",
    "answers",
    "as_json",
    "as_text",
    "check_encoder",
    "contact_sheet",
    "exact",
    "faiss",
    "image_of",
    "of_encoder",
    "of_key",
    "resolve",
]

"""Tables of embeddings: the vector of every image of a data set, in files that others read."""

from tf_simclr.embeddings.formats import FORMATS, Format
from tf_simclr.embeddings.rows import Rows, bytes_of, text_of
from tf_simclr.embeddings.table import Table, open_table
from tf_simclr.embeddings.writing import Written, write_table

__all__ = [
    "FORMATS",
    "Format",
    "Rows",
    "Table",
    "Written",
    "bytes_of",
    "open_table",
    "text_of",
    "write_table",
]

"""What a person looks at: pictures of views, curves and accuracies, and a page that holds them."""

from tf_simclr.report import sheet
from tf_simclr.report.page import document, write_report
from tf_simclr.report.pictures import view_grid
from tf_simclr.report.sections import spread

__all__ = ["document", "sheet", "spread", "view_grid", "write_report"]

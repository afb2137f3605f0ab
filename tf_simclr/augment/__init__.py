"""The paper's image operations as pure, batched functions of (images, parameters).

Images are float32 [B, H, W, C] in [0, 1]; parameters are one per image, [B]. The pipeline draws
them (`data/draws.py`), so a test can give an oracle the same parameters. All shapes are static and
all operations compile under XLA, so they can run on the accelerator inside the step.
SimCLR, arXiv:2002.05709, appendix A.
"""

from tf_simclr.augment.blur import gaussian_blur
from tf_simclr.augment.color import (
    JITTER_ORDERS,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    to_grayscale,
)
from tf_simclr.augment.geometry import center_crop_resize, eval_crop_proportion, resize_crop
from tf_simclr.augment.views import finish_views

__all__ = [
    "JITTER_ORDERS",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "center_crop_resize",
    "color_jitter",
    "eval_crop_proportion",
    "finish_views",
    "gaussian_blur",
    "resize_crop",
    "to_grayscale",
]

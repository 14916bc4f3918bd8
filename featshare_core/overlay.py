"""The picture that people look at: an image with its mask drawn over it."""
from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from featshare_core.labels import LabelSet

Image = npt.NDArray[np.uint8]


def paint(image: Image, mask: npt.NDArray[np.uint8], labels: LabelSet, opacity: float) -> Image:
    """
    Return the image with each pixel mixed with its class's colour.

    :param image: HxWx3 uint8 RGB; resized to the mask where their sizes differ.
    :param mask: HxW uint8 class ids.
    :param opacity: 0 shows the image alone, 1 the colours alone.
    """
    height, width = mask.shape
    if image.shape[:2] != mask.shape:
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA),
                           np.uint8)
    colors = cv2.applyColorMap(mask, labels.palette().reshape(256, 1, 3))
    return cv2.addWeighted(image, 1 - opacity, colors, opacity, 0).astype(np.uint8, copy=False)

"""Image files, which are refused where they are incomplete."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

START_OF_SCAN, END_OF_IMAGE = b'\xff\xda', b'\xff\xd9'
"""JPEG markers."""


def read_file(path: str | Path, flags: int = cv2.IMREAD_UNCHANGED) -> npt.NDArray[Any]:
    """
    Return an image file as OpenCV decodes it, HxW or HxWx3 (BGR).

    :param flags: OpenCV's ``IMREAD_...``.
    :raises ValueError: naming the file, where it cannot be decoded, or is a truncated JPEG, whose
        missing part OpenCV would decode as grey.
    :raises OSError: where it cannot be read.
    """
    content = Path(path).read_bytes()
    # No end marker can be part of what follows the start of a scan; before it, a thumbnail's may.
    if content.startswith(b'\xff\xd8') \
            and content.find(END_OF_IMAGE, content.rfind(START_OF_SCAN)) < 0:
        raise ValueError(f'{path} is a truncated JPEG: {len(content)} bytes, and the end marker '
                         f'is missing')
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    if image is None:
        raise ValueError(f'{path} cannot be decoded as an image')
    return image

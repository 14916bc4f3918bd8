"""Image files, which are refused where they are incomplete or damaged."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from featshare_core.pictures import JPEG_MAGIC, PictureError, decode_picture
from featshare_core.text import printable


def read_file(path: str | Path, flags: int = cv2.IMREAD_UNCHANGED) -> npt.NDArray[Any]:
    """
    Return an image file as OpenCV decodes it, HxW or HxWx3 (BGR).

    :param flags: OpenCV's ``IMREAD_...``. A JPEG is always HxWx3, in the stored orientation.
    :raises ValueError: naming the file, where it cannot be decoded, or is a JPEG that is truncated
        or damaged, which OpenCV would decode to wrong pixels.
    :raises OSError: where it cannot be read.
    """
    content = Path(path).read_bytes()
    if content.startswith(JPEG_MAGIC):
        try:
            return decode_picture(content, 'BGR')
        except PictureError as error:
            raise ValueError(f'{printable(path)}: {error}') from error
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    if image is None:
        raise ValueError(f'{printable(path)} cannot be decoded as an image')
    return image

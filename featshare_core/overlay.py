# Copyright 2026 featshare maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The picture that people look at: an image with its mask drawn over it."""
from __future__ import annotations

import cv2
from featshare_core.labels import LabelSet
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

ROWS = 28
"""Legend rows in the height of a picture, which set a row's height in large pictures."""
LOWEST_ROW = 12
"""Smallest height of a legend row that can be read, in pixels."""


def paint(image: Image, mask: npt.NDArray[np.uint8], labels: LabelSet, opacity: float) -> Image:
    """
    Return the image with each pixel mixed with its class's colour.

    :param image: HxWx3 uint8 RGB; resized to the mask where their sizes differ.
    :param mask: HxW uint8 class ids.
    :param opacity: 0 shows the image alone, 1 the colours alone, exactly as the labels have them.
    """
    colors = cv2.applyColorMap(mask, labels.palette().reshape(256, 1, 3)).astype(
        np.uint8, copy=False)
    if opacity == 1:
        return colors
    height, width = mask.shape
    if image.shape[:2] != mask.shape:
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA),
                           np.uint8)
    return cv2.addWeighted(image, 1 - opacity, colors, opacity, 0).astype(np.uint8, copy=False)


def draw_legend(picture: Image, mask: npt.NDArray[np.uint8], labels: LabelSet) -> None:
    """
    Draw the classes' colours and names into the top left corner of a picture, in place.

    All classes are drawn, in the order of their ids, so that the legend does not change from
    frame to frame. If the picture is not high enough for all, only classes of the mask are drawn,
    the largest areas first.

    :param picture: HxWx3 uint8 RGB, contiguous.
    :param mask: HxW uint8 class ids.
    """
    row = max(picture.shape[0] // ROWS, LOWEST_ROW)  # height in pixels
    margin = row // 4
    room = (picture.shape[0] - 2 * margin) // row
    shown = list(range(len(labels)))
    if len(shown) > room:
        areas = np.bincount(mask.ravel(), minlength=256)[:len(labels)]
        by_area = np.argsort(-areas, kind='stable')
        shown = [int(index) for index in by_area if areas[index]][:max(room, 0)]
    if not shown:
        return
    # OpenCV's fonts have ASCII characters only.
    names = [labels.names[index].encode('ascii', 'replace').decode() for index in shown]
    font, scale, thickness = cv2.FONT_HERSHEY_SIMPLEX, row / 38, max(1, row // 18)
    widest = max(cv2.getTextSize(name, font, scale, thickness)[0][0] for name in names)
    box = picture[:2 * margin + row * len(shown), :3 * margin + row + widest]
    box //= 4  # dark enough for white text on any picture
    for place, (index, name) in enumerate(zip(shown, names)):
        top = margin + place * row
        # One pixel is left between two colours; the frame shows those that are nearly black.
        corners = (margin, top), (margin + row - 2, top + row - 2)
        cv2.rectangle(picture, *corners, labels.colors[index], cv2.FILLED)
        cv2.rectangle(picture, *corners, (160, 160, 160))
        cv2.putText(picture, name, (2 * margin + row, top + round(0.75 * row)), font, scale,
                    (255, 255, 255), thickness, cv2.LINE_AA)

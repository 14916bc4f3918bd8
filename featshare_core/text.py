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
"""Text that users and others wrote: sizes, and foreign text for logs and messages."""
from __future__ import annotations


def printable(text: object, longest: int = 100) -> str:
    """
    Return foreign text on one line: what cannot be printed is escaped, what is too long is cut.

    Line breaks, escape sequences and characters that change the direction of writing are escaped,
    so that no log line can be forged.

    :param longest: limit of the result, in characters, with the note that text was cut; 40 or
        more.
    """
    text = str(text)
    if len(text) <= longest and text.isprintable():
        return text
    shown = ''.join(
        character if character.isprintable() else character.encode('unicode_escape').decode()
        for character in text[:longest])
    if len(text) <= longest and len(shown) <= longest:
        return shown
    note = f'... ({len(text)} characters)'
    return shown[:longest - len(note)] + note


def parse_size(text: str) -> tuple[int, int]:
    """
    Return (width, height) in pixels of text such as ``640x480``.

    :raises ValueError: where it has another form, or a side is 0.
    """
    width, _, height = text.partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f'{text!r} is no size such as 512x512')
    return int(width), int(height)

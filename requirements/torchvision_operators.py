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
"""
Lets torchvision's wheel from PyPI be imported beside a CPU build of PyTorch.

That wheel is built for CUDA: beside a CPU build its operators do not load, and its import fails
because they have no names. They are for detection; nobody here calls them, so names are enough.
``make env`` puts this into an environment that needs it, with a .pth file that runs it at each
start of Python. Nothing else happens until torchvision is imported.
"""
from importlib.abc import MetaPathFinder
import sys

OPERATORS = ('nms', 'qnms', 'roi_align', 'qroi_align', '_roi_align_backward', 'roi_pool',
             '_roi_pool_backward', 'ps_roi_align', '_ps_roi_align_backward', 'ps_roi_pool',
             '_ps_roi_pool_backward', 'deform_conv2d', '_deform_conv2d_backward')
kept = []  # the names exist as long as the library object


class Finder(MetaPathFinder):
    """Names the operators when torchvision is first imported; finds nothing itself."""

    def find_spec(self, fullname, path=None, target=None):
        """Return None: the import continues as usual."""
        if fullname == 'torchvision':
            sys.meta_path.remove(self)
            import torch
            kept.append(torch.library.Library('torchvision', 'DEF'))
            for operator in OPERATORS:
                kept[0].define(f'{operator}(Tensor x) -> Tensor')
        return None


sys.meta_path.insert(0, Finder())

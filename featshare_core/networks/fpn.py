"""The thesis's network (ch. 3): a feature pyramid on a four-stage backbone, cut at a level."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featshare_core.networks.densenet import DenseNet121
from featshare_core.networks.efficientnet_lite import EfficientNetLite0
from featshare_core.networks.split import SplitNetwork, Tensors

PYRAMID_CHANNELS = 128
HEAD_CHANNELS = 64
TAIL_CHANNELS = 32
BACKBONES: dict[str, type[DenseNet121] | type[EfficientNetLite0]] = {
    'densenet121': DenseNet121, 'efficientnet-lite0': EfficientNetLite0}


def upsample(features: Tensor, like: Tensor) -> Tensor:
    """Return ``features`` bilinearly upsampled to the height and width of ``like``."""
    if features.shape[-2:] == like.shape[-2:]:
        return features
    return F.interpolate(features, size=like.shape[-2:], mode='bilinear', align_corners=False)


class FPN(SplitNetwork):
    """
    Feature pyramid network on a four-stage backbone, with ``shared_levels`` levels cached.

    1x1 laterals, top-down upsampling and addition, and one linear 3x3 head a level. The decoder
    concatenates the heads at stride 4, upsampled x2 at a time: conv-BN-ReLU, x2, conv-BN-ReLU,
    conv; the last x2 is left to the caller, which upsamples to its own size anyway.

    The thesis does not print the first and the last decoder convolution's kernel size. We take
    1x1, because a 1x1 convolution commutes with bilinear upsampling. So the first one runs on
    each level at that level's own stride, the deep levels' part of its sum is computed once, on
    the key frame, and the last one runs before its upsampling: each exactly, for a fraction of
    the work.

    :param classes: number of logits a pixel.
    :param shared_levels: levels cached on key frames, counted from the deepest; 0 to levels - 1.
        The weights do not depend on it.
    :param levels: pyramid levels, 1 to 4; 2 is the thesis's truncated (-2) network.
    :param backbone: a key of ``BACKBONES``; the thesis's is DenseNet-121.
    :param key_norms: the decoder normalises key frames (``forward``, ``decode_key``) with batch
        norms of their own, apart from those of current frames (``decode``).
    """

    input_multiple = 32

    def __init__(self, classes: int, shared_levels: int = 2, levels: int = 4,
                 backbone: str = 'densenet121', key_norms: bool = False) -> None:
        super().__init__()
        if not 0 <= shared_levels < levels:
            raise ValueError(f'shared_levels must be 0 to {levels - 1} in a network of {levels} '
                             f'levels, not {shared_levels}')
        self.shared_levels = shared_levels
        self.levels = levels
        self.backbone = BACKBONES[backbone](levels)
        self.laterals = nn.ModuleList(
            nn.Conv2d(c, PYRAMID_CHANNELS, 1) for c in self.backbone.channels[:levels])
        self.heads = nn.ModuleList(
            nn.Conv2d(PYRAMID_CHANNELS, HEAD_CHANNELS, 3, padding=1) for _ in range(levels))
        self.fusion = nn.Conv2d(levels * HEAD_CHANNELS, HEAD_CHANNELS, 1, bias=False)
        self.fusion_norm = nn.BatchNorm2d(HEAD_CHANNELS)
        self.tail = nn.Conv2d(HEAD_CHANNELS, TAIL_CHANNELS, 3, padding=1, bias=False)
        self.tail_norm = nn.BatchNorm2d(TAIL_CHANNELS)
        self.classifier = nn.Conv2d(TAIL_CHANNELS, classes, 1)
        if key_norms:
            self.key_fusion_norm = nn.BatchNorm2d(HEAD_CHANNELS)
            self.key_tail_norm = nn.BatchNorm2d(TAIL_CHANNELS)
        self.key_norms = bool(key_norms)

    def low(self, image: Tensor) -> Tensors:
        """Return the backbone's features of the levels that are not shared, finest first."""
        low: list[Tensor] = []
        for index in range(self.levels - self.shared_levels):
            low.append(self.backbone.stage(index, low[-1] if low else image))
        return tuple(low)

    def high(self, low: Tensors) -> Tensors:
        """
        Return ``(pyramid, fused)`` at the stride of the deepest low level, or ``()``.

        ``pyramid`` (Nx128) is the deep levels' top-down sum, ``fused`` (Nx64) their part of the
        decoder's first convolution; both are upsampled here, once, not on every frame.
        """
        if not self.shared_levels:
            return ()
        deep: list[Tensor] = []
        for index in range(len(low), self.levels):
            deep.append(self.backbone.stage(index, deep[-1] if deep else low[-1]))
        return tuple(upsample(t, low[-1]) for t in self._top_down(tuple(deep), len(low), ()))

    def decode(self, low: Tensors, shared: Tensors) -> Tensor:
        """Return NxCx(H/2)x(W/2) logits from the low levels and ``high``'s tensors."""
        return self._decode(low, shared, self.fusion_norm, self.tail_norm)

    def decode_key(self, low: Tensors, shared: Tensors) -> Tensor:
        """Return the logits of the key frame that ``shared`` comes from; see ``key_norms``."""
        if not self.key_norms:
            return self.decode(low, shared)
        return self._decode(low, shared, self.key_fusion_norm, self.key_tail_norm)

    def _decode(self, low: Tensors, shared: Tensors, fusion_norm: nn.Module,
                tail_norm: nn.Module) -> Tensor:
        _, fused = self._top_down(low, 0, shared)
        features = F.relu(fusion_norm(fused))
        features = F.interpolate(features, scale_factor=2, mode='bilinear', align_corners=False)
        return self.classifier(F.relu(tail_norm(self.tail(features))))

    def _top_down(self, features: Tensors, first: int, above: Tensors) -> Tensors:
        """
        Merge the levels ``first``, ``first + 1``, ... and what comes from above, deepest first.

        Returns ``(pyramid, fused)`` at the stride of the finest of ``features``; ``above`` is
        the same pair of the next deeper level, or ``()`` at the top.
        """
        for index in reversed(range(first, first + len(features))):
            pyramid = self.laterals[index](features[index - first])
            if above:
                pyramid = pyramid + upsample(above[0], pyramid)
            fused = F.conv2d(self.heads[index](pyramid), self._fusion_weight(index))
            if above:
                fused = fused + upsample(above[1], fused)
            above = pyramid, fused
        return above

    def _fusion_weight(self, index: int) -> Tensor:
        """Return the first decoder convolution's columns for one level's head."""
        return torch.narrow(self.fusion.weight, 1, index * HEAD_CHANNELS, HEAD_CHANNELS)

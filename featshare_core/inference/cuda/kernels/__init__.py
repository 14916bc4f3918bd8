"""What ``CudaEngine`` runs in place of PyTorch's operations; importing it needs Triton."""
from featshare_core.inference.cuda.kernels.images import decide, normalise
from featshare_core.inference.cuda.kernels.sampling import gate, warp
from featshare_core.inference.cuda.kernels.search import displacement, mismatch
from featshare_core.networks.split import Ops

OPS = Ops(displacement, warp, mismatch, gate)
"""Kernels that carry features over."""

__all__ = ['OPS', 'decide', 'normalise']

"""What ``CudaEngine`` runs in place of PyTorch's operations; importing it needs Triton."""
from featshare_core.inference.cuda.kernels.images import decide, normalise
from featshare_core.inference.cuda.kernels.sampling import warp
from featshare_core.inference.cuda.kernels.search import displacement, mismatch

__all__ = ['decide', 'displacement', 'mismatch', 'normalise', 'warp']

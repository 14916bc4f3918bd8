"""The engine for CUDA devices: graphs, folding, fusing, kernels."""

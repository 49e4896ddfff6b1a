"""How Mamba-2's operations run: plain PyTorch as the oracle, mamba-ssm and causal-conv1d where
there is a GPU.
"""

from minipuzzle.kernels.choose import Kernels, choose

__all__ = ["Kernels", "choose"]

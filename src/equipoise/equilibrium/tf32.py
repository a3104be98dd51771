"""Full single precision on a GPU, for everything that is certified."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let a GPU compute matrix products and convolutions with all bits of single precision.

    TF32 keeps 10 bits of each operand, and solves then stagnate at bounds of about 1e-2. Rough
    evaluations in bfloat16 are not affected.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before

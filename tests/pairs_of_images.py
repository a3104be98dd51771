"""Pairs of images on which a network shows whether it is monotone."""

import torch

from equipoise.vectors import inner, norm, per_sample
from problems import random_complex

BATCH, SHAPE = 50, (11, 9)


def scrambled(network, seed):
    """The network in double precision with weights of every size."""
    network = network.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.add_(noise * torch.rand((), generator=generator) * 3)
    return network


def scales(seed, n=BATCH):
    generator = torch.Generator().manual_seed(seed)
    return torch.exp(3 * torch.randn(n, generator=generator, dtype=torch.float64))


def pairs(seed):
    """Pairs of images, far apart and close to each other."""
    first = random_complex((BATCH, *SHAPE), seed)
    apart = torch.logspace(-3, 1, BATCH, dtype=torch.float64)
    return first, first + per_sample(apart, first) * random_complex((BATCH, *SHAPE), seed + 1000)


def margins(network, x, y):
    """``(<F(x) - F(y), x - y> / ||x - y||^2, ||H(x) - H(y)|| / ||x - y||)`` of each pair."""
    with torch.no_grad():
        h = network(x) - network(y)
    d = x - y
    return inner(d - h, d) / norm(d) ** 2, norm(h) / norm(d)

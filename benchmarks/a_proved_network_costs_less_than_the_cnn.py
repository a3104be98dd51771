"""The cost of one evaluation of each proved network, relative to the CNN of 5 x 64.

    python benchmarks/a_proved_network_costs_less_than_the_cnn.py
    python benchmarks/a_proved_network_costs_less_than_the_cnn.py --size 320 --repeats 10

It prints CPU milliseconds of one thread for an image of 256 x 256 complex pixels. The networks take
turns, so that other work on the machine slows all of them alike, and the fastest of several
evaluations counts. It ends with an error if a ridge takes more than half the time of the CNN, or a
deeper network more than its time.
"""

import argparse
import sys
import time
from typing import Any

import torch

from equipoise.networks.cnn import CNN
from equipoise.networks.composed import Composed
from equipoise.networks.layered import Layered
from equipoise.networks.ridge import Ridge

ALLOWED = {"ridge": 0.5, "layered": 1.0, "composed": 1.0}


def networks() -> dict[str, Any]:
    """Every network with the default sizes of its configuration."""
    one = torch.ones(1)
    proved = {"ridge": Ridge(), "layered": Layered(), "composed": Composed()}
    return {"cnn": CNN(64, 5), **{name: network.at(one) for name, network in proved.items()}}


def milliseconds(network: Any, image: torch.Tensor) -> float:
    """CPU time of one evaluation."""
    started = time.process_time()
    network(image)
    return 1e3 * (time.process_time() - started)


def main() -> None:
    """Time all networks in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shape = (1, arguments.size, arguments.size)
    image = torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    found: dict[str, list[float]] = {name: [] for name in networks()}
    with torch.no_grad():
        for _ in range(arguments.repeats):
            for name, network in networks().items():
                found[name].append(milliseconds(network, image))
    fastest = {name: min(times) for name, times in found.items()}
    for name, value in fastest.items():
        print(f"{name:9s} {value:6.0f} ms  {value / fastest['cnn']:.2f} of the CNN")
    slow = [name for name, most in ALLOWED.items() if fastest[name] > most * fastest["cnn"]]
    if slow:
        sys.exit(f"slower than allowed: {', '.join(slow)}")


if __name__ == "__main__":
    main()

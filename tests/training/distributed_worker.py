"""One of the processes of tests/training/test_distributed.py."""

import os
import signal
import sys
from pathlib import Path

import torch

from equipoise.training import train as training
from equipoise.training.config import load_config
from equipoise.training.distributed import joined
from equipoise.training.step import add_gradient


def main(task: str, config: Path, folder: Path) -> None:
    settings = load_config(config)
    with joined(torch.device("cpu")) as processes:
        if task == "train":
            training.train(settings, folder, processes=processes)
            save_gradient(settings, folder, processes)
            return
        training.CHECKPOINT_EVERY = 2
        training.take_step = dying(training.take_step, processes)
        training.train(settings, folder, processes=processes)


def save_gradient(settings, folder, processes) -> None:
    run = training.Run(settings, folder, print, processes=processes)
    run.state.step = settings.warmup_steps
    add_gradient(run.state, run.pool, run.pool.parts[0])
    weights = list(run.state.model.parameters())
    processes.average_gradients(weights)
    mean = torch.cat([p.grad.flatten() for p in weights if p.grad is not None])
    torch.save(mean, folder / f"{processes.rank}.pt")


def dying(take_step, processes):
    """The second process is killed in the third step."""

    def step(state, pool, ranks):
        if processes.rank == 1 and state.step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return take_step(state, pool, ranks)

    return step


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))

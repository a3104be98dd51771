"""Samples that workers prepare: the same ones, in the same order, and errors in words."""

import os

import numpy as np
import pytest
import torch

from equipoise.outcome import BadInputError
from equipoise.physics.generic import FunctionOp
from equipoise.training.config import TrainConfig
from equipoise.training.feed import Feed, usual_workers
from equipoise.training.pool import Draws, Pool
from equipoise.training.sources.dataset import ImageDataset
from equipoise.training.sources.simulated import Simulation
from equipoise.training.sources.source import Sample


@pytest.fixture
def config():
    return TrainConfig(
        name="tiny",
        data={"train": ["a"], "validation": ["b"]},
        model={"method": "mol-ridge"},
        crop=24,
        warmup_steps=2,
        steps=12,
        pool=3,
        pool_uses=2,
        accumulate=2,
    )


def drawn(config, workers):
    images = list(torch.rand((2, 32, 32), generator=torch.Generator().manual_seed(0)) + 0j)
    with Feed(Draws(config, ImageDataset(Simulation(coils=(2, 3)), images)), workers) as feed:
        pool = Pool(config, feed, range(2, 4))
        # A return to an earlier state asks for other samples than those that were prepared.
        for step in (*range(9), *range(5, 14)):
            for part in pool.parts:
                yield pool.sample(step, part)
        assert feed.waited > 0


def test_workers_draw_what_the_training_itself_draws(config):
    pairs = list(zip(drawn(config, 0), drawn(config, 2)))
    assert len(pairs) == 2 * 18
    for own, prepared in pairs:
        assert torch.equal(own.data, prepared.data)
        assert torch.equal(own.operator.csm, prepared.operator.csm)


def refuse(key):
    raise BadInputError(f"{os.getpid()}")


def test_an_error_of_a_worker_reaches_the_training_in_its_own_words():
    with Feed(refuse, 1) as feed, pytest.raises(BadInputError, match=r"^\d+$") as error:
        feed.take((0, 0), lambda: [(0, 0)])
    assert str(error.value) != str(os.getpid())


def test_one_processor_is_left_to_each_training(monkeypatch):
    monkeypatch.setattr("equipoise.training.feed.usable_processors", lambda: 8)
    assert [usual_workers(n) for n in (1, 2, 4, 16)] == [4, 3, 1, 0]


def unpicklable(key):
    operator = FunctionOp(lambda x: x, lambda b: b, (1, 4, 4))
    return Sample(operator, np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), 0.1)


def test_samples_that_cannot_be_sent_are_refused_with_advice():
    with Feed(unpicklable, 1) as feed, pytest.raises(BadInputError, match="workers=0"):
        feed.take((0, 0), lambda: [(0, 0)])

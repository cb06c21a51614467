"""Results in order; after an error nothing runs on."""

import asyncio

import pytest

from stages.common.gathering import gather_all


def test_results_stand_in_the_order_of_the_coroutines():
    async def late(seconds, value):
        await asyncio.sleep(seconds)
        return value

    assert asyncio.run(gather_all(late(0.02 - n / 100, n) for n in range(3))) == [0, 1, 2]
    assert asyncio.run(gather_all([])) == []


def test_an_error_ends_the_others_before_it_is_raised():
    ended = []

    async def wait():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)  # what is closed here must be waited for
            ended.append("closed")

    async def fail():
        await asyncio.sleep(0)
        raise ValueError("no")

    async def both():
        with pytest.raises(ValueError, match="no"):
            await gather_all([wait(), fail(), wait()])
        return list(ended)

    assert asyncio.run(both()) == ["closed", "closed"]

"""Items made in a thread: the same ones, in order, one ahead and no more, errors in their place."""

import threading

import pytest

from stages.memory.ahead import read_ahead


def test_the_items_come_in_order_and_falsy_ones_too():
    assert list(read_ahead(iter([3, 0, None, "", 1]))) == [3, 0, None, "", 1]
    assert list(read_ahead(iter([]))) == []


def test_one_item_is_made_while_the_one_before_is_in_use_and_no_more():
    made, second_is_there = [], threading.Event()

    def items():
        for number in range(4):
            made.append(number)
            if number == 1:
                second_is_there.set()
            yield number

    ahead = read_ahead(items())
    assert next(ahead) == 0
    assert second_is_there.wait(10)  # nobody asked for it
    assert made == [0, 1]
    ahead.close()
    assert made == [0, 1]


def test_an_error_comes_in_its_place():
    def items():
        yield 1
        raise ValueError("torn")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="torn"):
        next(ahead)


def test_the_thread_ends_with_the_caller():
    ahead = read_ahead(iter(range(9)))
    next(ahead)
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]

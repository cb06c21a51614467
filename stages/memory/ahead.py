"""Makes the next item while the caller works with the one before: cutting a chunk hides behind the turn that is generated."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items in the same order, each made in a thread while the one before is in use; one is held at most.

    What `items` raises is raised here, in its place. A caller who stops early ends the thread (after the item at work).
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as pool:
        coming = pool.submit(_next, items)
        while found := coming.result():
            coming = pool.submit(_next, items)
            yield found[0]


def _next(items: Iterator[T]) -> tuple[T] | None:
    """The next item in a tuple, so that no item is mistaken for the end."""
    for item in items:
        return (item,)
    return None

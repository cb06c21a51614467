"""Task-balanced batches of prompts (paper section 4.2, recipe section 3).

Rules, with K tasks present and batch size B:
1. Each batch holds floor(B / K) prompts of every task; the B mod K extras rotate over the tasks, so any K consecutive
   batches are exactly balanced. B < K is an error.
2. Every sample of a task is seen before any of them repeats.
3. No prompt occurs twice in a batch, unless its task has fewer samples than its share.

Departure: the authors' sampler uses the global random state and drops a tail when it refills; this one is a function of
its seed, drops nothing and resumes from `state_dict`.

    >>> sampler = TaskBalancedSampler(["numerical", "numerical", "multi_hop"], batch_size=2, seed=17)
    >>> sorted(["numerical", "numerical", "multi_hop"][i] for i in next(sampler))
    ['multi_hop', 'numerical']
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from stages.common.errors import ConfigError, InputError
from stages.common.seeds import derive_seed, rng


class TaskBalancedSampler:
    """Iterates lists of sample indices without end.

    task_types: the task of each sample, in dataset order.
    batch_size: B, prompts per batch.
    Raises ConfigError if B is smaller than the number of tasks, InputError if there is no sample.
    """

    def __init__(self, task_types: Sequence[str], batch_size: int, seed: int) -> None:
        if not task_types:
            raise InputError(
                "there is no sample to train on: look at the earlier stages' summary.json for what they dropped."
            )
        self._indices = {
            task: [i for i, other in enumerate(task_types) if other == task]
            for task in sorted({str(task) for task in task_types})
        }
        self._tasks = list(self._indices)
        if batch_size < len(self._tasks):
            raise ConfigError(
                f"batch_size is {batch_size}, but {len(self._tasks)} task types are present ({', '.join(self._tasks)}) "
                f"and each needs a place. Set rl.shared.batch_size to {len(self._tasks)} or more."
            )
        self._batch_size = batch_size
        self._seed = seed
        self._dataset = f"{derive_seed(*task_types):016x}"
        self._batches = 0
        self._epoch = dict.fromkeys(self._tasks, 0)
        self._queue = {task: self._permutation(task, 0) for task in self._tasks}

    def __iter__(self) -> Iterator[list[int]]:
        return self

    def __next__(self) -> list[int]:
        """The next batch: B indices, task by task."""
        share, extras = divmod(self._batch_size, len(self._tasks))
        first = self._batches * extras
        extra_tasks = {self._tasks[(first + i) % len(self._tasks)] for i in range(extras)}
        batch: list[int] = []
        for task in self._tasks:
            batch += self.draw(task, share + (task in extra_tasks), exclude=())
        self._batches += 1
        return batch

    def draw(self, task: str, count: int, exclude: Collection[int]) -> list[int]:
        """`count` further indices of one task; those in `exclude` come last, after all others of the task.

        Dynamic sampling asks for replacements with this, excluding what the batch already holds.
        """
        drawn: list[int] = []
        while len(drawn) < count:
            queue = self._queue[task]
            if not queue:
                self._epoch[task] += 1
                queue = self._queue[task] = self._permutation(task, self._epoch[task])
            taken = {*drawn, *exclude}
            fresh = [place for place, index in enumerate(queue) if index not in taken]
            if fresh:
                drawn.append(queue.pop(fresh[0]))
            elif len(taken & set(self._indices[task])) < len(self._indices[task]):
                # What is left of this epoch is already in the batch, but the task has others: start the next epoch
                # beside it. The rest keeps its place in front, so nothing is lost and nothing repeats early.
                self._epoch[task] += 1
                queue.extend(self._permutation(task, self._epoch[task]))
            else:
                drawn.append(queue.pop(0))
        return drawn

    def _permutation(self, task: str, epoch: int) -> list[int]:
        order = list(self._indices[task])
        rng(self._seed, "sampler", task, epoch).shuffle(order)
        return order

    def state_dict(self) -> dict[str, Any]:
        """A JSON-safe snapshot, independent of later draws."""
        return {
            "seed": self._seed,
            "batch_size": self._batch_size,
            "dataset": self._dataset,
            "batches": self._batches,
            "epoch": dict(self._epoch),
            "queue": {task: list(queue) for task, queue in self._queue.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the snapshot was taken. InputError if it belongs to other data, batch size or seed."""
        for name, mine in (("seed", self._seed), ("batch_size", self._batch_size), ("dataset", self._dataset)):
            if state[name] != mine:
                raise InputError(
                    f"the sampler's snapshot has {name} {state[name]}, this run has {mine}: it belongs to another run. "
                    "Delete the stage's folder under .state and run again."
                )
        self._batches = state["batches"]
        self._epoch = dict(state["epoch"])
        self._queue = {task: list(queue) for task, queue in state["queue"].items()}

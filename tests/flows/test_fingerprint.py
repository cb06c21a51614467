"""The identity of a stage: what counts and what does not."""

from __future__ import annotations

import hashlib

import pytest

from flows.fingerprint import fingerprint

DEPS = {"data": "aa.dir", "stages/a.py": "bb"}
PARAMETERS = {"sft": {"steps": 2, "learning_rate": 2e-5}, "seed": 17}


def test_it_is_the_sha256_of_canonical_json() -> None:
    text = (
        '{"command":"run","dependencies":{"data":"aa.dir","stages/a.py":"bb"},'
        '"parameters":{"seed":17,"sft":{"learning_rate":2e-05,"steps":2}}}'
    )
    assert fingerprint("run", DEPS, PARAMETERS) == hashlib.sha256(text.encode()).hexdigest()


def test_the_order_of_keys_and_the_type_of_a_whole_number_do_not_count() -> None:
    other = {"seed": 17.0, "sft": {"learning_rate": 0.00002, "steps": 2}}
    assert fingerprint("run", dict(reversed(DEPS.items())), other) == fingerprint("run", DEPS, PARAMETERS)


@pytest.mark.parametrize(
    ("command", "deps", "parameters"),
    [
        ("run it", DEPS, PARAMETERS),
        ("run", {**DEPS, "data": None}, PARAMETERS),
        ("run", {"data": "aa.dir"}, PARAMETERS),
        ("run", DEPS, {**PARAMETERS, "seed": 18}),
        ("run", DEPS, {**PARAMETERS, "seed": "17"}),
    ],
)
def test_everything_that_a_stage_depends_on_counts(
    command: str, deps: dict[str, str | None], parameters: dict[str, object]
) -> None:
    assert fingerprint(command, deps, parameters) != fingerprint("run", DEPS, PARAMETERS)

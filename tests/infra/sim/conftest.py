"""The simulated cloud of this worker, left as it was found."""

import pytest


@pytest.fixture
def quiet(simulated):
    """The cloud without faults; afterwards every instance of the test has ended."""
    simulated.clear()
    yield simulated
    simulated.clear()
    for item in simulated.alive():
        simulated.hardware_death(item["id"])
    simulated.wait(lambda: not simulated.alive(), 10, "the end of all instances")

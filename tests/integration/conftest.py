"""A simulated cloud for one test. `cloud`, for runs: afterwards the journal must show that nothing was done twice and nothing is
left. `desk`, for stages of a project: the bucket is the account's, as for `longfuse run --on ec2`.
"""

import pytest

from infra.ec2.store import RunStore
from tests.infra.ec2.desk import clients_of
from tests.infra.ec2.witness import check_closed


@pytest.fixture
def cloud(simulated, monkeypatch):
    for name, value in simulated.environment.items():
        monkeypatch.setenv(name, value)
    simulated.clear()
    before = {item["id"] for item in simulated.instances()}
    yield simulated
    simulated.clear()
    assert simulated.alive() == []
    made = [item for item in simulated.instances() if item["id"] not in before]
    for run_id in {item["tags"].get("longfuse:run") for item in made} - {None}:
        if (closed := outcome_of(simulated, run_id)) is not None:
            assert len(check_closed(simulated, run_id)) == (closed == "succeeded")


@pytest.fixture
def desk(simulated, monkeypatch):
    for name, value in {**simulated.environment, "LONGFUSE_BUCKET": simulated.bucket}.items():
        monkeypatch.setenv(name, value)
    simulated.clear()
    return simulated


def outcome_of(cloud, run_id):
    """None: the run was left without a controller, and the reaper ended it."""
    closed = RunStore(clients_of(cloud.endpoint), cloud.bucket, "us-east-1", run_id).read_json("closed.json")
    return None if closed is None else closed["outcome"]

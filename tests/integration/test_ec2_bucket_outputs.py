"""Outputs of stages on EC2 stay in the bucket: who needs them gets them, nobody else downloads them, and a bucket that lost them
is noticed. A diamond project on simulated instances; a file of 200 KB stands for a checkpoint.
"""

from __future__ import annotations

import hashlib
import shutil

import pytest

from flows.bucket_data import FetchFirst, drop_what_is_gone, pull_from_bucket, require_here
from flows.on_ec2 import account_of, stage_facts
from flows.plan import make_plan
from flows.plan_table import render_plan, summary
from flows.yaml_io import read_yaml
from infra.bucket_outputs import recorded
from infra.ec2.aws import Clients
from infra.ec2.outputs import object_key, outputs_of
from infra.ec2.resources import load_resources
from infra.ec2.runner import Ec2Runner
from infra.errors import InfraError
from infra.jobs import JobSpec, Outcome
from infra.local import LocalRunner
from infra.settings import child_environment, load_settings
from infra.split_runner import SplitRunner
from stages.common.errors import ConfigError, InputError
from tests.diamond_project import make_project, set_params, value_of
from tests.infra.ec2.desk import STAGE_REQUEST, STAGE_RHYTHM
from tests.infra.sim.lab import client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WEIGHTS = 200_000
SMALL = 1_000


class Project:
    """A diamond of which some stages run on EC2."""

    def __init__(self, root, on_ec2):
        self.root, self.lines = root, []
        self.params = read_yaml(root / "params.yaml")
        there = Ec2Runner(
            account_of(load_resources().account).model_copy(update={"wheelhouse": False}),
            lambda _stage: STAGE_REQUEST,
            lambda stage: stage_facts(root, self.params, stage),
            rhythm=STAGE_RHYTHM,
            small_file_bytes=SMALL,
        )
        self.runner = SplitRunner(FetchFirst(LocalRunner(), self.params), there, lambda stage: stage in on_ec2)

    def do(self, stage):
        environment = child_environment(load_settings(self.root), stage=stage)
        spec = JobSpec(stage=stage, root=self.root, environment=environment)
        return self.runner.wait(self.runner.submit(spec), self.lines.append).outcome

    def plan(self):
        return make_plan(self.root, self.params)

    def actions(self):
        return {stage.stage: stage.action for stage in self.plan().stages}

    def weights(self, stage):
        return self.root / "outputs" / stage / "data" / "weights.bin"

    def large_files(self):
        """Everything of the size of a checkpoint that is on this disk, in the tree or the cache."""
        return {path for path in self.root.rglob("*") if path.is_file() and path.stat().st_size == WEIGHTS}


def downloads(cloud, md5):
    """How often a file of the bucket was fetched, by anybody."""
    return sum(call.get("operation") == "GetObject" and object_key(md5) in str(call) for call in cloud.journal())


def empty(cloud, output, *, listing_too):
    s3 = client(cloud, "s3")
    for md5 in [*(md5 for md5, _ in output.files.values()), *([output.md5] if listing_too else [])]:
        s3.delete_object(Bucket=cloud.bucket, Key=object_key(md5))


SKIPPED = dict.fromkeys("abcd", "skip")


def test_outputs_stay_in_the_bucket_until_a_local_stage_needs_them(desk, tmp_path):
    large = {name: {"weights": WEIGHTS, "x": str(tmp_path)} for name in "ab"}
    project = Project(make_project(tmp_path / "p", **large), {"a", "b"})
    root = project.root
    assert project.do("a") is Outcome.RAN
    assert not project.weights("a").exists()
    assert value_of(root, "a") == [str(tmp_path)]  # what is small is here
    assert (root / "outputs/a/record.json").is_file()
    assert project.actions() == {"a": "skip", "b": "run", "c": "run", "d": "run"}

    assert project.do("b") is Outcome.RAN  # reads a's data, on its instance
    assert project.large_files() == set()
    assert any("stay in s3://" in line and "jobs pull b" in line for line in project.lines)

    assert project.do("c") is Outcome.RAN  # here: all of a's data, nothing of b's
    assert project.weights("a").stat().st_size == WEIGHTS
    assert not project.weights("b").exists()
    assert any("c needs outputs/a/data of a: fetching 200.0 KB from s3://" in line for line in project.lines)
    assert project.actions() == {"a": "skip", "b": "skip", "c": "skip", "d": "run"}
    assert project.do("d") is Outcome.RAN
    assert project.weights("b").stat().st_size == WEIGHTS
    assert project.actions() == SKIPPED


def test_nothing_to_do_downloads_nothing_and_the_bucket_is_named(desk, tmp_path):
    project = Project(make_project(tmp_path / "p", a={"weights": WEIGHTS, "x": str(tmp_path)}), {"a", "b", "c", "d"})
    for stage in "abcd":
        assert project.do(stage) is Outcome.RAN
    (output,) = recorded(project.root).values()
    md5 = output.files["weights.bin"][0]
    before = downloads(desk, md5)
    assert before > 0  # by the nodes: the journal counts them
    said: list[str] = []
    plan = project.plan()
    assert not drop_what_is_gone(plan, project.root, said.append)
    assert (plan.to_do, said, plan.warnings) == ((), [], ())
    assert "4 stages are up to date (1 of them in the bucket)" in summary(plan)
    assert f"outputs/a/data in s3://{desk.bucket} (200.0 KB not here)" in " ".join("\n".join(render_plan(plan)).split())
    assert downloads(desk, md5) == before
    assert project.large_files() == set()

    with pytest.raises(InputError, match="jobs pull a"):
        require_here(project.root / "outputs/a/data")
    with pytest.raises(ConfigError, match="Stages of which something does: a"):
        pull_from_bucket(project.root, "b", child_environment(load_settings(project.root)), said.append)
    pull_from_bucket(project.root, "a", child_environment(load_settings(project.root)), said.append)
    assert project.weights("a").stat().st_size == WEIGHTS
    assert project.plan().stages[0].in_bucket == ()
    require_here(project.root / "outputs/a/data")


@pytest.mark.parametrize("listing_too", [True, False])  # DVC takes the files of a listing for sent
def test_a_bucket_that_was_emptied_is_noticed_and_the_stage_runs_again(desk, tmp_path, listing_too):
    project = Project(make_project(tmp_path / "p", a={"weights": WEIGHTS, "x": str(tmp_path)}), {"a", "b"})
    root = project.root
    assert project.do("a") is Outcome.RAN
    (output,) = recorded(root).values()
    empty(desk, output, listing_too=listing_too)

    before = len(desk.instances())
    with pytest.raises(InfraError, match=r"b reads outputs/a/data of a, which s3://.* does not hold any more"):
        project.do("b")  # nothing is launched for it
    assert len(desk.instances()) == before
    with pytest.raises(InfraError, match=r"c needs outputs/a/data of a, which lies in s3://"):
        project.do("c")

    said: list[str] = []
    assert drop_what_is_gone(project.plan(), root, said.append)
    assert "outputs/a/data any more: a has to run again" in said[0]
    assert project.actions()["a"] == "run"
    assert project.do("a") is Outcome.RAN  # by an instance of its own: the result of the first run is worth nothing
    assert len(desk.instances()) == before + 1
    assert project.actions()["a"] == "skip"
    shutil.rmtree(root / "outputs" / "a" / "data")  # somebody tidies up: still in the bucket
    assert project.actions()["a"] == "skip"
    shutil.rmtree(root / "outputs" / "a")  # its record, too: the finished run is found
    assert project.actions()["a"] == "run"
    assert project.do("a") is Outcome.RAN
    assert len(desk.instances()) == before + 1
    assert project.actions()["a"] == "skip"
    assert project.do("c") is Outcome.RAN
    assert value_of(root, "c") == [1, f'["{tmp_path}"]']


def test_a_stage_whose_input_alone_changed_runs_again_on_its_instance(desk, tmp_path):
    project = Project(make_project(tmp_path / "p", a={"x": str(tmp_path)}), {"b"})
    assert [project.do(stage) for stage in "ab"] == [Outcome.RAN] * 2
    set_params(project.root, a={"x": "other"})
    project.params = read_yaml(project.root / "params.yaml")
    assert [project.do(stage) for stage in "ab"] == [Outcome.RAN] * 2
    assert value_of(project.root, "b") == [1, '["other"]']
    assert project.actions() == {"a": "skip", "b": "skip", "c": "run", "d": "run"}


def test_what_lies_in_another_bucket_comes_over_by_way_of_this_machine(desk, tmp_path, monkeypatch):
    project = Project(make_project(tmp_path / "p", a={"weights": WEIGHTS, "x": str(tmp_path)}), {"a", "b"})
    root = project.root
    assert project.do("a") is Outcome.RAN
    (output,) = recorded(root).values()
    monkeypatch.setenv("LONGFUSE_BUCKET", "another-bucket")
    s3 = client(desk, "s3")
    s3.create_bucket(Bucket="another-bucket")
    key = object_key(output.files["weights.bin"][0])
    kept = s3.get_object(Bucket=output.bucket, Key=key)["Body"].read()

    other = Project(root, {"a", "b"})
    s3.delete_object(Bucket=output.bucket, Key=key)
    before = len(desk.instances())
    told = (
        f"lies in s3://{output.bucket} and has to come here to go to s3://another-bucket, and did not(.|\n)*jobs pull a"
    )
    with pytest.raises(InfraError, match=told):
        other.do("b")
    assert len(desk.instances()) == before
    s3.put_object(Bucket=output.bucket, Key=key, Body=kept)
    assert other.do("b") is Outcome.RAN
    assert s3.head_object(Bucket="another-bucket", Key=key)["ContentLength"] == WEIGHTS
    assert other.weights("a").stat().st_size == WEIGHTS
    assert value_of(root, "b") == [1, f'["{tmp_path}"]']
    assert other.actions() == {"a": "skip", "b": "skip", "c": "run", "d": "run"}


@pytest.mark.parametrize(
    ("listing", "told"),
    [
        (b'[{"md5": "%s", "relpath": "../../../pwned"}]' % (b"a" * 32), "outside of it: nothing is taken"),
        (b'[{"md5": "%s", "relpath": "/tmp/pwned"}]' % (b"a" * 32), "outside of it: nothing is taken"),
        (b'{"weights.bin": 1}', "not one of DVC's"),
        (b"\x00\xff", "not one of DVC's"),
    ],
)
def test_a_listing_that_leaves_its_output_or_is_none_is_refused(desk, listing, told):
    md5 = f"{hashlib.md5(listing, usedforsecurity=False).hexdigest()}.dir"
    client(desk, "s3").put_object(Bucket=desk.bucket, Key=object_key(md5), Body=listing)
    lock = f"stages:\n  a:\n    outs:\n    - {{path: outputs/a/data, md5: {md5}}}\n"
    with pytest.raises(InfraError, match=told):
        outputs_of(Clients(), desk.bucket, "us-east-1", "a", lock)

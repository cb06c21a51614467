"""A stage's inputs into the bucket: sent from here, or found there already, or brought over from another bucket."""

from __future__ import annotations

from collections.abc import Sequence

from infra.bucket_outputs import BucketOutput, is_current, recorded
from infra.ec2 import dvc
from infra.ec2.outputs import ClientOf, still_there
from infra.errors import InfraError
from infra.jobs import JobSpec


def send_inputs(clients: ClientOf, bucket: str, spec: JobSpec, upstream: Sequence[str]) -> None:
    """Afterwards the bucket holds what the stage reads of the stages `upstream`.

    What lies in this bucket only is there already, and looked for; what lies in another one comes by way of this machine. Raises
    InfraError if something can be had from nowhere, and what boto3 raises if nobody answers.
    """
    away: set[str] = set()
    for output in recorded(spec.root).values():
        if output.stage not in upstream or not is_current(spec.root, output):
            continue
        names = output.absent(spec.root)
        if not names:
            continue
        if output.bucket != bucket:
            _bring(spec, output, bucket)
        elif still_there(clients, output, names):
            away.add(output.stage)
        else:
            raise InfraError(
                f"{spec.stage} reads {output.path} of {output.stage}, which s3://{bucket} does not hold any more. "
                "Run `longfuse run --on ec2` again: it makes it anew."
            )
    here = [stage for stage in upstream if stage not in away]
    dvc.push_inputs(spec.root, spec.environment, bucket, here)


def _bring(spec: JobSpec, output: BucketOutput, bucket: str) -> None:
    try:
        dvc.pull(spec.root, spec.environment, output.bucket, [output.path])
    except InfraError as error:
        raise InfraError(
            f"{spec.stage} reads {output.path} of {output.stage}, which lies in s3://{output.bucket} and has to come here to go "
            f"to s3://{bucket}, and did not: {error}\n`longfuse jobs pull {output.stage}` fetches it."
        ) from None

"""The user data of an instance: arms the dead-man timer, fetches the agent, checks it, runs it.

Line 1 after the shebang is `shutdown -h +TTL`, before anything can fail. Whatever fails later, the EXIT trap uploads
what was printed as boot.log and powers off; the instance's shutdown behaviour is terminate. No secret and no data of
the run is in it: names in the bucket and one hash.
"""

from __future__ import annotations

import shlex
from string import Template

LIMIT_BYTES = 16_384

_TEXT = Template(
    """\
#!/bin/bash
shutdown -h +$ttl_minutes
# $run_id attempt $attempt node $node
D="$${LONGFUSE_NODE_DIR:-/var/lib/longfuse}"; mkdir -p "$$D" || D=$$(mktemp -d)
cd "$$D"
exec > >(tee -a boot.log) 2>&1
export AWS_DEFAULT_REGION=$region AWS_RETRY_MODE=standard
PY=$$(command -v /opt/pytorch/bin/python3 || command -v python3)
last() {
  code=$$?
  trap - EXIT
  echo "bootstrap ended with exit code $$code"
  sleep 0.2
  [ "$$code" = 0 ] || timeout 30 "$$PY" -c 'import boto3,sys; boto3.client("s3").upload_file("boot.log", sys.argv[1], sys.argv[2])' \\
    $bucket $boot_log
  shutdown -h now
}
trap last EXIT
trap 'exit 143' TERM
"$$PY" - $bucket $agent_key $agent_sha256 $boot_key $boot_sha256 <<'BOOT'
import hashlib, pathlib, runpy, subprocess, sys, time
try:
    import boto3
except ImportError:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "boto3"], check=True)
    import boto3
bucket, *asked = sys.argv[1:]
client = boto3.client("s3")
for key, sha256, path in zip(asked[::2], asked[1::2], ("agent.pyz", "boot.json")):
    for pause in (0.5, 1, 2, 4, 8, 0):
        try:
            client.download_file(bucket, key, path)
            break
        except Exception as error:
            print(key, error, flush=True)
            if "404" in str(error) or "NoSuch" in str(error) or pause == 0:
                sys.exit(72)
            time.sleep(pause)
    if hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() != sha256:
        print(key, "has another sha256 than", sha256, flush=True)
        sys.exit(73)
sys.argv = ["agent.pyz", "boot.json"]
runpy.run_path("agent.pyz", run_name="__main__")
BOOT
"""
)


def render_user_data(
    *,
    run_id: str,
    attempt: int,
    node: int,
    ttl_minutes: int,
    region: str,
    bucket: str,
    agent_key: str,
    agent_sha256: str,
    boot_key: str,
    boot_sha256: str,
    boot_log_key: str,
) -> str:
    """The script. Keys are from the bucket's root. Raises ValueError if it would not fit into 16 KB."""
    if ttl_minutes < 1:
        raise ValueError(
            f"ttl_minutes is {ttl_minutes}: at least 1 is needed, `shutdown +0` would end the instance at once"
        )
    text = _TEXT.substitute(
        run_id=shlex.quote(run_id),
        attempt=attempt,
        node=node,
        ttl_minutes=ttl_minutes,
        region=shlex.quote(region),
        bucket=shlex.quote(bucket),
        agent_key=shlex.quote(agent_key),
        agent_sha256=agent_sha256,
        boot_key=shlex.quote(boot_key),
        boot_sha256=boot_sha256,
        boot_log=shlex.quote(boot_log_key),
    )
    if len(text.encode()) > LIMIT_BYTES:
        raise ValueError(f"user data is {len(text.encode())} bytes; EC2 takes {LIMIT_BYTES}")
    return text

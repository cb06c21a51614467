"""A small DVC project that goes through the real flow: four stages in a diamond, each a real process.

`python -m tests.diamond_project ROOT` does there what `longfuse run` does. What a stage does is said by its section of params.yaml:
{x: any value that changes the output, seconds: time it takes, fail: bool, stubborn: bool, it ignores SIGINT and SIGTERM,
weights: bytes of a file beside its value}.
"""

import atexit
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}

STEP = """
import json, os, signal, sys, time
from pathlib import Path
import yaml
from infra.settings import load_settings
from infra.spool import start_stage_run

name, inputs = sys.argv[1], sys.argv[2:]
params = yaml.safe_load(Path("params.yaml").read_text())[name]
if params["stubborn"]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGINT, lambda *_: sys.exit("interrupted"))
folder = Path("outputs", name)
data = folder / "data"
data.mkdir(parents=True, exist_ok=True)
Path(".state").mkdir(exist_ok=True)
(Path(".state") / f"{name}.pid").write_text(str(os.getpid()))
spool = start_stage_run(
    load_settings(Path.cwd()), stage=name, fingerprint=f"toy-{name}", params=params,
    state_dir=Path(".state", name), data_dir=data, record=folder / "record.json",
)
print(f"hello from {name}", flush=True)
for step in range(3):
    spool.emit(step, {"reward/mean": step / 2})
    time.sleep(params["seconds"] / 3)
if params["fail"]:
    sys.exit(f"{name} is broken: mend it")
read = [Path("outputs", i, "data", "value.json").read_text() for i in inputs]
(data / "value.json").write_text(json.dumps([params["x"], *read]))
if params["weights"]:
    (data / "weights.bin").write_bytes(name.encode() * params["weights"])
(folder / "record.json").write_text(json.dumps({"counts": {"inputs": len(inputs)}}))
spool.finish()
"""


def make_project(root: Path, **params: dict) -> Path:
    """The project in a git repository with one commit; `params` by stage override the defaults."""
    shutil.copytree(_template(), root)
    set_params(root, **params)
    return root


@functools.cache
def _template() -> Path:
    """Made once per process: git and DVC take a second."""
    root = Path(tempfile.mkdtemp(prefix="diamond-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    (root / "step.py").write_text(STEP)
    (root / ".gitignore").write_text("/.state/\n/outputs/\n")
    stages = {}
    for name, inputs in DIAMOND.items():
        stages[name] = {
            "cmd": " ".join(["python step.py", name, *inputs]),
            "params": [name],
            "deps": ["step.py", *(f"outputs/{i}/data" for i in inputs)],
            "outs": [f"outputs/{name}/data", f"outputs/{name}/record.json"],
        }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    set_params(root)
    for words in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "start"],
    ):
        subprocess.run(words, cwd=root, check=True, capture_output=True)
    return root


def set_params(root: Path, **params: dict) -> None:
    default = {"x": 1, "seconds": 0.0, "fail": False, "stubborn": False, "weights": 0}
    values = {name: {**default, **params.get(name, {})} for name in DIAMOND}
    (root / "params.yaml").write_text(yaml.safe_dump(values))


def value_of(root: Path, stage: str) -> list:
    return json.loads((root / "outputs" / stage / "data" / "value.json").read_text())


def main() -> int:
    from flows.launch import launch
    from flows.progress import PlainProgress
    from flows.session import Request
    from flows.yaml_io import read_yaml
    from infra.settings import load_settings

    settings = load_settings(Path(sys.argv[1]))
    return launch(settings, Request(), command="toy run", progress=PlainProgress(), read=read_yaml)


if __name__ == "__main__":
    sys.exit(main())

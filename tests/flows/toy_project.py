"""A three-stage DVC project in a temporary directory: a (documents) -> b (their number) -> c (both)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flows.plan import Plan, make_plan

TOOL = """\
import pathlib, sys
name = sys.argv[1]
with open("ran.log", "a") as log:
    log.write(name + "\\n")
params = pathlib.Path("params.yaml").read_text()
if name == "a":
    out = pathlib.Path("out/a"); (out / "parts").mkdir(parents=True)
    documents = [p.read_text() for p in sorted(pathlib.Path(sys.argv[2]).glob("*.txt"))]
    (out / "all.txt").write_text("".join(documents))
    (out / "parts" / "count.txt").write_text(f"{len(documents)}\\n")
elif name == "b":
    pathlib.Path("out/b.txt").write_text(pathlib.Path("out/a/parts/count.txt").read_text() + "b")
    pathlib.Path("out/b.record").write_text("complete")
else:
    beta = next(line for line in params.splitlines() if "beta" in line)
    pathlib.Path("out/c.txt").write_text(pathlib.Path("out/a/all.txt").read_text() + beta)
"""
PARAMS = """\
seed: 1
source: source
b: {deep: 1}
c:
  opt:
    beta: 0.9  # a comment
"""
DVC_YAML = """\
stages:
  a:
    cmd: PYTHON tool.py a ${source}
    deps: ['${source}', stages/a.py]
    params: [seed]
    outs: [out/a]
  b:
    cmd: PYTHON tool.py b
    deps: [out/a/parts, stages/b.py]
    params: [b]
    outs: [out/b.txt, out/b.record]
  c:
    cmd: PYTHON tool.py c
    deps: [out/b.txt, out/a/all.txt, stages/c.py]
    params: [c.opt]
    outs: [out/c.txt]
"""


class Toy:
    """The project; every method acts as a user would."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def build(self) -> Toy:
        """Write the project; nothing has run yet."""
        from dvc.repo import Repo

        root = self.root
        for folder in ("source", "stages"):
            (root / folder).mkdir()
        for name in "abc":
            self.write(f"stages/{name}.py", f"# {name}\n")
        self.write("source/1.txt", "one\n")
        self.write("source/2.txt", "two\n")
        self.write("tool.py", TOOL)
        self.write("params.yaml", PARAMS)
        self.write("dvc.yaml", DVC_YAML.replace("PYTHON", sys.executable))
        subprocess.run(["git", "init", "-q", str(root)], check=True)
        Repo.init(str(root)).close()
        self.write(".dvc/config", "[core]\n    analytics = false\n[cache]\n    type = hardlink,copy\n")
        return self

    def write(self, path: str, text: str) -> None:
        (self.root / path).write_text(text, encoding="utf-8")

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text(encoding="utf-8")
        assert old in text
        self.write(path, text.replace(old, new))

    def repro(self) -> list[str]:
        """`dvc repro`; names of the stages whose command really ran."""
        from dvc.repo import Repo

        log = self.root / "ran.log"
        log.unlink(missing_ok=True)
        repo = Repo(str(self.root))
        try:
            repo.reproduce()
        finally:
            repo.close()
        return log.read_text().split() if log.exists() else []

    def plan(self, **options: object) -> Plan:
        return make_plan(self.root, **options)  # type: ignore[arg-type]

    def actions(self, **options: object) -> dict[str, str]:
        return {stage.stage: stage.action for stage in self.plan(**options).stages}

"""Why a stage does not stay as it is: its command, parameters, code, data and outputs against dvc.lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flows.dvc_graph import Dag, DagStage, Hash
from flows.yaml_io import flatten

Kind = Literal["param", "code", "data", "command", "output", "upstream"]


@dataclass(frozen=True)
class Reason:
    """Why a stage does not stay as it is.

    kind      name                  old -> new
    param     rl.stage2.steps       values; None: the key is new or gone
    code      stages/rl/loss.py     md5s; old None: a new dependency
    data      data/starter_corpus   md5s; old None: a new dependency
    command   the stage             command lines
    output    outputs/sft/data      md5s; new None: missing or left over from a killed run, both: edited by hand;
                                    name is the stage and both None: never run
    upstream  rl@stage1             None, None: that stage runs, so this one's inputs may change
    """

    kind: Kind
    name: str
    old: Any = None
    new: Any = None


def changed_inputs(stage: DagStage, known: Mapping[str, Hash]) -> list[Reason]:
    """What differs from the last run in dvc.lock, among the inputs that are known."""
    if stage.locked_command is None:
        return [Reason("output", stage.name)]
    reasons = []
    if stage.command != stage.locked_command:
        reasons.append(Reason("command", stage.name, stage.locked_command, stage.command))
    old, new = flatten(stage.locked_parameters), flatten(stage.parameters)
    reasons += [
        Reason("param", key, old.get(key), new.get(key))
        for key in dict.fromkeys([*new, *old])
        if (key in old) != (key in new) or old.get(key) != new.get(key)
    ]
    for dep in sorted(stage.deps, key=lambda dep: dep.is_code):
        if dep.path in known and known[dep.path].md5 != dep.locked_md5:
            reasons.append(Reason("code" if dep.is_code else "data", dep.path, dep.locked_md5, known[dep.path].md5))
    return reasons


def changed_outputs(dag: Dag, stage: DagStage) -> list[Reason]:
    """Outputs that are not as dvc.lock says.

    A hand edit is told from the leftovers of a killed run: a killed run leaves a missing output (the record is written
    last) or makes all of them anew. And what the cache holds cannot be lost (an older result, another branch's).
    """
    reasons, differing = [], {}
    for out in stage.outs:
        if dag.in_bucket(out) is not None:
            continue
        if out.locked_md5 is None:
            if stage.locked_command is not None:  # an output that dvc.yaml got after the last run
                reasons.append(Reason("output", out.path))
            continue
        found = dag.hash_now(out)
        if found is None or found.md5 != out.locked_md5:
            differing[out] = found.md5 if found else None
    leftover = None in differing.values() or (len(differing) == len(stage.outs) > 1)
    for out, md5 in differing.items():
        edited = md5 is not None and not leftover and not dag.is_cached(md5)
        reasons.append(Reason("output", out.path, out.locked_md5, md5 if edited else None))
    return reasons

"""The shape of params.yaml: one pydantic model over every stage's section, and error messages a person can act on."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from flows.catalog import TASKS
from stages.base_model.config import ModelConfig
from stages.common.config import EndpointConfig, Section, TrainConfig
from stages.common.errors import ConfigError
from stages.evaluation.config import EvaluatePlan, EvaluateSharedConfig
from stages.ingest.config import IngestConfig
from stages.merge.config import MergeConfig
from stages.report.config import ReportConfig
from stages.rl.config import MemoryRLConfig, RLSharedConfig, RLStageParams
from stages.sft.config import SftConfig
from stages.synthesis.config import (
    AssembleConfig,
    DialogueConfig,
    GeneratorConfig,
    MultiHopConfig,
    NumericalConfig,
    ReadingConfig,
    StratifyConfig,
    VerifyConfig,
)


class SynthesizeParams(Section):
    """One generator per task type."""

    multi_hop: MultiHopConfig
    numerical: NumericalConfig
    reading_comprehension: ReadingConfig
    dialogue_memory: DialogueConfig
    multiple_choice: GeneratorConfig


class RLParams(Section):
    """The four full-context RL stages."""

    shared: RLSharedConfig
    stage1: RLStageParams
    stage2: RLStageParams
    stage3: RLStageParams
    stage4: RLStageParams


class EvaluateParams(Section):
    """How every model of the DAG is evaluated."""

    shared: EvaluateSharedConfig
    base: EvaluatePlan
    sft: EvaluatePlan
    stage1: EvaluatePlan
    stage2: EvaluatePlan
    stage3: EvaluatePlan
    memory: EvaluatePlan
    merge: EvaluatePlan
    stage4: EvaluatePlan


class EndpointsParams(Section):
    """Models behind an address. All optional: without them everything is made and scored by rule."""

    writer: EndpointConfig
    judge: EndpointConfig
    teacher: EndpointConfig


class Params(Section):
    """The whole of params.yaml."""

    profile: str = Field(min_length=1, description="The profile that the file was made from; no stage reads it.")
    seed: int = Field(ge=0, lt=2**63, description="Seed of the pipeline.")
    train: TrainConfig
    model: ModelConfig
    ingest: IngestConfig
    endpoints: EndpointsParams
    synthesize: SynthesizeParams
    assemble: AssembleConfig
    verify: VerifyConfig
    stratify: StratifyConfig
    sft: SftConfig
    rl: RLParams
    memory_rl: MemoryRLConfig
    merge: MergeConfig
    evaluate: EvaluateParams
    report: ReportConfig


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The most similar word, if any is similar enough to be meant."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return found[0] if found else None


def validate(model: type[Section], values: Mapping[str, Any], where: str, prefix: str = "") -> Section:
    """`values` as a section; types are strict (`"3"` is no number), so what is in the file is what runs.

    Raises ConfigError that lists every problem: dotted key, what is wrong, what is allowed.
    """
    try:
        section: Section | None = model.model_validate(dict(values), strict=True)
        problems: list[str] = []
    except ValidationError as error:
        section, problems = None, _problems(model, error, prefix)
    problems += _task_problems(values, prefix)
    if problems or section is None:
        raise ConfigError(f"{where}: " + ("\n  " if len(problems) > 1 else "") + "\n  ".join(problems))
    return section


def _problems(model: type[Section], error: ValidationError, prefix: str) -> list[str]:
    lines, meant = [], set()
    found = error.errors(include_url=False)
    for item in found:
        if item["type"] == "extra_forbidden":
            *parents, key = [str(part) for part in item["loc"]]
            section = _section_at(model, parents)
            allowed = list(section.model_fields) if section else []
            near = nearest(key, allowed)
            dotted = prefix + ".".join([*parents, key])
            if near:
                meant.add((*parents, near))
                lines.append(f"{dotted}: unknown key; did you mean {near}?")
            else:
                lines.append(f"{dotted}: unknown key; known here: {', '.join(allowed)}.")
    for item in found:
        location = tuple(str(part) for part in item["loc"])
        dotted = prefix + ".".join(location)
        if item["type"] == "extra_forbidden" or location in meant:
            continue
        if item["type"] == "missing":
            lines.append(f"{dotted}: missing; it must be {_allowed(model, location)}.")
        elif item["type"] == "value_error":  # a rule over several keys
            lines.append(f"{dotted}: {item['ctx']['error']}.")
        else:
            lines.append(f"{dotted}: {_shown(item['input'])} is not allowed; it must be {_allowed(model, location)}.")
    return lines


def _task_problems(values: Mapping[str, Any], prefix: str) -> list[str]:
    """Mappings over task types (`..._per_task`) must name exactly the task types."""
    lines = []
    for key, value in values.items():
        if not isinstance(value, Mapping):
            continue
        if not str(key).endswith("_per_task"):
            lines += _task_problems(value, f"{prefix}{key}.")
            continue
        meant = set()
        for task in value:
            if task not in TASKS:
                near = nearest(str(task), TASKS)
                meant.add(near)
                hint = f"did you mean {near}?" if near else f"task types are {', '.join(TASKS)}."
                lines.append(f"{prefix}{key}.{task}: unknown key; {hint}")
        lines += [
            f"{prefix}{key}.{task}: missing; it must be a whole number."
            for task in TASKS
            if task not in value and task not in meant
        ]
        lines += [
            f"{prefix}{key}.{task}: {count} is not allowed; it must be a whole number, at least 0."
            for task, count in value.items()
            if isinstance(count, int) and not isinstance(count, bool) and count < 0
        ]
    return lines


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _section_at(model: type[Section], path: Iterable[str]) -> type[Section] | None:
    section: Any = model
    for name in path:
        if not (isinstance(section, type) and issubclass(section, BaseModel)) or name not in section.model_fields:
            return None
        section = section.model_fields[name].annotation
    return section if isinstance(section, type) and issubclass(section, Section) else None


def _allowed(model: type[Section], location: tuple[str, ...]) -> str:
    """What may stand at a location, in words."""
    for end in range(len(location), 0, -1):  # deeper than the last named field: an element of a list or mapping
        section = _section_at(model, location[: end - 1])
        if section and location[end - 1] in section.model_fields:
            return describe_type(section.model_fields[location[end - 1]])
    return "something else"


def describe_type(field: FieldInfo) -> str:
    """The type and range of a parameter in words: `a number greater than 0, at most 1`."""
    words = _type_words(field.annotation)
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge(ge=value):
                words += f", at least {value:g}"
            case annotated_types.Gt(gt=value):
                words += f", greater than {value:g}"
            case annotated_types.Le(le=value):
                words += f", at most {value:g}"
            case annotated_types.Lt(lt=value):
                words += f", less than {value:g}"
            case annotated_types.MinLen(min_length=value):
                words += f", at least {value} long"
            case _:
                pass
    return words


def _type_words(annotation: Any) -> str:
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if annotation in plain:
        return plain[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin is list:
        return f"a list, each item {_type_words(arguments[0])}"
    if origin is dict:
        return f"a mapping from name to {_type_words(arguments[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join("nothing (null)" if part is type(None) else _type_words(part) for part in arguments)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section with the keys " + ", ".join(annotation.model_fields)
    return "something else"


@cache
def described_fields() -> dict[str, FieldInfo]:
    """Dotted key -> field, for every parameter that is not itself a section; what documentation and tests read."""
    return dict(_walk(Params, ""))


def _walk(model: type[Section], prefix: str) -> Iterable[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        section = _section_at(model, [name])
        if section:
            yield from _walk(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field

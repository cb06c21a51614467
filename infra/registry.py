"""The final model of a run in MLflow's registry: a version whose source is a small pointer, not the weights.

DVC keeps the weights, so the registry says where they are and how to fetch them: `runs:/<run>/model_pointer/pointer.json`.
A model of equal md5 is one version, however many runs lead to it; the aliases move to the one made last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

REGISTERED_NAME = "longfuse"
ARTIFACT = "model_pointer"
ALIAS = "newest"
MD5_TAG = "dvc.md5"


@dataclass(frozen=True, kw_only=True)
class FinalModel:
    """What is registered.

    pointer: path, md5, fetch command, ... ; its "md5" says whether it is another model.
    tags: lineage and scores. profile: gets an alias of its own, `profile-<name>`.
    """

    pointer: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""


def register(client: MlflowClient, run_id: str, model: FinalModel) -> str:
    """Log the pointer to the run, make or find the version, move the aliases. Returns the version's number.

    Raises whatever MLflow raises.
    """
    from mlflow.exceptions import MlflowException

    client.log_text(run_id, json.dumps(dict(model.pointer), indent=1, sort_keys=True), f"{ARTIFACT}/pointer.json")
    try:
        client.create_registered_model(REGISTERED_NAME, description="Models of `longfuse run`; weights are in DVC.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {**model.tags, MD5_TAG: str(model.pointer["md5"])}
    version = _version_of(client, tags[MD5_TAG])
    if version is None:
        made: ModelVersion = client.create_model_version(
            REGISTERED_NAME,
            source=f"runs:/{run_id}/{ARTIFACT}",
            run_id=run_id,
            tags=tags,
            description=f"`{model.pointer.get('path')}`. To fetch it: `{model.pointer.get('fetch')}`",
        )
        version = str(made.version)
    else:
        for key, value in tags.items():
            client.set_model_version_tag(REGISTERED_NAME, version, key, value)
    for alias in (ALIAS, *([_alias(model.profile)] if model.profile else [])):
        client.set_registered_model_alias(REGISTERED_NAME, alias, version)
    client.set_tag(run_id, "registered_model", f"{REGISTERED_NAME} version {version}")
    return version


def _version_of(client: MlflowClient, md5: str) -> str | None:
    """The newest version of that md5."""
    found = client.search_model_versions(f"name = '{REGISTERED_NAME}'")
    numbers = [int(version.version) for version in found if version.tags.get(MD5_TAG) == md5]
    return str(max(numbers)) if numbers else None


def _alias(profile: str) -> str:
    """MLflow allows letters, digits, `_` and `-`."""
    return "profile-" + re.sub(r"[^A-Za-z0-9_-]", "-", profile)

"""The environment, read in one place."""

import os
import sys
from pathlib import Path

import pytest

from infra.errors import InfraError
from infra.settings import child_environment, find_root, load_settings


def test_default_store_is_absolute_and_inside_the_tree(tmp_path):
    settings = load_settings(tmp_path, {})
    assert settings.mlflow_tracking_uri == f"sqlite:///{tmp_path}/.state/mlflow/mlflow.db"
    assert settings.owns_mlflow_store
    assert settings.prefect_api_url is None
    assert settings.parent_run is None


def test_addresses_of_the_user_are_taken(tmp_path):
    env = {"MLFLOW_TRACKING_URI": "http://m:5000", "PREFECT_API_URL": "http://p:4200/api"}
    settings = load_settings(tmp_path, env)
    assert settings.mlflow_tracking_uri == "http://m:5000"
    assert settings.prefect_api_url == "http://p:4200/api"
    assert not settings.owns_mlflow_store


def test_malformed_number_is_an_error_that_names_the_variable(tmp_path):
    with pytest.raises(InfraError, match="LONGFUSE_RUN_PROCESS is 'soon'"):
        load_settings(tmp_path, {"LONGFUSE_RUN_PROCESS": "soon"})


def test_child_finds_this_python_first_and_calls_nobody_home(tmp_path):
    settings = load_settings(tmp_path, {}).model_copy(update={"parent_run": "p1"})
    env = child_environment(settings, stage="sft", environ={"PATH": "/usr/bin", "HOME": "/h"})
    assert env["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]
    assert env["HOME"] == "/h"
    assert env["DO_NOT_TRACK"] == "true"
    assert env["DVC_NO_ANALYTICS"] == "1"
    assert env["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert env["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert env["LONGFUSE_PARENT_RUN"] == "p1"
    assert env["LONGFUSE_RUN_PROCESS"] == str(os.getpid())
    assert env["HF_HUB_OFFLINE"] == "1"


def test_only_base_model_may_reach_the_hub(tmp_path):
    settings = load_settings(tmp_path, {})
    assert "HF_HUB_OFFLINE" not in child_environment(settings, stage="base_model", environ={})


def test_root_is_the_nearest_folder_with_dvc_yaml(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find_root(below) == tmp_path
    with pytest.raises(InfraError, match=r"no dvc\.yaml"):
        find_root(tmp_path.parent)

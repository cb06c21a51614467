"""Keys of endpoints: looked up by name before a stage starts, handed over in memory, written nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.catalog import CATALOG
from flows.params import apply_sets, load_params, profile_params, stage_config
from flows.stage import give_access
from infra.settings import environment_values
from stages.common import chat_access
from stages.common.chat_access import endpoints_in, open_chat
from stages.common.errors import ConfigError

PROJECT = Path(__file__).parents[2]
JUDGE = ["endpoints.judge.model=gpt", "endpoints.judge.base_url=http://localhost:1/v1"]


@pytest.fixture(autouse=True)
def _no_access(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_access, "_access", chat_access._Access())


def rl_config(*sets: str):
    return stage_config(CATALOG["rl@stage1"], apply_sets(profile_params("plumbing"), [*JUDGE, *sets]))


def test_every_profile_has_all_endpoints_off() -> None:
    for name in ("tiny", "plumbing", "smol", "paper_4b", "paper_30b"):
        params = profile_params(name)
        for spec in CATALOG.values():
            assert list(endpoints_in(stage_config(spec, params))) == [], (name, spec.name)
    assert all(section["model"] is None for section in load_params(PROJECT / "params.yaml")["endpoints"].values())


def test_only_stages_that_ask_a_model_depend_on_an_endpoint() -> None:
    users = {
        key: {name for name, spec in CATALOG.items() if key in spec.params.values()}
        for key in ("endpoints.writer", "endpoints.judge")
    }
    assert users["endpoints.writer"] >= {name for name in CATALOG if name.startswith("synthesize@")}
    assert users["endpoints.judge"] >= {"rl@stage1", "rl@stage2", "rl@stage3", "rl@stage4", "memory_rl"}
    assert not (users["endpoints.writer"] | users["endpoints.judge"]) & {"ingest", "merge", "report"}


def test_the_key_is_handed_over_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", " s3cret\n")
    config = rl_config("endpoints.judge.api_key_env=JUDGE_KEY")
    give_access(config, tmp_path)
    chat = open_chat(config.judge, tmp_path / "state")
    assert chat is not None
    assert chat._endpoint.api_key == "s3cret"
    assert "s3cret" not in config.model_dump_json()
    assert chat._cache._folder == tmp_path / ".state" / "chat"


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_key_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(ConfigError, match="set the environment variable JUDGE_KEY"):
        give_access(rl_config("endpoints.judge.api_key_env=JUDGE_KEY"), tmp_path)


def test_an_endpoint_that_is_off_needs_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    give_access(rl_config("endpoints.judge.model=null", "endpoints.judge.api_key_env=JUDGE_KEY"), tmp_path)


def test_a_pasted_key_is_refused_without_being_repeated() -> None:
    with pytest.raises(ConfigError, match="never the key itself") as caught:
        rl_config("endpoints.judge.api_key_env=sk-abc123")
    assert "sk-abc123" not in str(caught.value)


def test_only_named_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "1")
    monkeypatch.delenv("TWO", raising=False)
    assert environment_values(["ONE", "TWO"]) == {"ONE": "1"}

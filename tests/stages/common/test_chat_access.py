"""Endpoints in params.yaml: what is refused, off by default, keys handed in by name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from stages.common import chat_access
from stages.common.chat_access import endpoints_in, open_chat, set_access
from stages.common.config import NO_ENDPOINT, EndpointConfig, Section
from stages.common.errors import ConfigError

USED = NO_ENDPOINT.model_copy(update={"model": "m", "base_url": "http://localhost:8000/v1"})


@pytest.fixture(autouse=True)
def _no_access(monkeypatch):
    monkeypatch.setattr(chat_access, "_access", chat_access._Access())


def endpoint(**changes) -> EndpointConfig:
    return EndpointConfig.model_validate({**USED.model_dump(), **changes})


def test_without_a_model_there_is_no_client(tmp_path):
    assert open_chat(NO_ENDPOINT, tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": None}, "base_url must be set"),
        ({"model": " "}, "base_url must be set"),
        ({"base_url": "localhost:8000"}, "http or https"),
        ({"base_url": "file:///etc/passwd"}, "http or https"),
        ({"base_url": "https://host/v1?key=abc"}, "without query"),
        ({"base_url": "https://me:hidden@host/v1"}, "no user or password"),
        ({"api_key_env": "sk-abcdef"}, "never the key itself"),
        ({"api_key_env": "gsk_abcdef"}, "never the key itself"),
        ({"budget_usd": 5.0}, "prices"),
        ({"budget_tokens": -1}, "greater than or equal to 0"),
        ({"timeout_seconds": 0}, "greater than 0"),
    ],
)
def test_wrong_endpoints_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message) as caught:
        endpoint(**changes)
    said = [error["msg"] for error in caught.value.errors()]
    assert not any("abc" in text or "hidden" in text for text in said)


def test_a_missing_key_is_an_error_that_names_the_variable(tmp_path):
    with pytest.raises(ConfigError, match="environment variable JUDGE_KEY"):
        open_chat(endpoint(api_key_env="JUDGE_KEY"), tmp_path)


def test_keys_and_the_shared_folder_are_handed_in(tmp_path):
    set_access({"JUDGE_KEY": "s3cret"}, tmp_path / "shared")
    chat = open_chat(endpoint(api_key_env="JUDGE_KEY", budget_tokens=9), tmp_path / "state")
    assert chat._endpoint.api_key == "s3cret"
    assert chat._cache._folder == tmp_path / "shared"
    assert "s3cret" not in repr(chat_access._access)
    set_access({}, None)
    assert open_chat(USED, tmp_path / "state")._cache._folder == tmp_path / "state" / "chat"


def test_the_endpoints_of_a_stage_are_found():
    class Stage(Section):
        seed: int
        writer: EndpointConfig
        judge: EndpointConfig

    assert list(endpoints_in(Stage(seed=1, writer=NO_ENDPOINT, judge=USED))) == [("judge", USED)]

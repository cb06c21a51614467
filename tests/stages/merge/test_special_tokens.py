"""Special tokens of base and experts: contradictions are refused, what only one of them says is a warning."""

import logging

import pytest
import torch
from safetensors.torch import save_file

from stages.common.errors import InputError
from stages.common.storage import write_json
from stages.merge.merge import merge_checkpoints

CONFIG, MAP = "tokenizer_config.json", "special_tokens_map.json"


@pytest.fixture
def folders(tmp_path):
    for name in ("base", "expert"):
        (tmp_path / name).mkdir()
        save_file({"w": torch.ones(2)}, tmp_path / name / "model.safetensors")
        write_json(tmp_path / name / "config.json", {"model_type": "llama"})
        write_json(tmp_path / name / "tokenizer.json", {"model": {"vocab": {"a": 0}}})
    return tmp_path


def merged(folders, file, base, expert):
    """Merge with these contents of a file; None: no file."""
    for name, value in (("base", base), ("expert", expert)):
        if value is not None:
            write_json(folders / name / file, value)
    merge_checkpoints(folders / "base", [folders / "expert"], folders / "out")


@pytest.mark.parametrize("file", [CONFIG, MAP])
def test_a_token_that_both_set_differently_is_refused_with_file_and_values(folders, file):
    with pytest.raises(
        InputError, match=rf"expert/{file} sets eos_token to '<\|end\|>', .*base/{file} to '<\|im_end\|>'"
    ):
        merged(folders, file, {"eos_token": "<|im_end|>"}, {"eos_token": "<|end|>"})
    assert not (folders / "out").exists()


def test_object_forms_that_differ_are_refused_too(folders):
    with pytest.raises(InputError, match=r"sets pad_token to '<q>', .* to '<p>'"):
        merged(folders, MAP, {"pad_token": {"content": "<p>", "lstrip": False}}, {"pad_token": {"content": "<q>"}})


@pytest.mark.parametrize(
    ("base", "expert"),
    [
        ({"eos_token": "<e>"}, {"eos_token": {"content": "<e>", "lstrip": False, "__type": "AddedToken"}}),
        ({"additional_special_tokens": ["<a>", "<b>"]}, {"additional_special_tokens": ["<b>", {"content": "<a>"}]}),
        ({"additional_special_tokens": ["<a>"]}, {"extra_special_tokens": ["<a>"]}),  # the list's name since release 5
        ({"extra_special_tokens": {"image_token": "<i>"}}, {"image_token": "<i>"}),
        ({"bos_token": None}, {"model_max_length": 7}),
        ({"add_bos_token": True, "additional_special_tokens": []}, {}),  # no tokens
    ],
)
def test_what_means_the_same_is_equal(folders, caplog, base, expert):
    with caplog.at_level(logging.WARNING):
        merged(folders, CONFIG, base, expert)
    assert (folders / "out" / "model.safetensors").is_file()
    assert caplog.text == ""


def test_other_additional_tokens_are_refused(folders):
    with pytest.raises(InputError, match=r"additional_special_tokens to \['<a>', '<c>'\], .* to \['<a>', '<b>'\]"):
        merged(
            folders,
            CONFIG,
            {"additional_special_tokens": ["<b>", "<a>"]},
            {"additional_special_tokens": ["<a>", "<c>"]},
        )


@pytest.mark.parametrize(
    ("base", "expert", "has"),
    [
        ({"unk_token": "<u>"}, {}, "base"),
        ({"unk_token": "<u>"}, {"unk_token": None}, "base"),
        ({}, {"unk_token": "<u>"}, "expert"),
        (None, {"unk_token": "<u>"}, "expert"),
    ],
)
def test_a_token_that_only_one_sets_is_a_warning(folders, caplog, base, expert, has):
    with caplog.at_level(logging.WARNING):
        merged(folders, CONFIG, base, expert)
    assert (folders / "out" / "model.safetensors").is_file()
    assert f"{folders / has / CONFIG} sets unk_token to '<u>'" in caplog.text


def test_tokens_in_different_files_are_compared_as_well(folders):
    write_json(folders / "base" / MAP, {"eos_token": "<e>"})
    with pytest.raises(InputError, match=rf"expert/{CONFIG} sets eos_token to '<f>', .*base/{MAP} to '<e>'"):
        merged(folders, CONFIG, None, {"eos_token": "<f>"})


@pytest.mark.parametrize(
    ("base", "expert", "warns"),
    [
        ({"eos_token_id": 2}, {"eos_token_id": [2]}, False),
        ({"eos_token_id": [2, 7]}, {"eos_token_id": [7, 2], "temperature": 0.1}, False),
        (None, {"temperature": 0.1}, False),
        ({"eos_token_id": 2}, {"eos_token_id": 3}, True),
        ({"eos_token_id": 2}, None, True),
    ],
)
def test_another_end_of_generation_is_a_warning(folders, caplog, base, expert, warns):
    with caplog.at_level(logging.WARNING):
        merged(folders, "generation_config.json", base, expert)
    assert (folders / "out" / "model.safetensors").is_file()
    assert ("the merged model keeps the base's" in caplog.text) == warns


def test_sentencepiece_models_are_compared_by_their_bytes(folders, caplog):
    (folders / "base" / "tokenizer.model").write_bytes(b"pieces")
    with caplog.at_level(logging.WARNING):
        merge_checkpoints(folders / "base", [folders / "expert"], folders / "alone")
    assert "base/tokenizer.model exists" in caplog.text
    (folders / "expert" / "tokenizer.model").write_bytes(b"pieces")
    merge_checkpoints(folders / "base", [folders / "expert"], folders / "same")
    assert (folders / "same" / "tokenizer.model").read_bytes() == b"pieces"
    (folders / "expert" / "tokenizer.model").write_bytes(b"pieceS")
    with pytest.raises(InputError, match=r"expert/tokenizer.model differs from .*base/tokenizer.model"):
        merge_checkpoints(folders / "base", [folders / "expert"], folders / "out")


@pytest.mark.parametrize(
    ("file", "value", "said"),
    [
        (CONFIG, {"additional_special_tokens": 5}, "additional_special_tokens is 5, which is no list"),
        (CONFIG, {"extra_special_tokens": "<a>"}, "extra_special_tokens is '<a>', which is no list"),
        ("generation_config.json", {"eos_token_id": [[1]]}, r"eos_token_id is \[\[1\]\], which is neither"),
        ("generation_config.json", {"eos_token_id": {"id": 1}}, "eos_token_id is .*, which is neither"),
        ("generation_config.json", {"eos_token_id": [1, "2"]}, "eos_token_id is .*, which is neither"),
        (MAP, ["<a>"], "is no JSON object"),
    ],
)
def test_a_file_of_another_shape_is_named(folders, file, value, said):
    with pytest.raises(InputError, match=f"expert/{file}.*{said}"):
        merged(folders, file, None, value)
    assert not (folders / "out").exists()

"""params.yaml and profiles: what is accepted, what the errors say, what a change does to the file."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, get_origin

import pytest

from flows.catalog import CATALOG, stage_spec
from flows.corpus import check_corpus
from flows.params import (
    HandEditsError,
    apply_sets,
    check_params,
    hand_edits,
    list_profiles,
    load_params,
    profile_params,
    stage_config,
    switch_profile,
    write_params,
)
from flows.schema import describe_type, described_fields
from flows.yaml_io import dump_yaml, edit_values, flatten, parse_yaml
from stages.common.errors import ConfigError, InputError


@pytest.fixture
def params() -> dict[str, Any]:
    return profile_params("tiny")


@pytest.fixture
def path(tmp_path: Path, params: dict[str, Any]) -> Path:
    write_params(tmp_path / "params.yaml", params)
    return tmp_path / "params.yaml"


def message(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        check_params(values)
    return str(caught.value)


def test_the_projects_own_file_is_the_tiny_profile() -> None:
    project = Path(__file__).parents[2] / "params.yaml"
    assert hand_edits(load_params(project)) == []


def test_every_stage_gets_its_configuration(params: dict[str, Any]) -> None:
    for spec in CATALOG.values():
        assert isinstance(stage_config(spec, params), spec.config_type())
    assert stage_config(stage_spec("rl@stage2"), params).stage.max_input_tokens == 768  # type: ignore[attr-defined]


def test_a_misspelt_key_names_the_nearest_one_and_is_told_once(params: dict[str, Any]) -> None:
    stage = params["rl"]["stage2"]
    stage["lerning_rate"] = stage.pop("learning_rate")
    assert message(params) == "params.yaml: rl.stage2.lerning_rate: unknown key; did you mean learning_rate?"


def test_a_misspelt_section_and_a_misspelt_task_are_named(params: dict[str, Any]) -> None:
    params["reprot"] = params.pop("report")
    params["sft"]["enabled"] = True
    params["stratify"]["heldout_per_task"]["numericl"] = 1
    text = message(params)
    assert "reprot: unknown key; did you mean report?" in text
    assert "stratify.heldout_per_task.numericl: unknown key; did you mean numerical?" in text


def test_all_problems_are_listed_with_the_value_seen_and_what_is_allowed(params: dict[str, Any]) -> None:
    params["rl"]["stage1"].update(steps="3", learning_rate=2)
    params["rl"]["shared"]["std_scope"] = "grup"
    params["sft"]["enabled"] = 1
    del params["merge"]["method"]
    lines = message(params).splitlines()
    assert lines[0] == "params.yaml: "
    assert [line.strip() for line in lines[1:]] == [
        "sft.enabled: 1 is not allowed; it must be true or false.",
        "rl.shared.std_scope: 'grup' is not allowed; it must be one of task, group, batch, none.",
        "rl.stage1.learning_rate: 2 is not allowed; it must be a number, greater than 0, at most 1.",
        "rl.stage1.steps: '3' is not allowed; it must be a whole number, at least 1.",
        "merge.method: missing; it must be one of sce, linear, task_arithmetic.",
    ]


def test_rules_over_two_keys_name_their_section(params: dict[str, Any]) -> None:
    params["rl"]["shared"]["aepo"]["entropy_low"] = 9.0
    assert message(params) == "params.yaml: rl.shared.aepo: entropy_low must not exceed entropy_high."


def test_a_negative_count_per_task_and_a_missing_task_are_errors(params: dict[str, Any]) -> None:
    counts = params["evaluate"]["sft"]["questions_per_task"]
    counts["numerical"] = -1
    del counts["multi_hop"]
    text = message(params)
    assert "evaluate.sft.questions_per_task.multi_hop: missing" in text
    assert "evaluate.sft.questions_per_task.numerical: -1 is not allowed" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2\n", "params.yaml, line 2: the key 'seed' occurs twice"),
        ("rl: {stage1: [}\n", "params.yaml, line 1:"),
        ("- 1\n", "must hold `key: value` lines, found list"),
        ("", "found nothing"),
        ("a: !!python/object:os.system x\n", "could not determine a constructor"),
    ],
)
def test_broken_yaml_is_an_error_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_params(path)
    assert expected in str(caught.value)


def test_a_missing_or_binary_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_params(tmp_path / "params.yaml")


def test_scalars_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    from dvc.utils.serialize import load_yaml

    text = "a: 1e-5\nb: yes\nc: 1_000\nd: 0o17\ne: 017\nf: .5\ng: 1.e5\nh: 1:30\ni: ~\nj: -3\nk: true\nl: 'x'\nm: on\n"
    (tmp_path / "x.yaml").write_text(text)
    ours = parse_yaml(text, "x")
    assert ours == load_yaml(str(tmp_path / "x.yaml"))
    assert (ours["a"], ours["b"]) == (1e-5, "yes")


def test_what_is_written_reads_back_as_itself() -> None:
    values = {
        "a": "1e-5",
        "b": "yes",
        "c": "true",
        "d": "017",
        "e": 1e-5,
        "f": "a: b # c",
        "g": "",
        "h": None,
        "i": [1, "2"],
    }
    assert parse_yaml(dump_yaml(values), "x") == values


# --- profiles


@pytest.mark.parametrize("name", list_profiles())
def test_every_profile_is_complete_and_valid(name: str) -> None:
    assert profile_params(name)["profile"] == name


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no profile 'tinny'\. Did you mean 'tiny'"):
        profile_params("tinny")


def test_hand_edits_are_found_against_the_profile_of_the_file(params: dict[str, Any]) -> None:
    params["rl"]["stage2"]["learning_rate"] = 1e-5
    assert hand_edits(params) == [("rl.stage2.learning_rate", 2e-5, 1e-5)]


def test_switching_the_profile_keeps_hand_edits_unless_told(path: Path, params: dict[str, Any]) -> None:
    write_params(path, apply_sets(params, ["seed=5"]))
    with pytest.raises(HandEditsError, match=r"(?s)seed: 5 \(profile: 17\).*--discard-edits"):
        switch_profile(path, "plumbing")
    assert load_params(path)["seed"] == 5
    assert switch_profile(path, "plumbing", discard_edits=True)
    assert load_params(path) == profile_params("plumbing")
    assert not switch_profile(path, "plumbing")
    assert switch_profile(path, "tiny")
    path.write_text("broken: [")
    with pytest.raises(ConfigError, match="line 1"):
        switch_profile(path, "tiny")
    assert switch_profile(path, "tiny", discard_edits=True)
    assert load_params(path) == params


# --- changes


def test_set_reads_numbers_and_survives_a_round_trip(params: dict[str, Any], path: Path) -> None:
    changed = apply_sets(
        params, ["rl.stage2.learning_rate=1e-5", "evaluate.shared.needle_tokens=[64]", "sft.enabled=false"]
    )
    assert hand_edits(changed) == [
        ("sft.enabled", True, False),
        ("rl.stage2.learning_rate", 2e-5, 1e-5),
        ("evaluate.shared.needle_tokens", [256, 512], [64]),
    ]
    assert params == profile_params("tiny")  # the argument is untouched
    write_params(path, changed)
    assert load_params(path) == changed


def test_set_of_a_section_changes_the_named_keys_only(params: dict[str, Any]) -> None:
    assert hand_edits(apply_sets(params, ["rl.shared.aepo={enabled: false}"])) == [
        ("rl.shared.aepo.enabled", True, False)
    ]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("rl.stage2.learning_rat=1", "Did you mean 'rl.stage2.learning_rate'"),
        ("rl.stage2.learning_rate=fast", "'fast' is not allowed; it must be a number"),
        ("seed", "is no key=value"),
        ("seed=", "None is not allowed"),
        ("seed.x=1", "no parameter 'seed.x'"),
        ("profile=plumbing", "use --profile"),
        ("rl.shared.aepo={enabeld: true}", "did you mean enabled"),
        ("ingest.sources=[a, b]", "a list of 2, but one folder is read"),
        ("report.title=[", "cannot be read as a YAML value"),
    ],
)
def test_a_wrong_set_is_an_error(params: dict[str, Any], item: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_sets(params, [item])
    assert expected in str(caught.value)


def test_the_corpus_is_relative_inside_the_project_and_absolute_outside(params: dict[str, Any], tmp_path: Path) -> None:
    project, outside = tmp_path / "project", tmp_path / "papers"
    (project / "data" / "mine").mkdir(parents=True)
    outside.mkdir()

    def sources(folder: Path) -> str:
        return apply_sets(params, corpus=folder, root=project)["ingest"]["sources"]

    assert sources(project / "data" / "mine") == "data/mine"
    assert sources(outside) == str(outside)
    with pytest.raises(InputError, match="does not exist"):
        sources(tmp_path / "nowhere")


def test_a_list_of_one_folder_is_that_folder_but_not_in_the_file(params: dict[str, Any], path: Path) -> None:
    assert apply_sets(params, ["ingest.sources=[papers]"])["ingest"]["sources"] == "papers"
    path.write_text(path.read_text().replace("sources: data/starter_corpus", "sources: [data/starter_corpus]"))
    with pytest.raises(ConfigError, match="sources: data/starter_corpus"):
        load_params(path)


def test_a_missing_or_empty_corpus_is_an_error(params: dict[str, Any], tmp_path: Path) -> None:
    params["ingest"]["sources"] = "mine"
    with pytest.raises(InputError, match=r"'mine' \(ingest.sources\) does not exist.*--corpus"):
        check_corpus(params, tmp_path)
    (tmp_path / "mine" / "folder").mkdir(parents=True)
    with pytest.raises(InputError, match="is empty"):
        check_corpus(params, tmp_path)
    (tmp_path / "mine" / "folder" / "a.txt").write_text("text")
    check_corpus(params, tmp_path)


def test_writing_equal_values_leaves_the_file_alone(path: Path, params: dict[str, Any]) -> None:
    path.write_text("# mine\n" + path.read_text())
    before = path.stat().st_mtime_ns
    assert not write_params(path, copy.deepcopy(params))
    assert path.stat().st_mtime_ns == before


def test_a_changed_value_keeps_comments_and_layout(path: Path, params: dict[str, Any]) -> None:
    text = (
        path.read_text()
        .replace("  stage2:\n", "  stage2:  # the middle one\n")
        .replace("seed: 17", "seed:   17 # luck")
    )
    path.write_text(text)
    assert write_params(path, apply_sets(params, ["seed=18", "rl.stage2.learning_rate=1e-5", "report.title=A b"]))
    now = path.read_text()
    changed = [(a, b) for a, b in zip(text.splitlines(), now.splitlines(), strict=True) if a != b]
    assert changed == [
        ("seed:   17 # luck", "seed:   18 # luck"),
        ("    learning_rate: 2.0e-05", "    learning_rate: 1.0e-05"),
        ("  title: longfuse tiny run", "  title: A b"),
    ]


def test_values_in_flow_style_and_quotes_are_edited_in_place() -> None:
    text = "a: {b: 1, c: [1, 2]}  # x\nd: 'old'\ne: |\n  long\n  text\n"
    edited = edit_values(text, {"a": {"b": 2, "c": [3]}, "d": "it's # new", "e": "short"})
    assert edited is not None
    assert parse_yaml(edited, "") == {"a": {"b": 2, "c": [3]}, "d": "it's # new", "e": "short"}
    assert "# x" in edited


def test_a_value_shared_through_an_anchor_is_not_edited_in_place() -> None:
    assert edit_values("a: &x {b: 1}\nc: *x\n", {"a": {"b": 1}, "c": {"b": 2}}) is None
    assert edit_values("a: 1\n", {"a": 1, "b": 2}) is None


def test_an_anchor_in_the_file_is_written_out_when_one_use_changes(path: Path, params: dict[str, Any]) -> None:
    text = dump_yaml(params).replace(
        "  stage1:\n    max_input_tokens: 640", "  stage1: &one\n    max_input_tokens: 640"
    )
    path.write_text(text)
    assert load_params(path) == params
    changed = apply_sets(params, ["rl.stage1.steps=3"])
    write_params(path, changed)
    assert load_params(path) == changed


def test_types_are_described_in_words() -> None:
    fields = described_fields()
    assert describe_type(fields["rl.stage1.learning_rate"]) == "a number, greater than 0, at most 1"
    assert describe_type(fields["train.compute_dtype"]) == "one of float32, bfloat16"
    mappings = {key for key, field in fields.items() if get_origin(field.annotation) is dict}
    assert set(fields) - mappings <= set(flatten(profile_params("tiny")))


def test_files_that_dvc_cannot_hash_are_listed_before_anything_runs(params: dict[str, Any], tmp_path: Path) -> None:
    params["ingest"]["sources"] = "mine"
    folder = tmp_path / "mine"
    (folder / "sub").mkdir(parents=True)
    (folder / "good.txt").write_text("text")
    (folder / "sub" / "link.txt").symlink_to("nowhere")
    (folder / "sub" / ".dvcignore").write_text("x")
    os.mkfifo(folder / "pipe")
    Path(os.fsdecode(bytes(folder) + b"/\xff.txt")).write_text("text")
    with pytest.raises(InputError) as caught:
        check_corpus(params, tmp_path)
    lines = sorted(line.strip() for line in str(caught.value).splitlines()[1:-1])
    assert lines == [
        "\\udcff.txt: its name is not UTF-8",
        "pipe: neither a file nor a folder",
        "sub/.dvcignore: a .dvcignore is allowed at the top of the project only",
        "sub/link.txt: a link to nothing",
    ]

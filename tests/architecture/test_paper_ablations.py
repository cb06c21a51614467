"""The report says with which parameters an ablation of the paper is run here: they exist, and a run with them is that line."""

import re

import pytest

from flows.catalog import CATALOG
from flows.params import apply_sets, profile_params, stage_config
from stages.report.paper import ABLATIONS, is_line_of
from stages.report.report import variant_of


@pytest.mark.parametrize(
    "ablation", [a for a in ABLATIONS if a.variant is not None], ids=lambda ablation: ablation.variant_name
)
def test_the_parameters_of_an_ablation_make_a_run_that_line(ablation):
    sets = re.findall(r"[\w.]+\.\w+=\w+", ablation.here)
    for section, values in re.findall(r"([\w.]+): \{([^}]*)\}", ablation.here):
        sets += [f"{section}.{key}={value}" for key, value in (pair.split(": ") for pair in values.split(", "))]
    assert sets, ablation.here
    params = apply_sets(profile_params("tiny"), sets)
    run = variant_of(stage_config(CATALOG["report"], params))
    assert [line.variant_name for line in ABLATIONS if is_line_of(line, run)] == [ablation.variant_name]


def test_the_other_lines_name_no_parameters():
    others = [ablation for ablation in ABLATIONS if ablation.variant is None]
    assert [ablation.variant_name for ablation in others] == ["Qwen3-4B-Thinking-2507", "GRPO"]
    assert not any("=" in ablation.here for ablation in others)

"""The report says with which parameters an ablation of the paper is run here: they exist, and the values are allowed."""

import re

import pytest

from flows.params import apply_sets, profile_params
from stages.report.paper import ABLATIONS


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.variant)
def test_the_parameters_of_an_ablation_exist_and_take_its_values(ablation):
    sets = re.findall(r"[\w.]+\.\w+=\w+", ablation.here)
    for section, values in re.findall(r"([\w.]+): \{([^}]*)\}", ablation.here):
        sets += [f"{section}.{key}={value}" for key, value in (pair.split(": ") for pair in values.split(", "))]
    assert sets, ablation.here
    apply_sets(profile_params("tiny"), sets)

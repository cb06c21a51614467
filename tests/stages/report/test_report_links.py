"""Where a reader gets who clicks on a score: the scores.json of the model in whose row or column it stands."""

import json

import pytest

from stages.report.config import ReportConfig, ReportStage
from stages.report.report import run
from tests.report_page import ReportPage

MODELS = ("base", "sft", "stage1", "stage2", "stage3", "memory", "merge", "stage4")
SIX = ("docmath", "longbench_v2", "frames", "mrcr", "corpus_numerical/32768", "longbench_v1/qasper")


@pytest.fixture
def page(report_inputs, tmp_path):
    for model in MODELS:  # every column of the paper's tables has scores, also the average of the six
        path = report_inputs[f"evaluate_{model}"] / "scores.json"
        value = json.loads(path.read_text())
        like = value["scores"][0]
        value["scores"] += [{**like, "benchmark": name} for name in SIX]
        value["scores"] += [{**like, "benchmark": "corpus_numerical_4m", "mode": "memory_agent"}]
        path.write_text(json.dumps(value))
    out = tmp_path / "report 1" / "data"  # a folder's blank is quoted in links
    out.mkdir(parents=True)
    config = ReportStage(
        report=ReportConfig(title="t", examples_per_task=1), std_scope="task", aepo=True,
        clipping_level="none", clipping_side="high",
    )  # fmt: skip
    run(config, report_inputs, out, out, lambda *_: None)
    return ReportPage(out / "report.html")


def test_every_score_links_to_the_scores_of_its_own_model(page, report_inputs):
    scores = page.scores_by_model(MODELS)
    assert {title for title, _, _ in scores} == {
        "Mean over the held-out task types",
        "Models and benchmarks, in the form of the paper's Table 7",
        "What each stage adds, beside the paper's",
        "Memory agent, beside the paper's",
        "Scores, full context",
        "Scores, memory agent",
        "Scores, closed book",
    }
    assert {model for _, model, _ in scores} == set(MODELS)
    assert len(scores) > 200
    for title, model, cell in scores:
        assert cell.link, (title, model, cell.text)
        expected = (report_inputs[f"evaluate_{model}"] / "scores.json").resolve()
        assert page.target(cell.link) == expected, (title, model, cell.text)


def test_the_number_stands_in_the_file_that_it_links_to(page):
    header, *rows = page.tables["Scores, full context"]
    for row in rows:
        for model, cell in zip(header[1:], row[1:], strict=True):
            if not cell.link:
                assert cell.text == "–"
                continue
            scores = json.loads(page.target(cell.link).read_text())
            assert scores["model"] == model.text
            means = {f"{100 * score['mean']:.1f}" for score in scores["scores"] if score["mode"] == "full_context"}
            assert cell.text.split()[0].split("[")[0] in means


def test_averages_and_changes_of_ours_link_too_and_the_papers_figures_never(page):
    header, *rows = page.tables["Models and benchmarks, in the form of the paper's Table 7"]
    average = [cell.text for cell in header].index("average of the six")
    for row in rows:
        ours = row[0].text in MODELS
        assert bool(row[average].link) == ours, row[0].text
        assert ours or not any(cell.link for cell in row)


def test_every_link_leads_to_a_file(page):
    assert page.links
    assert page.broken_links() == []
    (page.folder / ".." / ".." / "inputs" / "evaluate" / "merge" / "scores.json").resolve().unlink()
    assert {page.target(link).name for link in page.broken_links()} == {"scores.json"}

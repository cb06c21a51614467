"""The report stage as a whole: what it says, that it is deterministic, self-contained, and safe to open."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stages.common.errors import InputError
from stages.report.config import ReportConfig, ReportStage
from stages.report.report import run

RL = {"std_scope": "task", "aepo": True, "clipping_level": "none", "clipping_side": "high"}


def report(
    inputs: dict[str, Path], out: Path, examples: int = 2, title: str = "a <run> & more", **rl
) -> tuple[str, str]:
    out.mkdir(parents=True, exist_ok=True)
    config = ReportStage(report=ReportConfig(title=title, examples_per_task=examples), **{**RL, **rl})
    run(config, inputs, out, out, lambda step, metrics: None)
    return (out / "report.md").read_text(encoding="utf-8"), (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rendered(shared_inputs, tmp_path_factory) -> tuple[str, str]:
    return report(shared_inputs, tmp_path_factory.mktemp("rendered"))


def test_questions_asked_without_their_documents_have_a_table_of_their_own(rendered):
    markdown, html = rendered
    table = markdown.split("Scores, closed book")[1].split("Scores, ")[0]
    assert "| mmlu pro | 31.0 \\[11, 51\\] n=12 |" in table
    assert "Scores, closed book" in html


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag was closed in order."""

    VOID = frozenset({"meta", "br", "img", "input", "link", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.misnested: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_headline_names_updates_scores_and_what_is_more_than_chance(rendered):
    markdown, html = rendered
    assert "Trained in 50 updates: sft 40, stage1 2, stage2 2, stage3 2, memory 2, stage4 2" in markdown
    # base: (0.12 + 4 x 0.10) / 5; stage4: (0.75 + 4 x 0.66) / 5
    assert "base 10.4 %" in markdown
    assert "stage4 67.8 %" in markdown
    assert "base and sft: disjoint 95 % intervals on 1 of 9 benchmarks: numerical 12.0 → 75.0." in html


def test_tables_give_mean_interval_and_n_for_both_modes(rendered):
    markdown, html = rendered
    assert r"| numerical | 12.0 \[5, 19\] n=100 | 75.0 \[66, 84\] n=100 |" in markdown
    assert "### Scores, memory agent" in markdown
    # lengths in numeric order although the file has 512 first
    assert markdown.index("| needle/256 |") < markdown.index("| needle/512 |")
    assert '<span class="mean">75.0</span><span class="rest">[66, 84] n=100</span>' in html


def test_the_runs_settings_choose_its_line_among_the_ablations(report_inputs, tmp_path):
    markdown, html = report(report_inputs, tmp_path / "out", aepo=False, std_scope="batch")
    lines = [line for line in markdown.splitlines() if line.startswith(("| advantage |", "| negative clipping |"))]
    assert len(lines) == 8
    (ours,) = [line for line in lines if "n=" in line]
    assert ours.startswith("| advantage | + std of the batch | 57.45 | 42.0 ")  # stage3: 0.10 + 4 x 0.08 in every task
    assert "Ablations of the paper, beside this run" in html


def test_data_card_shows_drops_bins_and_merge(rendered):
    markdown, _ = rendered
    assert "| not utf8 | 1 |" in markdown
    assert "| academic | 10 | 0 | 0 |" in markdown
    assert "| answered without documents | 9 |" in markdown
    assert "|  | 0 to 0.25 | 0.25 to 0.5 | 0.5 to 0.75 | 0.75 to 1 |" in markdown
    assert "| numerical | 8 of 80 | 2 of 2 | 1 of 1 | 1 of 3 |" in markdown
    assert "| sft | dialogue memory | 6 | 10 |" in markdown
    assert "| rule 8 | 8 | 8 | 8 |" in markdown  # nine columns do not fit: turned
    assert "| weight stage3 | 0.61 |" in markdown
    assert r"| model.layers.8.mlp.up\_proj.weight | 0.000108 / 9.1e-06 | 0.6 / 0.4 | 0.2 |" in markdown


def test_equal_inputs_give_equal_bytes_and_nothing_volatile(rendered, shared_inputs, tmp_path):
    assert report(shared_inputs, tmp_path) == rendered
    for name in ("report.md", "report.html"):
        first = (tmp_path / name).read_bytes()
        assert str(shared_inputs["merge"].parent).encode() not in first
        assert importlib.metadata.version("matplotlib").encode() not in first
        assert not re.search(rb"20\d\d-\d\d-\d\d", first)


def test_a_new_process_writes_the_same_bytes(rendered, shared_inputs, tmp_path_factory):
    """Hash randomisation must not reach the SVGs."""
    code = (
        "import sys, json; from pathlib import Path; from stages.report.config import *; from stages.report.report import run\n"
        "inputs = {k: Path(v) for k, v in json.loads(sys.argv[1]).items()}; out = Path(sys.argv[2]); out.mkdir()\n"
        "run(ReportStage(report=ReportConfig(title='a <run> & more', examples_per_task=2), std_scope='task', aepo=True, clipping_level='none', clipping_side='high'), inputs, out, out, print)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    named = json.dumps({name: str(path) for name, path in shared_inputs.items()})
    two = tmp_path_factory.getbasetemp() / "rendered_again"  # as far from the inputs as the first: links are relative
    subprocess.run([sys.executable, "-c", code, named, str(two)], check=True)
    assert (two / "report.html").read_text(encoding="utf-8") == rendered[1]


def test_page_loads_nothing_and_runs_nothing(rendered):
    _, html = rendered
    page = Page(html)
    assert page.misnested == []
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "link", "object", "embed", "base", "form", "foreignobject"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                # A place on the page or a file beside the report; nothing with a scheme or a host.
                assert re.match(r"#|\.\./(?!/)[^:]*$", value), (tag, name, value)
                assert tag == "a" or value.startswith("#"), (tag, name, value)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert ("meta", "default-src 'none'; style-src 'unsafe-inline'") in [(t, a.get("content")) for t, a in page.tags]


def test_hostile_predictions_stay_text(rendered):
    markdown, html = rendered
    assert "<script>alert(1)</script>" in "".join(Page(html).text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    for text in (markdown, html):
        assert "\x00" not in text
        assert "\u202e" not in text
    # Markdown: the back quotes inside are fewer than those of the fence around.
    line = next(line for line in markdown.split("\n") if line.startswith("- question:") and "<script>" in line)
    assert line.startswith("- question: ````In the balance")
    assert line.endswith("new line````")


def test_ids_are_unique_over_all_figures(rendered):
    _, html = rendered
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    used = set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'href="#([^"]+)"', html))
    assert len(ids) == len(set(ids))
    assert used <= set(ids)
    assert html.count("<svg") == 17


def test_title_is_escaped(rendered):
    markdown, html = rendered
    assert markdown.startswith("# a &lt;run&gt; &amp; more\n")
    assert "<h1>a &lt;run&gt; &amp; more</h1>" in html


def test_examples_show_one_right_one_wrong_and_the_base_models_answer(report_inputs, tmp_path):
    markdown, _ = report(report_inputs, tmp_path / "out", examples=2)
    section = markdown[markdown.index("## Examples") : markdown.index("## Departures")]
    assert section.count("- stage4, score 1.00") == 5
    assert section.count("- stage4, score 0.00") == 5
    assert section.count("- base, score") == 10
    assert "- gold: `12.5; 13`" in section
    markdown, _ = report(report_inputs, tmp_path / "none", examples=0)
    assert "None were asked for" in markdown


def test_a_stage_switched_off_and_missing_metrics_are_dashes(report_inputs, tmp_path):
    report_inputs["metrics_sft"].write_text("", encoding="utf-8")
    report_inputs["metrics_stage2"].write_text('{"step": 0, "reward/mean": 0.5}\n', encoding="utf-8")
    markdown, html = report(report_inputs, tmp_path / "out")
    assert "| sft | 0 | – | – | – | – | – | – |" in markdown
    assert "| stage2 | 1 | – | 0.5 | – | – | – | – |" in markdown
    assert "Warm-up: loss" not in html
    assert "Mean reward" in html


def test_every_metric_missing_still_gives_a_report(report_inputs, tmp_path):
    report_inputs["bins"].write_text("{}", encoding="utf-8")
    for name, path in report_inputs.items():
        if name.startswith("metrics_"):
            path.write_text("", encoding="utf-8")
        if name.startswith("evaluate_"):
            (path / "scores.json").write_text('{"model": "m", "scores": []}', encoding="utf-8")
            (path / "predictions.jsonl").write_text("", encoding="utf-8")
    markdown, _ = report(report_inputs, tmp_path / "out")
    assert "Trained in 0 updates" in markdown
    assert "on none of 0 benchmarks" in markdown


@pytest.mark.parametrize("content", ["{}", '{"scores": [{"mode": "memory_agent"}]}', "[]", "{"])
def test_damaged_scores_name_the_file(report_inputs, tmp_path, content):
    (report_inputs["evaluate_merge"] / "scores.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"merge.scores\.json.*run again"):
        report(report_inputs, tmp_path / "out")


def test_damaged_bins_name_the_file_and_the_field(report_inputs, tmp_path):
    report_inputs["bins"].write_text('{"numerical": {"edges": [0, 1], "available": 3, "drawn": [1]}}', encoding="utf-8")
    with pytest.raises(InputError, match=r"bins\.json: available: .*list"):
        report(report_inputs, tmp_path / "out")
    report_inputs["bins"].write_text(
        '{"numerical": {"edges": [0, 1], "available": [3, 4], "drawn": [1]}}', encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"bins\.json: .*one number for every bin"):
        report(report_inputs, tmp_path / "out")


def test_missing_input_names_the_file(report_inputs, tmp_path):
    report_inputs["metrics_stage3"].unlink()
    with pytest.raises(InputError, match=r"stage3\.jsonl does not exist"):
        report(report_inputs, tmp_path / "out")


def test_every_number_of_a_table_links_to_a_file_that_is_there(shared_inputs, tmp_path_factory):
    """Cells of numbers in score tables, training, data and merge; only the paper's own stand alone."""
    out = tmp_path_factory.mktemp("linked")
    _, html = report(shared_inputs, out)
    page = Page(html)
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    files = {link for link in links if not link.startswith("#")}
    assert all((out / link).is_file() for link in files), files
    for name, path in shared_inputs.items():
        inside = [path] if path.is_file() else [path / "scores.json"]
        assert all(any((out / link).resolve() == file.resolve() for link in files) for file in inside), name
    unlinked = [
        cell
        for row in re.findall(r"<tr>(.*?)</tr>", html)
        for cell in re.findall(r"<td>(.*?)</td>", row)[1:]
        if re.match(r"[\d.,]+$", cell.strip()) and "paper: " not in row
    ]
    papers = {
        "61.92",
        "69.59",
        "70.46",
        "71.59",
        "68.53",
        "71.18",
        "71.82",
        "4.24",
        "17.14",
        "12.66",
        "20.34",
        "21.68",
        "22.53",
    }
    papers |= {"9.52", "14.29", "52.79", "56.07", "56.86", "57.45", "58.62", "57.02", "57.36", "55.56", "59.36"}
    assert set(unlinked) <= papers


def test_failures_are_shown_as_text_with_kind_and_line(rendered):
    markdown, html = rendered
    assert "10 of 20 answers of stage4, all benchmarks and modes, scored below 0.5." in markdown
    section = markdown[markdown.index("## Failures") : markdown.index("## Training")]
    assert section.count(" of the file") == 10
    assert "<script>alert(1)</script>" not in html

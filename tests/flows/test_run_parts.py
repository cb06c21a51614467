"""The parts of a pipeline run, one by one: tokens, journal, words."""

import threading
from pathlib import Path

import pytest

from flows.journal import Journal, RunRecord, StageEntry, last_line, read_journal, stage_log
from flows.progress import PlainProgress, seconds_text
from flows.slots import Slots
from flows.summary import final_message, status_lines
from infra.errors import StageStoppedError


def record(*states: tuple[str, str], **fields) -> RunRecord:
    entries = tuple(StageEntry(stage=name, planned="run", state=state) for name, state in states)
    return RunRecord(
        **{"command": "longfuse run", "pid": 7, "profile": "tiny", "started": 0.0, "stages": entries} | fields
    )


# --- tokens


def order_of_entry(slots: Slots, positions: list[int], uses_model: bool) -> list[int]:
    """Positions in the order in which they get a token, when all ask while one is taken."""
    entered: list[int] = []
    asked = threading.Barrier(len(positions) + 1)

    def work(position: int) -> None:
        asked.wait()
        with slots.hold(uses_model=uses_model, position=position):
            entered.append(position)

    with slots.hold(uses_model=uses_model, position=-1):
        threads = [threading.Thread(target=work, args=(position,)) for position in positions]
        for thread in threads:
            thread.start()
        asked.wait()
        while len(slots._waiting["model" if uses_model else "light"]) < len(positions):
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    return entered


def test_one_stage_with_a_model_at_a_time_in_plan_order():
    assert order_of_entry(Slots(jobs=4), [3, 1, 2], uses_model=True) == [1, 2, 3]


def test_model_token_does_not_bar_other_stages_and_jobs_bounds_those():
    slots = Slots(jobs=2)
    with (
        slots.hold(uses_model=True, position=0),
        slots.hold(uses_model=False, position=1),
        slots.hold(uses_model=False, position=2),
    ):
        assert slots._free == {"model": 0, "light": 0}
    assert slots._free == {"model": 1, "light": 2}


def test_stage_that_waits_is_let_go_when_the_run_stops():
    slots = Slots(jobs=1)
    refused: list[str] = []

    def wait() -> None:
        try:
            with slots.hold(uses_model=False, position=1):
                refused.append("entered")
        except StageStoppedError as error:
            refused.append(str(error))

    with slots.hold(uses_model=False, position=0):
        waiter = threading.Thread(target=wait)
        waiter.start()
        slots.close()
        waiter.join()
    assert refused == ["not started: the run is being stopped"]


# --- journal


def test_journal_is_on_disk_after_every_change(tmp_path):
    journal = Journal(tmp_path, record(("a", "waiting"), ("b", "waiting"), ("c", "waiting")))
    journal.stage("a", state="ran", seconds=1.5)
    journal.stage("b", state="running")
    assert [entry.state for entry in read_journal(tmp_path).stages] == ["ran", "running", "waiting"]
    journal.end("stopped")
    found = read_journal(tmp_path)
    assert [entry.state for entry in found.stages] == ["ran", "stopped", "not_run"]
    assert (found.state, found.ended is not None) == ("stopped", True)


def test_journal_of_another_version_or_none_is_no_journal(tmp_path):
    assert read_journal(tmp_path) is None
    (tmp_path / "run.json").write_text('{"old": 1}')
    assert read_journal(tmp_path) is None


def test_last_line_of_a_log(tmp_path):
    path = stage_log(tmp_path, "rl@stage1")
    assert last_line(path) == ""
    path.parent.mkdir(parents=True)
    path.write_text("x" * 10_000 + "\nstep 3 reward 0.4\n")
    assert last_line(path) == "step 3 reward 0.4"


# --- words


def test_failure_is_told_with_its_tail_what_is_done_and_how_to_go_on():
    failed = StageEntry(stage="sft", planned="run", state="failed", seconds=65.0, message="line 1\nError: no data")
    found = record(("a", "ran"), ("b", "restored"), ("d", "not_run"), state="failed")
    text = "\n".join(final_message(found.model_copy(update={"stages": (*found.stages, failed)}), Path("logs")))
    assert "Stage sft failed after 1 min 05 s:\n  line 1\n  Error: no data\n" in text
    assert "logs/stages/sft.log" in text
    assert "Finished in this run: a, b." in text
    assert "Not run: d." in text
    assert text.endswith("the next `longfuse run` continues from here.")


def test_end_of_a_good_run_is_one_sentence_more():
    found = record(("a", "ran"), ("b", "skipped"), state="finished", ended=61.0)
    assert final_message(found, Path("logs")) == [
        "Finished in this run: a.",
        "All 2 stages are up to date (1 min 01 s).",
    ]


def test_status_tells_a_live_run_from_a_dead_one():
    found = record(("a", "ran"), ("b", "running"), ("c", "waiting"), page="http://p")
    alive = "\n".join(status_lines(found, alive=True, last_lines={"b": "step 3"}))
    assert alive.startswith("Running: `longfuse run` (process 7)")
    assert "1 of 3 stages done" in alive
    assert "step 3" in alive
    assert "waiting: c" in alive
    assert "http://p" in alive
    dead = status_lines(found, alive=False, last_lines={})
    assert "died with its process; 1 of 3 stages were done" in dead[0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (65, "1 min 05 s"), (3600, "1 h 00 min"), (7385, "2 h 03 min")],
)
def test_seconds_in_words(seconds, text):
    assert seconds_text(seconds) == text


def test_plain_progress_is_lines_only(capsys):
    with PlainProgress() as progress:
        progress.expect(2)
        progress.started("sft")
        progress.line("sft", "step 1")
        progress.ended("sft", "ran", 3.0)
        progress.say("that is all")
    out = capsys.readouterr().out
    assert "sft: step 1\n" in out
    assert "sft: done (3.0 s)\n" in out
    assert "\x1b" not in out
    assert "\r" not in out

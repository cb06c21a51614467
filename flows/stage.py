"""`python -m flows.stage NAME`: runs one stage. This is what dvc.yaml calls, so plain `dvc repro` does everything.

    params.yaml -> config      dvc.yaml -> fingerprint      run(config, inputs, out_dir, state_dir, emit) -> counts
    outputs/<stage>/data/      what the stage makes, emptied first
    outputs/<stage>/record.json  config, input hashes, counts; written last, so its existence means complete
    .state/<stage>/<fingerprint>/  checkpoints (deleted after success), metric spool, run.json (time, commit, versions)

Exit codes: 0 done; 1 a bug (traceback); 2 the user can mend it (params, documents); 3 the machine or a service failed;
130, 143 stopped by SIGINT, SIGTERM.
"""

from __future__ import annotations

import errno
import faulthandler
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.catalog import StageSpec, stage_spec
from flows.corpus import check_corpus
from flows.params import load_params, stage_config
from flows.processes import (
    join,
    launch,
    parent_process,
    process_count,
    rank,
    report_failure,
    started_here,
    under_torchrun,
)
from flows.remote_access import hand_over_remote_engine
from flows.stage_guard import Stopped, dvc_processes, end_on_signals
from flows.stage_state import (
    RUN_FILE,
    clear_checkpoints,
    machine,
    open_state,
    package_versions,
    peak_memory_mb,
    without_absolute_paths,
)
from infra.errors import InfraError
from infra.provenance import source_state
from infra.settings import (
    STAGES_WITH_NETWORK,
    TELEMETRY_OFF,
    Settings,
    environment_values,
    export,
    find_root,
    load_settings,
)
from infra.spool import start_stage_run
from stages.common.chat_access import endpoints_in, missing_key, set_access
from stages.common.config import Section
from stages.common.errors import EnvironmentFailureError, UserError
from stages.common.storage import write_json

logger = logging.getLogger(__name__)


def run_stage(root: Path, name: str, settings: Settings) -> dict[str, int]:
    """Run one stage in the current process; the current folder must be `root`. Returns its counts.

    Raises UserError, EnvironmentFailureError or whatever the stage raises.
    """
    started = time.time()
    spec = stage_spec(name)
    params = load_params(root / "params.yaml")
    config = stage_config(spec, params)
    if "corpus" in spec.inputs:
        check_corpus(params, root)
    inputs = spec.input_paths(params)
    _require(spec, inputs)
    give_access(config, root)
    if rank() > 0:
        return _follow(spec, config, inputs, root)
    fingerprint, md5s = _fingerprint(root, name, params)
    prepare_process(spec, config)
    world = join(root / ".state") if under_torchrun() else None

    out_dir, record = spec.data_dir, spec.folder / "record.json"
    state_dir = open_state(root, name, fingerprint).relative_to(root)
    record.unlink(missing_ok=True)
    if out_dir.exists():
        shutil.rmtree(out_dir)
    out_dir.mkdir(parents=True)
    spool = start_stage_run(
        settings,
        stage=name,
        fingerprint=fingerprint,
        params=config.model_dump(mode="json"),
        state_dir=state_dir,
        data_dir=out_dir,
        record=record,
    )
    if world is not None:
        world.from_first(state_dir.as_posix(), "start of the stage")
    try:
        counts = spec.run_function()(config, inputs, out_dir, state_dir, spool)
    except BaseException:
        spool.close()
        raise
    write_json(
        state_dir / RUN_FILE,
        _run_record(root, name, fingerprint, settings, started) | {"seconds": time.time() - started},
    )
    spool.finish()
    write_json(record, _record(name, config, spec, inputs, md5s, counts))
    clear_checkpoints(state_dir)
    logger.info("%s done in %.1f s: %s", name, time.time() - started, _listed(counts))
    return counts


def _follow(spec: StageSpec, config: Section, inputs: Mapping[str, Path], root: Path) -> dict[str, int]:
    """The part of a process that trains together with process 0: the same work, no record and no metrics."""
    prepare_process(spec, config)
    state_dir = Path(join(root / ".state").from_first(None, "start of the stage"))
    return spec.run_function()(config, inputs, spec.data_dir, state_dir, lambda _step, _metrics: None)


def _asked_processes(root: Path, name: str) -> int:
    """Processes that this one is to start; 1: none."""
    if under_torchrun():
        return 1
    spec = stage_spec(name)
    return process_count(spec, stage_config(spec, load_params(root / "params.yaml"))) or 1


def _fingerprint(root: Path, name: str, params: Mapping[str, Any]) -> tuple[str, dict[str, str | None]]:
    from flows.plan import stage_fingerprint  # DVC; its hashes of unchanged files come from its state database

    return stage_fingerprint(root, name, params)


def _require(spec: StageSpec, inputs: Mapping[str, Path]) -> None:
    missing = [str(path) for path in inputs.values() if not path.exists()]
    if missing:
        raise UserError(
            f"stage {spec.name} reads {', '.join(missing)}, which does not exist. Run `longfuse run`, which makes it first."
        )


def give_access(config: Section, root: Path) -> None:
    """Hand the stage the keys of its endpoints, the folder of replies that all stages share, and its remote engine.

    ConfigError if a variable that api_key_env names is not set: better now than after hours of training.
    """
    endpoints = dict(endpoints_in(config))
    names = {endpoint.api_key_env for endpoint in endpoints.values() if endpoint.api_key_env is not None}
    keys = environment_values(names)
    for endpoint in endpoints.values():
        if endpoint.api_key_env is not None and endpoint.api_key_env not in keys:
            raise missing_key(endpoint)
    set_access(keys, root / ".state" / "chat")
    hand_over_remote_engine()


def prepare_process(spec: StageSpec, config: Section) -> None:
    """Threads, determinism and network of this process, before anything heavy is imported.

    Sums in another order differ in their last bits, so the number of threads is part of a model stage's parameters.
    """
    export(TELEMETRY_OFF)
    export({"TQDM_DISABLE": "1"})  # bars of libraries would stand in the log as fragments
    if spec.name not in STAGES_WITH_NETWORK:
        export({"HF_HUB_OFFLINE": "1"})
    train = getattr(config, "train", None)
    if train is not None:
        prepare_torch(train.cpu_threads)


def prepare_torch(threads: int) -> None:
    """Threads and determinism of torch in this process."""
    export({name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")})
    export({"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TOKENIZERS_PARALLELISM": "false"})
    import torch

    if not torch.cuda.is_available():
        export({"DS_ACCELERATOR": "cpu"})  # transformers loads DeepSpeed on saving if it is there; it would warn

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a costly debugging aid


def _record(
    name: str,
    config: Section,
    spec: StageSpec,
    inputs: Mapping[str, Path],
    md5s: Mapping[str, str | None],
    counts: Mapping[str, int],
) -> dict[str, Any]:
    return {
        "stage": name,
        "config": without_absolute_paths(config.model_dump(mode="json")),
        "inputs": {key: md5s[inputs[key].as_posix()] for key in spec.inputs},
        "counts": dict(counts),
    }


def _run_record(root: Path, name: str, fingerprint: str, settings: Settings, started: float) -> dict[str, Any]:
    source = source_state(root)
    return {
        "stage": name,
        "fingerprint": fingerprint,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "commit": source.commit,
        "dirty": source.dirty,
        "versions": package_versions(),
        "machine": machine(),
        "peak_memory_mb": peak_memory_mb(),
        "mlflow_parent_run": settings.parent_run,
    }


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {value}" for key, value in counts.items()) or "no counts"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_disk_full(error: BaseException) -> bool:
    """True if an error, or one that it came from, is a full disk; compiled writers say so in text only."""
    return any(
        (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT))
        or "No space left on device" in str(cause)
        for cause in _causes(error)
    )


def _tell(message: str) -> None:
    if under_torchrun():
        report_failure(message)
        if started_here():
            return  # the launcher tells what the first process to fail has left
        message = f"process {rank()}: {message}"
    sys.stderr.write(message.rstrip() + "\n")
    sys.stderr.flush()


def main(arguments: list[str] | None = None) -> int:
    """The process: arguments -> exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) != 1 or words[0].startswith("-"):
        _tell("usage: python -m flows.stage NAME   (for example rl@stage1; `longfuse plan` lists the names)")
        return 2
    name = words[0]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for ours in ("stages", "flows", "infra", __name__):
        logging.getLogger(ours).setLevel(logging.INFO if rank() == 0 else logging.ERROR)
    try:
        root = find_root()
        os.chdir(root)
        settings = load_settings(root)
        runner = [settings.run_process] if settings.run_process is not None else []
        end_on_signals([*runner, *(parent_process() if under_torchrun() else dvc_processes())])
        if (processes := _asked_processes(root, name)) > 1:
            return launch([name], processes)
        run_stage(root, name, settings)
    except Stopped as stop:
        _tell(f"{name} stopped by {stop}; the next run continues from its last checkpoint.")
        return stop.exit_code
    except UserError as error:
        _tell(f"Error in stage {name}: {error}")
        return 2
    except (EnvironmentFailureError, InfraError) as error:
        _tell(f"Stage {name} failed: {error}")
        return 3
    except Exception as error:  # the last line of defence: report and fail, never go on  # noqa: BLE001
        if is_disk_full(error):
            free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
            _tell(
                f"Stage {name} failed: the disk is full ({free_gb:.1f} GB free at {Path.cwd()}). Make room (for example "
                "`dvc gc --workspace` drops results of earlier parameters) and run again: finished stages stay."
            )
            return 3
        _tell(traceback.format_exc())
        return 1
    return 0


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main())

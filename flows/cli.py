"""The `longfuse` command. Heavy imports happen inside the commands, so that `--help`, `plan` and `status` are quick.

Exit codes: 0 done; 1 a stage failed; 2 something that the user can mend; 3 the machine or a service; 130, 143 stopped.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.ask_command import ask
from flows.eval_command import evaluate
from flows.jobs_command import jobs_app
from flows.merge_command import merge
from flows.serve_command import serve

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A folder of documents and an open language model in; a model post-trained for long contexts out.",
)
profiles_app = typer.Typer(no_args_is_help=True, help="Ready-made parameters: tiny, plumbing, ...")
app.add_typer(profiles_app, name="profile")
app.add_typer(jobs_app, name="jobs")

Profile = Annotated[str | None, typer.Option("--profile", help="Take the parameters of this profile.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a parameter; repeatable.")]
Corpus = Annotated[Path | None, typer.Option("--corpus", metavar="DIR", help="Read the documents in this folder.")]
Only = Annotated[str | None, typer.Option("--only", metavar="STAGE", help="This stage alone.")]
FromStage = Annotated[
    str | None, typer.Option("--from", metavar="STAGE", help="This stage and those after it, as far as they need it.")
]
Jobs = Annotated[int, typer.Option("--jobs", help="Stages without a model at a time; of those with one, one runs.")]
Discard = Annotated[
    bool, typer.Option("--discard-edits", help="Give up hand edits of params.yaml (with --profile) and of outputs.")
]

On = Annotated[str | None, typer.Option("--on", metavar="ec2", help="Where stages of infra/resources.yaml run.")]
Simulate = Annotated[bool, typer.Option("--simulate", help="With --on ec2: on simulated instances, at no cost.")]


@app.command()
def run(
    profile: Profile = None,
    sets: Sets = None,
    corpus: Corpus = None,
    only: Only = None,
    from_stage: FromStage = None,
    jobs: Jobs = 2,
    discard_edits: Discard = False,
    on: On = None,
    simulate: Simulate = False,
) -> None:
    """Run what is not up to date. --set, --corpus and --profile change params.yaml, and stay."""
    from flows.launch import launch
    from flows.progress import make_progress
    from flows.session import Request
    from infra.settings import find_root, load_settings

    settings = load_settings(find_root())
    request = Request.of_flags(
        profile=profile,
        sets=sets or (),
        corpus=corpus,
        only=only,
        from_stage=from_stage,
        jobs=jobs,
        discard_edits=discard_edits,
        on=on,
        simulate=simulate,
    )
    progress = make_progress(plain=settings.plain_output)
    raise typer.Exit(launch(settings, request, command=_command(), progress=progress))


@app.command()
def plan(
    profile: Profile = None,
    sets: Sets = None,
    corpus: Corpus = None,
    only: Only = None,
    from_stage: FromStage = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of {stage, action, reasons}.")] = False,
    on: On = None,
) -> None:
    """Say what a run would do, and why; with --on ec2 also where and for how much. Changes nothing."""
    from flows.plan_table import render_plan
    from flows.session import Request, plan_request
    from infra.settings import find_root

    request = Request.of_flags(
        profile=profile,
        sets=sets or (),
        corpus=corpus,
        only=only,
        from_stage=from_stage,
        jobs=1,
        discard_edits=False,
    )
    made = plan_request(find_root(), request)
    print(made.as_json() if as_json else "\n".join(render_plan(made)))
    if on is not None and not as_json:
        from flows.ec2_costs import render_costs
        from flows.session import wanted_params

        print("\n".join(render_costs(on, str(wanted_params(find_root(), request).get("profile", "")), made)))


@app.command()
def status() -> None:
    """Say what is done, what runs now and for how long, and what failed in the latest run."""
    from flows.status import status_report
    from infra.settings import find_root, load_settings

    print("\n".join(status_report(load_settings(find_root()))))


@app.command()
def inspect(
    sample_id: Annotated[str | None, typer.Argument(help="A sample's id, or as much of it as names one.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="List samples of this task type.")] = None,
    dropped: Annotated[
        str | None, typer.Option("--dropped", metavar="REASON", help="List what was dropped for this reason, or `all`.")
    ] = None,
    merges: Annotated[
        bool,
        typer.Option("--merges", help="List what the knowledge graph read as one thing, by which rule, and where."),
    ] = False,
    stage: Annotated[str | None, typer.Option("--stage", help="Look in this stage's files alone.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="Longest list.")] = 20,
    context: Annotated[bool, typer.Option("--context", help="Show the whole context, not just its evidence.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    outputs: Annotated[
        Path | None, typer.Option("--outputs", metavar="DIR", help="Stage folders elsewhere (default: outputs).")
    ] = None,
) -> None:
    """Look at a sample with its evidence and proof, at a list of them, or at what was dropped or merged and why."""
    from flows.inspect import inspect as inspected
    from infra.settings import find_root

    print(
        inspected(
            outputs or find_root() / "outputs",
            sample_id,
            task=task,
            dropped=dropped,
            merges=merges,
            stage=stage,
            limit=limit,
            whole_context=context,
            as_json=as_json,
            colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"),
        )
    )


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder.")],
    form: Annotated[str, typer.Option("--format", help="hf: a Hugging Face dataset (parquet).")] = "hf",
    contexts: Annotated[
        str, typer.Option("--contexts", help="text: each sample with its context; references: documents once, apart.")
    ] = "references",
    outputs: Annotated[
        Path | None, typer.Option("--outputs", metavar="DIR", help="Stage folders elsewhere (default: outputs).")
    ] = None,
) -> None:
    """Write the training set as a dataset that `datasets.load_dataset` opens."""
    from flows.export import export_dataset
    from infra.settings import find_root

    print(export_dataset(outputs or find_root() / "outputs", folder, form=form, contexts=contexts))


@app.command()
def lineage(
    output: Annotated[str, typer.Argument(help="A stage (rl@stage4) or a path in outputs/.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what an output was made from: stages, parameters, md5s, commits and MLflow runs, down to the documents."""
    from flows import lineage as found
    from infra.settings import find_root

    entries = found.lineage(find_root(), output)
    print(found.as_json(entries) if as_json else "\n".join(found.lineage_lines(entries)))


@app.command()
def compare(
    left: Annotated[str, typer.Argument(help="A run: MLflow id or its beginning, name, newest, newest~1, ...")],
    right: Annotated[str, typer.Argument(help="The other run.")],
    everything: Annotated[bool, typer.Option("--all", help="Show what is equal too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Put parameters and metrics of two runs side by side."""
    from flows import compare as compared
    from infra.settings import find_root, load_settings

    found = compared.compare(load_settings(find_root()), left, right)
    print(found.as_json() if as_json else "\n".join(compared.comparison_lines(found, everything=everything)))


@app.command()
def ui() -> None:
    """Start the Prefect and MLflow pages of this tree and keep them until Ctrl-C."""
    from flows.pages import show_pages
    from infra.settings import find_root, load_settings

    show_pages(load_settings(find_root()), say=lambda text: print(text, flush=True))


@app.command()
def deploy(
    serve: Annotated[
        bool, typer.Option("--serve", help="Wait here for runs that are triggered from the page.")
    ] = False,
) -> None:
    """Let runs be triggered from the Prefect page, with profile, set and only as fields."""
    from flows.pages import serve_deployment
    from infra.settings import find_root, load_settings
    from stages.common.errors import ConfigError

    if not serve:
        raise ConfigError(
            "give --serve to wait here for runs from the page; for a work pool use `prefect deploy --all`, which reads "
            "prefect.yaml."
        )
    serve_deployment(load_settings(find_root()), say=lambda text: print(text, flush=True))


@profiles_app.command("list")
def profile_list() -> None:
    """Names of the profiles, and what each is for."""
    from flows.params import PROFILES, list_profiles

    for name in list_profiles():
        first = (PROFILES / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
        print(f"{name:<12}{first.removeprefix('#').strip() if first.startswith('#') else ''}")


@profiles_app.command("show")
def profile_show(name: Annotated[str, typer.Argument(help="Name of a profile.")]) -> None:
    """All parameters of a profile, as params.yaml would hold them."""
    from flows.params import profile_params
    from flows.yaml_io import dump_yaml

    print(dump_yaml(profile_params(name)), end="")


@app.command()
def doctor(on: On = None) -> None:
    """Check Python, packages, git, DVC, disk, memory, ports and pages; --on ec2: the account. Says what to do."""
    from flows.doctor import examine
    from infra.settings import find_root, load_settings

    if on is None:
        findings = examine(load_settings(find_root()))
    else:
        from flows.doctor_ec2 import examine_ec2
        from flows.on_ec2 import require_ec2

        require_ec2(on)
        findings = examine_ec2()
    for finding in findings:
        print(f"{finding.level:<5}{finding.what}" + (f"\n     {finding.remedy}" if finding.remedy else ""))
    raise typer.Exit(3 if any(finding.level == "fail" for finding in findings) else 0)


# Commands whose flags have a file of their own stand last in --help.
app.command(name="ask")(ask)
app.command(name="eval")(evaluate)
app.command(name="merge")(merge)
app.command(name="serve")(serve)


def _command() -> str:
    return shlex.join(["longfuse", *sys.argv[1:]])


def main() -> None:
    """The console script: errors of ours become a message on stderr and an exit code, never a traceback."""
    from infra.errors import InfraError
    from stages.common.errors import EnvironmentFailureError, UserError

    try:
        app()
    except UserError as error:
        _fail(str(error), 2)
    except (EnvironmentFailureError, InfraError) as error:
        _fail(str(error), 3)
    except KeyboardInterrupt:
        _fail("interrupted; nothing that is finished is lost.", 130)
    except BrokenPipeError:  # the reader of our output has gone, as in `longfuse plan | head`
        sys.stderr.close()
        raise SystemExit(141) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"the disk is full ({error}). Make room and run again: finished stages stay.", 3)


def _fail(message: str, exit_code: int) -> None:
    sys.stderr.write(f"Error: {message}\n")
    raise SystemExit(exit_code)


if __name__ == "__main__":
    main()

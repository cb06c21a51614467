"""The `longfuse` command. Heavy imports happen inside the commands, so that `--help`, `plan` and `status` are quick.

Exit codes: 0 done; 1 a stage failed; 2 something that the user can mend; 3 the machine or a service; 130, 143 stopped.
"""

from __future__ import annotations

import errno
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A folder of documents and an open language model in; a model post-trained for long contexts out.",
)
profiles_app = typer.Typer(no_args_is_help=True, help="Ready-made parameters: tiny, plumbing, ...")
app.add_typer(profiles_app, name="profile")

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


@app.command()
def run(
    profile: Profile = None,
    sets: Sets = None,
    corpus: Corpus = None,
    only: Only = None,
    from_stage: FromStage = None,
    jobs: Jobs = 2,
    discard_edits: Discard = False,
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
) -> None:
    """Say what a run would do, and why. Changes nothing."""
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


@app.command()
def status() -> None:
    """Say what is done, what runs now and for how long, and what failed in the latest run."""
    from flows.status import status_report
    from infra.settings import find_root, load_settings

    print("\n".join(status_report(load_settings(find_root()))))


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
def doctor() -> None:
    """Check Python, packages, git, DVC, disk, memory, ports and pages; say what to do about what is wrong."""
    from flows.doctor import examine
    from infra.settings import find_root, load_settings

    findings = examine(load_settings(find_root()))
    for finding in findings:
        print(f"{finding.level:<5}{finding.what}" + (f"\n     {finding.remedy}" if finding.remedy else ""))
    raise typer.Exit(3 if any(finding.level == "fail" for finding in findings) else 0)


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

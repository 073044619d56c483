"""The verbs that look at runs: `status`, `logs` and `generate`."""

from __future__ import annotations

from typing import Annotated

import typer

from ablate.cli.inputs import find_store
from ablate.cli.options import DEFAULT_RUNS, RUN_HELP, STUDY_HELP, AsJson, BesideGrid, Runs, TrustCode
from ablate.errors import AblateError

MAX_TOKENS = 1_000_000  # of one continuation, which takes minutes to hours


def status(
    study: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help=f"{STUDY_HELP} Without it, all studies under --runs are listed."),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh the table while the study trains.")] = False,
    every: Annotated[
        float, typer.Option("--every", min=0.1, metavar="SECONDS", help="Time between refreshes, with --watch.")
    ] = 2.0,
) -> None:
    """Show the state of every run of a study, from any machine that sees its folder."""
    from ablate.cli.status_output import list_studies, print_status, print_studies, watch_status

    if study is None:
        if watch:
            raise AblateError("--watch: name the STUDY to watch")
        print_studies(list_studies(runs), runs, as_json=as_json)
        return
    store = find_store(study, runs)
    if watch and not as_json:
        watch_status(store, every)
    else:
        print_status(store, as_json=as_json)


def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    runs: Runs = DEFAULT_RUNS,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="Show the last N lines of the curve.")
    ] = 10,
    as_json: AsJson = False,
) -> None:
    """Show what happened to a run: its state, its notes, the end of its curve, and its error with traceback."""
    from ablate.cli.outputs.base import print_output
    from ablate.cli.status_output import describe_log, print_log
    from ablate.tracking.folders import find_run

    log = describe_log(*find_run(runs, run), lines)
    if as_json:
        print_output(log)
    else:
        print_log(log)


def generate(
    run: Annotated[str, typer.Argument(metavar="RUN", help=f"{RUN_HELP} The run's folder works too.")],
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TEXT", help="Text to continue. Default: start a new document.")
    ] = "",
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="N", min=1, max=MAX_TOKENS, help="Maximum number of new tokens.")
    ] = 200,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", metavar="T", min=0, help="Sampling temperature; 0 always takes the most likely token."
        ),
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="K", min=1, help="Sample only from the K most likely tokens.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p", metavar="P", help="Sample only from the fewest tokens whose probabilities add up to P."
        ),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            "--min-p", metavar="P", help="Sample only from tokens at least P times as likely as the most likely one."
        ),
    ] = None,
    stop: Annotated[str, typer.Option("--stop", metavar="TEXT", help="End before this text.")] = "",
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="N",
            min=0,
            help="Seed of the sampling; the same seed gives the same text.",
        ),
    ] = 0,
    grid: BesideGrid = None,
    trust_code: TrustCode = False,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt with the model of a finished run."""
    from ablate.cli.outputs.base import print_output
    from ablate.cli.outputs.results import Continuation
    from ablate.evaluation.continuation import allow_code, continue_prompt, find_run
    from ablate_model import Sampling

    for name, text in (("prompt", prompt), ("stop", stop)):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise AblateError(f"--{name}: this is not text in UTF-8") from None
    try:
        sampling = Sampling(temperature, top_k, top_p, min_p)
    except ValueError as error:
        raise AblateError(f"--{str(error).replace('_', '-', 1)}") from None
    found = find_run(run, runs)
    allow_code(found, grid, is_trusted=trust_code)
    text = continue_prompt(found, prompt, tokens, sampling, stop=stop, seed=seed)
    if as_json:
        print_output(Continuation(run=str(found.path), prompt=prompt, text=text))
    else:
        print(text)

"""The command line: arguments to calls, results to the terminal, mistakes to exit code 2."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from autoemb.data import Interactions, load, synthetic
from autoemb.errors import UserError
from autoemb.files import make_folder_of, write_json
from autoemb.lab import Interrupted, RunConfig, compare, run
from autoemb.lab.config import CHOICES
from autoemb.lab.evaluate import evaluate
from autoemb.lab.folder import as_comparison
from autoemb.lab.info import cores, info_lines
from autoemb.lab.progress import ProgressDisplay
from autoemb.lab.report import draw, table, wording
from autoemb.lab.report.page import extra_missing
from autoemb.lab.study import read_study, run_study
from autoemb.lab.trained import export_lines, going_on, load_trained
from autoemb.serving import Exporter, load_model

app = typer.Typer(
    help="Adaptive embedding sizes for recommenders on live streams.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130  # what a shell reports of a program that ctrl-C ended

DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder or file of ratings: MovieLens, Netflix Prize, MovieTweetings, or CSV or "
        "Parquet with user_id, item_id, rating, timestamp. Default: an embedded synthetic stream."
    ),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(help="What the file calls our columns: user_id=uid,rating=stars", metavar="NAMES"),
]
SkipOption = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Count and leave out broken rows of the data.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue what --out holds, if anything.")
]


def with_run_options(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of :class:`RunConfig`, but for some, as keyword arguments.

    RunConfig stays the one list of options: their names, defaults and help come from there.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        shared = [
            _parameter(field.name, field.default, str(field.type), field.metadata["help"])
            for field in fields(RunConfig)
            if field.name not in left_out
        ]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=parameters
        )
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _parameter(name: str, default: Any, annotation: str, text: str) -> inspect.Parameter:
    kinds = {"int": int, "float": float, "str": str, "tuple[int, ...]": str}
    kind: Any = kinds[annotation.removesuffix(" | None")]
    metavar: str | None = "N,N,..." if annotation.startswith("tuple") else None
    if name in CHOICES:
        metavar = "NAME"
        text += f" One of: {', '.join(filter(None, CHOICES[name]))}."
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if annotation.endswith("None"):
        kind = kind | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(help=text, metavar=metavar)],
    )


def _config(options: dict[str, Any]) -> RunConfig:
    return RunConfig(**_parsed(options))


def _parsed(options: dict[str, Any]) -> dict[str, Any]:
    if "dims" not in options:
        return options
    return options | {"dims": tuple(_integers("--dims", options["dims"]))}


def _given(context: typer.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that stand on the command line."""
    return {
        name: value
        for name, value in options.items()
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }


def _integers(option: str, text: str) -> list[int]:
    if not re.fullmatch(r"\s*\d{1,18}\s*(,\s*\d{1,18}\s*)*", text):
        raise UserError(f"{option} is {text!r}; expected whole numbers separated by commas")
    return [int(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _columns(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(ours.strip() and theirs.strip() for ours, _, theirs in pairs):
        raise UserError(f"--columns is {text!r}; expected user_id=NAME,item_id=NAME,...")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def _interactions(data: Path | None, columns: str | None, skip: bool) -> Interactions:
    if data is not None:
        found = load(data, columns=_columns(columns), skip_bad_rows=skip)
    elif columns is not None or skip:
        raise UserError("--columns and --skip-bad-rows are about a file; name it with --data")
    else:
        found = synthetic()
    if found.skipped_rows:
        typer.echo(f"{found.name}: left out {found.skipped_rows:,} broken rows", err=True)
    return found


@app.command("run")
@with_run_options()
def run_command(
    context: typer.Context,
    data: DataOption = None,
    columns: ColumnsOption = None,
    skip_bad_rows: SkipOption = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for summary.json, metrics.jsonl and the final state."),
    ] = None,
    resume: ResumeOption = False,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Go on from the state that another run kept; its options, but for those of the "
            "stream, are taken over.",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep the final state, for export and --from.")
    ] = True,
    checkpoint_at: Annotated[
        float | None,
        typer.Option(
            help="Share of the stream after which the state is kept instead.", metavar="SHARE"
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Parquet file for the prediction of every event.", metavar="FILE"),
    ] = None,
    **options: Any,
) -> None:
    """Run one method over a stream: predict, record, learn."""
    if resume and out is None:
        raise UserError("--resume continues what --out holds; name the folder with --out")
    if from_ is None:
        config = _config(options)
    else:
        config = going_on(from_, _parsed(_given(context, options)))
    interactions = _interactions(data, columns, skip_bad_rows)
    with ProgressDisplay() as display:
        progress = display.task(wording.display(config.method))
        summary = run(
            config,
            interactions,
            out,
            resume=resume,
            keep=keep,
            checkpoint_at=checkpoint_at,
            predictions=predictions,
            origin=from_,
            progress=progress,
        )
    _print_table(as_comparison(summary))
    typer.echo(_embeddings_line(summary["embeddings"]))
    if out is not None:
        typer.echo(f"recorded in {out}; draw its report with: autoemb report {out}")


@app.command("compare")
@with_run_options("method", "seed")
def compare_command(
    out: Annotated[Path, typer.Option(help="Folder for the runs, compare.json and report.html.")],
    methods: Annotated[
        str, typer.Option(help="Methods to run; the last is compared with each other one.")
    ] = "fse,sam,darts,autoemb",
    seeds: Annotated[str, typer.Option(help="Seeds to run every method with.")] = "0,1,2",
    data: DataOption = None,
    columns: ColumnsOption = None,
    skip_bad_rows: SkipOption = False,
    resume: ResumeOption = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the final state of every run, for export.")
    ] = False,
    **options: Any,
) -> None:
    """Run methods x seeds on the same events and draw the paper's comparison."""
    config, wanted, chosen = _config(options), _names(methods), _integers("--seeds", seeds)
    interactions = _interactions(data, columns, skip_bad_rows)
    runs = len(wanted) * len(chosen)
    with ProgressDisplay() as display:
        comparison = compare(
            config,
            interactions,
            out,
            methods=wanted,
            seeds=chosen,
            resume=resume,
            keep=keep,
            progress=lambda method, seed: display.task(
                f"{wording.display(method)}, seed {seed}", runs
            ),
        )
    _print_table(comparison)
    try:
        typer.echo(f"report: {draw(out)}")
    except UserError as error:
        typer.echo(f"recorded in {out}, without a report: {error}", err=True)


@app.command("study")
def study_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML file of the study.")],
    out: Annotated[Path, typer.Option(help="Folder for runs, study.json, study.md and figures.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder that the study's data are in; by default FILE's.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; by default one for each core.")
    ] = None,
) -> None:
    """Make the runs of a study that --out does not hold yet, and draw its tables and figures."""
    study = read_study(file, data)
    workers = cores() if processes is None else processes
    with ProgressDisplay(unit="runs") as display:
        tasks: dict[str, Callable[[int, int], None]] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = display.task(what)
            tasks[what](done, total)

        run_study(study, out, processes=workers, progress=progress)
    try:
        from autoemb.lab.study.draw import draw_study
    except ModuleNotFoundError as error:
        typer.echo(f"recorded in {out}, without a report: {extra_missing(error)}", err=True)
    else:
        typer.echo(f"study: {draw_study(out)}")


@app.command("export")
def export_command(
    run_: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Folder of a run, or the file of its state."),
    ],
    out: Annotated[Path, typer.Option(help="File for the model.")],
    budget: Annotated[
        float, typer.Option(help="Share of the floats that all sizes of all ids take.")
    ] = 0.25,
    widths: Annotated[
        str | None,
        typer.Option(help="Widths to choose from; by default the run's sizes.", metavar="N,N,..."),
    ] = None,
) -> None:
    """Make a small model of a trained run: one row an id, as wide as it needs."""
    trained = load_trained(run_)
    make_folder_of(out)
    chosen = None if widths is None else _integers("--widths", widths)
    exporter = Exporter(trained.learner, trained.task, chosen, about=trained.about)
    model, kept = exporter.export(budget)
    model.save(out)
    for line in export_lines(trained, model, kept):
        typer.echo(line)
    typer.echo(f"model: {out} ({out.stat().st_size:,} bytes)")


@app.command("evaluate")
def evaluate_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What export wrote.")],
    data: DataOption = None,
    columns: ColumnsOption = None,
    skip_bad_rows: SkipOption = False,
    every: Annotated[
        bool, typer.Option("--all", help="Score all events, also of other data.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File for the scores, as JSON.")] = None,
) -> None:
    """Score an exported model on the events after those it was trained on."""
    model = load_model(file)
    if out is not None:
        make_folder_of(out)
    scores = evaluate(model, _interactions(data, columns, skip_bad_rows), every=every)
    if out is not None:
        write_json(out, scores | {"bytes": model.bytes(), "about": model.about})
    typer.echo(
        f"loss {scores['loss']:.4f}, accuracy {scores['accuracy']:.4f} over "
        f"{scores['interactions']:,} events, {scores['interactions_per_second']:,.0f} a second"
    )


@app.command("report")
def report_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What --out named.")],
) -> None:
    """Draw report.html, or a study's study.md, and figures/*.svg again from the recorded files."""
    if not (directory / "study.json").exists():
        typer.echo(f"report: {draw(directory)}")
        return
    try:
        from autoemb.lab.study.draw import draw_study
    except ModuleNotFoundError as error:
        raise extra_missing(error) from None
    typer.echo(f"study: {draw_study(directory)}")


@app.command("info")
def info_command() -> None:
    """Show versions, what is compiled here, and devices."""
    for line in info_lines():
        typer.echo(line)


def _embeddings_line(embeddings: dict[str, Any]) -> str:
    widths = [f"{field} {w:.1f}" for field, w in embeddings.get("mean_width", {}).items()]
    means = f"; mean width: {', '.join(widths)}" if widths else ""
    return f"embeddings: {embeddings['bytes']:,} bytes{means}"


def _print_table(comparison: dict[str, Any]) -> None:
    from rich.console import Console

    Console().print(table(comparison))


def main() -> None:
    """Run the command line.

    Exit codes: 0 done; 2 a mistake of the caller, said in one line; 130 interrupted.
    """
    try:
        app(standalone_mode=True)
    except (UserError, OSError, MemoryError) as error:
        # What a full disk, a folder or a machine's memory refuses is no fault of the program.
        said = " ".join(str(error).split()) or "there is not enough memory"
        print(f"autoemb: error: {said}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except Interrupted as stopped:
        print(f"autoemb: {stopped}", file=sys.stderr)  # noqa: T201
        sys.exit(INTERRUPTED)

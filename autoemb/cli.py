"""The command line: arguments to calls, results to the terminal, mistakes to exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

# Only what every command needs: polars, rich and matplotlib are imported by those that use them.
from autoemb.errors import UserError
from autoemb.lab.flags import Grouped, config_of, given_options, integers, with_run_options
from autoemb.lab.sources import with_data_flags
from autoemb.lab.stopping import Interrupted

if TYPE_CHECKING:
    from autoemb.lab.records import Comparison, Embeddings

app = typer.Typer(
    help="Adaptive embedding sizes for recommenders on live streams.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130  # what a shell reports of a program that ctrl-C ended

ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue what --out holds, if anything.")
]


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


@app.command("run", cls=Grouped)
@with_run_options()
@with_data_flags
def run_command(
    source: Callable[[], Any],
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
    from autoemb.lab.progress import ProgressDisplay
    from autoemb.lab.report import wording
    from autoemb.lab.run import run
    from autoemb.lab.summary import over_budget
    from autoemb.lab.trained import going_on

    if resume and out is None:
        raise UserError("--resume continues what --out holds; name the folder with --out")
    config = config_of(options) if from_ is None else going_on(from_, given_options(options))
    dataset = source()
    with ProgressDisplay() as display:
        progress = display.task(wording.display(config.recipe.method))
        summary = run(
            config,
            dataset,
            out,
            resume=resume,
            keep=keep,
            checkpoint_at=checkpoint_at,
            predictions=predictions,
            origin=from_,
            progress=progress,
        )
    _print_run(summary)
    if note := over_budget(summary):
        typer.echo(note, err=True)
    if out is not None:
        typer.echo(f"recorded in {out}; draw its report with: autoemb report {out}")


@app.command("compare", cls=Grouped)
@with_run_options("method", "seed")
@with_data_flags
def compare_command(
    source: Callable[[], Any],
    out: Annotated[Path, typer.Option(help="Folder for the runs, compare.json and report.html.")],
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods to run; the last is compared with each other one. Default: all, those "
            "that are one computation once."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds to run every method with.")] = "0,1,2",
    resume: ResumeOption = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the final state of every run, for export.")
    ] = False,
    **options: Any,
) -> None:
    """Run methods x seeds on the same events and draw the paper's comparison."""
    from autoemb.lab.compare import compare, default_methods
    from autoemb.lab.progress import ProgressDisplay
    from autoemb.lab.records import Comparison
    from autoemb.lab.report import draw, wording

    config, chosen = config_of(options), integers("--seeds", seeds)
    wanted = [*default_methods(config)] if methods is None else _names(methods)
    dataset = source()
    runs = len(wanted) * len(chosen)
    with ProgressDisplay() as display:
        comparison = compare(
            config,
            dataset,
            out,
            methods=wanted,
            seeds=chosen,
            resume=resume,
            keep=keep,
            progress=lambda method, seed: display.task(
                f"{wording.display(method)}, seed {seed}", runs
            ),
        )
    _print_table(Comparison.parse(comparison, "compare.json"))
    if methods is None and "sam" not in wanted:
        typer.echo("SAM was not run: by these options it is AutoEmb, to the last bit")
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
    from autoemb.lab.info import cores
    from autoemb.lab.progress import ProgressDisplay
    from autoemb.lab.study import read_study, run_study

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
        typer.echo(f"study: {_drawn_study(out)}")
    except UserError as error:
        typer.echo(f"recorded in {out}, without a report: {error}", err=True)


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
    from autoemb.files import make_folder_of
    from autoemb.lab.trained import export_lines, load_trained
    from autoemb.serving import Exporter

    trained = load_trained(run_)
    make_folder_of(out)
    chosen = None if widths is None else integers("--widths", widths)
    exporter = Exporter(trained.learner, trained.schema, trained.task, chosen, about=trained.about)
    model, kept = exporter.export(budget)
    model.save(out)
    for line in export_lines(trained, model, kept):
        typer.echo(line)
    typer.echo(f"model: {out} ({out.stat().st_size:,} bytes)")


@app.command("evaluate")
@with_data_flags
def evaluate_command(
    source: Callable[..., Any],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What export wrote.")],
    every: Annotated[
        bool, typer.Option("--all", help="Score all events, also of other data.")
    ] = False,
    observe: Annotated[
        bool,
        typer.Option("--observe", help="Let the model know the labels of what was scored."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File for the scores, as JSON.")] = None,
) -> None:
    """Score an exported model on the events after those it was trained on."""
    from autoemb.files import make_folder_of, write_json
    from autoemb.lab.evaluate import evaluate
    from autoemb.lab.report.wording import metric_name
    from autoemb.serving import load_model

    model = load_model(file)
    if out is not None:
        make_folder_of(out)
    scores = evaluate(model, source(model.schema, model.task.name), every=every, observe=observe)
    if out is not None:
        write_json(out, scores | {"bytes": model.bytes(), "about": model.about})
    names = (name for name in model.task.metrics if scores[name] is not None)
    metrics = [f"{metric_name(name, model.task.name)} {scores[name]:.4f}" for name in names]
    typer.echo(
        f"{', '.join(metrics)} over {scores['interactions']:,} events, "
        f"{scores['interactions_per_second']:,.0f} a second"
    )


@app.command("report")
def report_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What --out named.")],
) -> None:
    """Draw report.html, or a study's study.md, and figures/*.svg again from the recorded files."""
    from autoemb.lab.report import draw

    if (directory / "study.json").exists():
        typer.echo(f"study: {_drawn_study(directory)}")
    else:
        typer.echo(f"report: {draw(directory)}")


def _drawn_study(directory: Path) -> Path:
    from autoemb.lab.report.page import extra_missing

    try:
        from autoemb.lab.study.draw import draw_study
    except ModuleNotFoundError as error:
        raise extra_missing(error) from None
    return draw_study(directory)


@app.command("info")
def info_command() -> None:
    """Show versions, what is compiled here, and devices."""
    from autoemb.lab.info import info_lines

    for line in info_lines():
        typer.echo(line)


def _embeddings_line(embeddings: Embeddings) -> str:
    from autoemb.lab.report import wording

    found = embeddings.mean_width.items()
    widths = [f"{wording.feature(name)} {width:.1f}" for name, width in found]
    means = f"; mean width: {', '.join(widths)}" if widths else ""
    return f"embeddings: {embeddings.bytes:,} bytes{means}"


def _print_run(summary: dict[str, Any]) -> None:
    from autoemb.lab.records import Summary
    from autoemb.lab.report.recording import as_comparison

    record = Summary.parse(summary, "summary.json")
    _print_table(as_comparison(record))
    if record.embeddings is not None:
        typer.echo(_embeddings_line(record.embeddings))
    if record.owned:
        parts = ", ".join(f"{part} {size:,}" for part, size in record.owned.items())
        typer.echo(f"what ids own in all: {parts} bytes")


def _print_table(comparison: Comparison) -> None:
    from rich.console import Console

    from autoemb.lab.report import table

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

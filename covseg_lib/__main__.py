"""The command line: `covseg` or `python -m covseg_lib`.

Commands import what they need themselves, so that `--help` does not wait for TensorFlow.
"""

from pathlib import Path

import click
import pandas as pd

from covseg_lib import files
from covseg_lib.scans import commands
from covseg_lib.study import Study

STUDY = click.option(
    "--study",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="study",
    show_default=True,
    help="Folder of the study.",
)
PARAMETERS = click.option(
    "-p",
    "parameters",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="Set a notebook parameter, for example -p EPOCHS 10. Repeat it for several.",
)
TABLE_2_1 = ["epochs", "first_epoch_s", "other_epochs_s", "seen", "report_seen"]
TABLE_2_1 += ["test", "report_test"]


@click.group()
@click.version_option(package_name="covseg")
def main() -> None:
    """COVID-19 lesion segmentation in chest CT, notebook by notebook. Not a medical device."""


@main.command("run")
@STUDY
@click.option(
    "--only",
    multiple=True,
    metavar="NUMBER",
    help="Run only this notebook, for example 03. Repeat it for several.",
)
@PARAMETERS
def run_command(folder, only, parameters) -> None:
    """Run the notebooks in order, and print Table 2.1.

    The executed copies are written to the study's notebooks/.
    """
    from covseg_lib.batch import notebooks

    study = Study(folder)
    try:
        executed = notebooks.run_notebooks(study, dict(parameters), only)
    except (ValueError, OSError, notebooks.NotebookFailed) as error:
        raise click.ClickException(str(error)) from error
    made = {notebook.name[:2] for notebook in executed}
    if "01" in made:
        for name, warning in files.read_csv(study.path("cases"), "case")["warning"].items():
            if warning:
                click.echo(f"WARNING: {name}: {warning}")
    if "06" in made:
        _print_results(study)
    click.echo(f"All messages are in the executed copies, {study.path('notebooks')}")


def _print_results(study):
    """Print what notebook 06 made: two tables, and the paths of the figures and the report."""
    index = ["split", "model"]
    table, scores = (
        files.read_csv(study.need(name), index).round(4) for name in ("table", "scores")
    )
    click.echo("\nTable 2.1: each model under the metric that it was compiled with")
    click.echo(table[TABLE_2_1].to_string())
    click.echo(f"\nThe test slices under every metric\n{scores.to_string()}\n")
    for figure in sorted(study.path("figures").glob("*.png")):
        click.echo(figure)
    click.echo(f"{study.path('report')}\nNot a medical device.")


@main.command("sweep")
@STUDY
@click.option(
    "--notebook",
    "numbers",
    multiple=True,
    metavar="NUMBER",
    help="A notebook that trains: 03, 04 or 05. Repeat it for several.",
)
@click.option(
    "--vary",
    multiple=True,
    metavar="NAME=VALUE,VALUE",
    help="A parameter and its values, for example EPOCHS=10,50. Repeat it for several.",
)
@PARAMETERS
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Number of notebooks that run at the same time. [default: 1 on a GPU, else up to 3]",
)
@click.option(
    "--scheduler",
    default="",
    metavar="ADDRESS",
    help="Run on a Dask cluster: the scheduler's address, for example tcp://10.0.0.1:8786.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only list the runs and their states.",
)
def sweep_command(folder, numbers, vary, parameters, workers, scheduler, dry_run) -> None:
    """Train every notebook with every combination of values, and compare all runs.

    A run is named after what is varied, for example dice_epochs10_seed0. Run the same command again
    to continue: finished runs are skipped. A run that fails does not stop the others, but the exit
    status is 1 then.
    """
    from covseg_lib.batch import grid, notebooks, sweep

    study = Study(folder.resolve())
    try:
        jobs = grid.plan_sweep(study, numbers, grid.parse_vary(vary), dict(parameters))
        if dry_run:
            click.echo(_describe_plan(jobs, sweep.job_states(study, jobs)))
            return
        done = sweep.run_sweep(study, jobs, workers, scheduler)
        for row in done[done["state"] != "finished"].itertuples():
            why = str(row.why) or "another process trains it"
            click.echo(f"{row.run} {row.state}: {why}")
        notebooks.run_notebooks(study, {"VARY": {}}, ["07"])
    except (ValueError, OSError, ImportError, notebooks.NotebookFailed) as error:
        raise click.ClickException(str(error)) from error
    _print_comparison(study)
    failed = (done["state"] == "failed").sum()
    if failed:
        raise click.ClickException(
            f"{failed} of {len(done)} runs failed; run the same command again to retry them"
        )


def _describe_plan(jobs, states):
    """Return a table of the jobs of a sweep and their states, as text."""
    rows = [(job.recipe.run, job.notebook.stem, job.recipe.epochs) for job in jobs]
    table = pd.DataFrame(rows, columns=["run", "notebook", "epochs"])
    return table.assign(state=states).to_string(index=False)


def _print_comparison(study):
    """Print what notebook 07 made: the table of runs, and the paths of table, figure and log."""
    from covseg_lib.batch import runs

    click.echo(f"\n{runs.brief_table(files.read_csv(study.need('runs'), 'run')).to_string()}\n")
    for path in (study.path("runs"), study.path("figure", name="runs"), study.path("sweep_log")):
        click.echo(path)
    click.echo("Not a medical device.")


@main.command("runs")
@STUDY
def runs_command(folder) -> None:
    """List the runs of a study, finished or not."""
    from covseg_lib.batch import runs

    try:
        table = runs.list_runs(Study(folder))
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    nothing = f"no runs in {folder}: run notebook 03, 04 or 05 first"
    click.echo(runs.brief_table(table).to_string() if len(table) else nothing)


@main.command("notebooks")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--course",
    is_flag=True,
    help="Make two folders: students/ without answers and outputs, teachers/ with answers to run.",
)
def notebooks_command(folder, course) -> None:
    """Copy the notebooks into FOLDER."""
    from covseg_lib.batch import notebooks

    try:
        for readers in ("students", "teachers") if course else ("",):
            for copy in notebooks.copy_notebooks(folder / readers, readers):
                click.echo(copy)
    except OSError as error:
        raise click.ClickException(str(error)) from error


main.add_command(commands.predict_command)
main.add_command(commands.evaluate_command)


if __name__ == "__main__":
    main(prog_name="covseg")

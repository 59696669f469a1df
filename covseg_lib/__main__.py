"""The command line: `covseg` or `python -m covseg_lib`."""

from pathlib import Path

import click
import pandas as pd

from covseg_lib import storage
from covseg_lib.study import Study

STUDY = click.option(
    "--study",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="study",
    show_default=True,
    help="The study's folder.",
)


@click.group()
@click.version_option(package_name="covseg")
def main():
    """COVID-19 lesion segmentation in chest CT, notebook by notebook. Not a medical device."""


@main.command()
@STUDY
@click.option("--only", multiple=True, metavar="NUMBER", help="Only this notebook, as 03; may be given again.")
@click.option("-p", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a notebook parameter.")
def run(folder, only, parameters):
    """Execute the notebooks in order into the study's notebooks/ and print Table 2.1."""
    from covseg_lib import runner

    study = Study(folder)
    values = {name: runner.parse_value(value) for name, value in parameters}
    try:
        made = runner.run(study, values, only)
    except (ValueError, OSError, runner.NotebookFailed) as error:
        raise click.ClickException(str(error)) from error
    if any(notebook.name.startswith("06") for notebook in made):
        columns = ["epochs", "first_epoch_s", "other_epochs_s", "seen", "report_seen", "test", "report_test"]
        index = ["split", "model"]
        table_2_1, scores = (storage.read_csv(study.need(name), index).round(4) for name in ("table", "scores"))
        click.echo(f"\nTable 2.1, each model under the metric it was compiled with\n{table_2_1[columns].to_string()}")
        click.echo(f"\nOn the test slices, under every metric\n{scores.to_string()}\n")
        for figure in sorted(study.path("figures").glob("*.png")):
            click.echo(figure)
        click.echo(f"{study.path('report')}\nNot a medical device.")


@main.command()
@STUDY
@click.option("--notebook", "numbers", multiple=True, metavar="NUMBER", help="A notebook that trains, as 03.")
@click.option("--vary", multiple=True, metavar="NAME=VALUE,VALUE", help="A parameter and its values, as EPOCHS=10,50.")
@click.option("-p", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter of all runs.")
@click.option("--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The same said in YAML.")
@click.option("--workers", type=click.IntRange(1), help="Notebooks at a time; by default one on a GPU, else three.")
@click.option("--scheduler", default="", metavar="ADDRESS", help="Of a Dask cluster, as tcp://10.0.0.1:8786.")
@click.option("--dry-run", is_flag=True, help="List the runs with their state and an estimate of their time.")
def sweep(folder, numbers, vary, parameters, file, workers, scheduler, dry_run):
    """Train every notebook with every combination of values, what is missing of that, and compare all runs.

    Runs are called as what they vary, as dice_epochs10_seed0. Called again, a sweep does what is missing. What fails
    does not stop the others; the exit status is 1 then.
    """
    from covseg_lib import grid, runner, runs
    from covseg_lib import sweep as sweeping

    study = Study(folder.resolve())
    try:
        of_file = grid.read_file(file) if file else ((), {}, {})
        varied, values = grid.parse_vary(vary), {name: runner.parse_value(value) for name, value in parameters}
        said = varied | values  # what is said here wins over the file
        kept = [{name: value for name, value in part.items() if name not in said} for part in of_file[1:]]
        jobs = grid.plan(study, numbers or of_file[0], kept[0] | varied, kept[1] | values)
        if dry_run:
            click.echo(_planned(grid.seconds(study, jobs), sweeping.states(study, jobs), jobs))
            return
        done = sweeping.run(study, jobs, workers, scheduler)
        for row in done[done["state"] != "finished"].itertuples():
            click.echo(f"{row.run} {row.state}: {row.why or 'left alone'}")
        runner.run(study, {"VARY": {}}, ["07"])
    except (ValueError, OSError, ImportError, runner.NotebookFailed) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"\n{runs.brief(storage.read_csv(study.need('runs'), 'run')).to_string()}\n")
    click.echo(f"{study.path('runs')}\n{study.path('figure', name='runs')}\n{study.path('sweep_log')}")
    click.echo("Not a medical device.")
    failed = (done["state"] == "failed").sum()
    if failed:
        raise click.ClickException(f"{failed} of {len(done)} runs failed; the same command tries these again")


def _planned(seconds, states, jobs):
    """Return in words what a sweep would do, and how long that would take."""
    rows = [(job.recipe.run, job.notebook.stem, job.recipe.epochs) for job in jobs]
    table = pd.DataFrame(rows, columns=["run", "notebook", "epochs"]).assign(state=states, minutes=seconds)
    table["minutes"] = (table["minutes"] / 60).round(1)
    total = table.loc[table["state"] == "to do", "minutes"].sum(skipna=False)
    said = "no finished run of this network to estimate from" if pd.isna(total) else f"{total:.1f} minutes of training"
    return f"{table.to_string(index=False)}\nto do: {said}, one after the other; a notebook's start comes on top"


@main.command()
@STUDY
def runs(folder):
    """List the runs of a study, finished or not."""
    from covseg_lib import runs

    try:
        found = runs.listing(Study(folder))
        click.echo(
            runs.brief(found).to_string() if len(found) else f"no runs in {folder}: run notebook 03, 04 or 05 first"
        )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.argument("scan", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--run", "folder", type=click.Path(path_type=Path), default="study/models/dice", show_default=True, help="A run."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The mask to write, as mask.nii.gz.")
@click.option("--probabilities", type=click.Path(path_type=Path), help="The probability map to write, as map.nii.gz.")
@click.option("--lungs", type=click.Path(path_type=Path, exists=True), help="A lung mask, for percent of the lungs.")
def predict(scan, folder, out, probabilities, lungs):
    """Write the lesion mask of a CT volume in the scan's own space.

    Where SCAN is a folder all volumes in it are predicted, and the options name folders, in which files are called as
    the scans are. A scan that fails does not stop the others.
    """
    from covseg_lib import scans

    try:
        jobs = scans.plan(scan, out, probabilities, lungs)
        from covseg_lib import training

        run = training.read_run(folder)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    failed = []
    for job in jobs:
        try:
            click.echo(f"{job.out}: {scans.predict(run, job)}")
        except (ValueError, OSError) as error:
            if not scan.is_dir():
                raise click.ClickException(str(error)) from error
            failed.append(f"  {job.scan.name}: {error}")
    click.echo("Not a medical device.")
    if failed:
        raise click.ClickException("\n".join([f"{len(failed)} of {len(jobs)} scans have no mask:", *failed]))


if __name__ == "__main__":
    main(prog_name="covseg")

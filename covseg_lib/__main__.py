"""The command line: `covseg` or `python -m covseg_lib`."""

from pathlib import Path

import click
import pandas as pd

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
    except (ValueError, FileNotFoundError, runner.NotebookFailed) as error:
        raise click.ClickException(str(error)) from error
    if made[-1].name.startswith("06"):
        columns = ["epochs", "first_epoch_s", "other_epochs_s", "seen", "report_seen", "test", "report_test"]
        index = ["split", "model"]
        table_2_1, scores = (pd.read_csv(study.need(name), index_col=index).round(4) for name in ("table", "scores"))
        click.echo(f"\nTable 2.1, each model under the metric it was compiled with\n{table_2_1[columns].to_string()}")
        click.echo(f"\nOn the test slices, under every metric\n{scores.to_string()}\n")
        for figure in sorted(study.path("figures").glob("*.png")):
            click.echo(figure)
        click.echo(f"{study.path('report')}\nNot a medical device.")


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

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
@click.argument("scan", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--run", "name", default="dice", show_default=True, help="Which run of the study.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The mask to write, as mask.nii.gz.")
@STUDY
def predict(scan, name, out, folder):
    """Write the lesion mask of a CT volume in the scan's own space."""
    from covseg_lib import prediction, training, volumes

    try:
        mask, header = prediction.predict_volume(training.load_run(Study(folder), name), scan)
        volumes.write_mask(out, mask, header)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: {mask.mean():.2%} of the volume is marked. Not a medical device.")


if __name__ == "__main__":
    main(prog_name="covseg")

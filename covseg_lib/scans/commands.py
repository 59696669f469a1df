"""The commands `covseg predict` and `covseg evaluate`."""

from pathlib import Path

import click

from covseg_lib import files
from covseg_lib.settings import INTENSITIES, Reading

PATH = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)
EXISTING_PATH = click.Path(path_type=Path, exists=True)


@click.command("predict")
@click.argument("scan", type=EXISTING_PATH)
@click.option("--out", type=PATH, required=True, help="Mask to write, for example mask.nii.gz.")
@click.option(
    "--run",
    "runs",
    type=PATH,
    multiple=True,
    help="Folder of a trained run, as study/models/dice. Repeat it to average several runs. "
    '[default: "shipped", the model that comes with covseg]',
)
@click.option(
    "--lungs", type=EXISTING_PATH, help="Lung mask to read. [default: the lungs are predicted]"
)
@click.option(
    "--intensities",
    type=click.Choice(INTENSITIES),
    default="auto",
    show_default=True,
    help="What the numbers of the scan are: Hounsfield units, or grey levels from 0 to 255.",
)
@click.option(
    "--orientation",
    default="",
    metavar="XYZ",
    help="Where the axes of the scan's array point, if its header is wrong, as LPS: to the left, "
    "the back (posterior), the head (superior).",
)
@click.option(
    "--threshold",
    type=float,
    help="A voxel with at least this probability is lesion. [default: the run's]",
)
@click.option(
    "--smallest",
    type=float,
    metavar="ML",
    help="Drop connected lesions that are smaller. [default: the run's]",
)
@click.option(
    "--mirror/--no-mirror",
    default=None,
    help="Average with the prediction of mirrored slices. [default: as the run]",
)
@click.option(
    "--probabilities", type=PATH, help="Probability map to write, for example map.nii.gz."
)
@click.option("--preview", type=FOLDER, help="Folder for a PNG of each scan.")
@click.option(
    "--table",
    type=PATH,
    help="CSV to write after each scan: case, mask, ml, percent of the lungs, state, message, and "
    "checksums. With it, the same command continues after an interruption.",
)
def predict_command(
    scan,
    out,
    runs,
    lungs,
    intensities,
    orientation,
    threshold,
    smallest,
    mirror,
    probabilities,
    preview,
    table,
) -> None:
    """Write the lesion mask of a CT scan, in the same space as the scan.

    SCAN is a NIfTI file or a folder. With a folder, all its scans are segmented, and --out, --lungs
    and --probabilities are folders too, whose files have the names of the scans. A scan that fails
    does not stop the others.
    """
    from covseg_lib.scans import jobs

    try:
        reading = Reading(intensities=intensities, orientation=orientation.upper())
        planned = jobs.plan_scans(scan, out, lungs, probabilities, preview, table, reading)
        from covseg_lib.scans import segmenters  # it loads TensorFlow, so the paths come first

        segmenter = segmenters.read_segmenter(runs, threshold, smallest, mirror)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    try:
        found = jobs.segment_jobs(segmenter, planned, click.echo, table)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo("Not a medical device.")
    failed = (found["state"] == "failed").sum()
    if failed and scan.is_dir():
        raise click.ClickException(f"{failed} of {len(found)} scans have no mask, see above")
    if failed:
        raise click.ClickException(found["message"][0])


@click.command("evaluate")
@click.argument("masks", type=EXISTING_PATH)
@click.argument("truth", type=EXISTING_PATH)
@click.option("--table", type=PATH, help="CSV to write, one row a case.")
@click.option("--figure", type=PATH, help="PNG to write, with the scores of all cases.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, min_open=True),
    default=3.0,
    show_default=True,
    metavar="MM",
    help="Tolerance of the NSD.",
)
def evaluate_command(masks, truth, table, figure, tolerance) -> None:
    """Score MASKS against the true masks TRUTH: two files, or two folders with the same names.

    Prints Dice, NSD, HD95 and the error of the volume for each case, and their means with 95 %
    intervals over patients. The masks may be of any program.
    """
    from covseg_lib.plots import volume_plots
    from covseg_lib.scans import evaluate

    try:
        pairs = evaluate.pair_masks(masks, truth)
        read = {mask.resolve() for pair in pairs.values() for mask in pair}
        for path in filter(None, (table, figure)):
            if path.resolve() in read:
                raise ValueError(f"{path} is one of the masks: choose another place")
            files.check_writable(path)
        scores = evaluate.evaluate_masks(pairs, tolerance)
        means = evaluate.summary(scores)
        if table:
            files.write_csv(table, scores.reset_index())
        if figure:
            files.write_figure(figure, volume_plots.mask_scores(scores, means))
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{scores.round(3).to_string()}\n\n{means.round(3).to_string()}")
    if not scores["true_ml"].any():
        click.echo("WARNING: no true mask has a lesion, so these scores say nothing about lesions")

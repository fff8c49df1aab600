"""predict: a mask for one sentence and one picture."""

from __future__ import annotations

from pathlib import Path

import click

from semires_trainer.commands.frame import console, json_option

_FILE = click.Path(path_type=Path)


@click.command(short_help="The mask of what a sentence names in a picture.")
@click.option(
    "--checkpoint",
    required=True,
    type=_FILE,
    metavar="DIR",
    help="Model folder: 'model' or 'burn-in' of a run, or what 'semires convert checkpoint' wrote.",
)
@click.option("--image", required=True, type=_FILE, metavar="FILE", help="The picture.")
@click.option("--text", required=True, help="What to look for.")
@click.option(
    "--output",
    type=_FILE,
    metavar="PNG",
    help="Where the picture with the mask goes. Default: <image>.overlay.png here.",
)
@click.option("--mask", "mask_path", type=_FILE, metavar="PNG", help="Also write the mask: 255 inside, 0 outside.")
@click.option("--vocab", type=_FILE, metavar="FILE", help="BERT's vocab.txt, if the folder has none.")
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda or cuda:N.")
@json_option
def predict(
    checkpoint: Path,
    image: Path,
    text: str,
    output: Path | None,
    mask_path: Path | None,
    vocab: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Find what TEXT names in a picture: writes the picture with the mask, prints area and confidence.

    Confidence is the mean probability of the foreground inside the mask.

    \b
    Example:
      semires predict --checkpoint runs/a/model --image dog.jpg --text "the dog on the left"
    """
    from PIL import Image

    from semires_trainer import predict as prediction
    from semires_trainer.visualize import save_png

    sentence = prediction.check_sentence(text)
    picture = prediction.read_image(image)
    found = prediction.Predictor(checkpoint, device=device, vocab=vocab)(picture, sentence)
    if found.unread_words:
        click.secho("The sentence is longer than the model reads; its end is ignored.", fg="yellow", err=True)
    overlay_path = output or Path(f"{image.stem}.overlay.png")
    save_png(prediction.draw(picture, found), overlay_path)
    if mask_path is not None:
        save_png(Image.fromarray(found.mask_HW), mask_path)
    if as_json:
        console().print_json(data={**found.to_json(), "overlay": str(overlay_path)})
        return
    area = f"{found.area_pixels:,} pixels, {100 * found.area_share:.1f} % of the picture"
    console().print(f"area        {area}\nconfidence  {found.confidence:.2f}\noverlay     {overlay_path}", markup=False)

"""docs/images/report.png: a sweep's report as a browser shows it, without the longer parts of the page.

    python tests/pictures/report.py outputs/sweeps/SWEEP docs/images/report.png

Makes the report aside, opens it in headless Chromium, and reduces the colours until the file is small.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

REPOSITORY = Path(__file__).parents[2]
# What is left: what the sweep says, the best settings, how the score goes with beta.
ABRIDGED = """<style>
nav, footer, main > section:not(#best, #figures), #best > :not(h2, .scroll:first-of-type), #figures > :not(h2, figure),
figure:not(#golden-reward), #best :is(td, th):last-child { display: none !important }
</style>"""
WIDTH, HEIGHT = 1080, 1800  # of the window, in CSS pixels; what is empty below is cut off
MARGIN = 40
SCALE = 2  # device pixels to one of them, for a sharp picture on any screen
LARGEST = 300_000  # bytes
COLOURS = (256, 128, 64, 32)
BROWSERS = ("chromium", "google-chrome")


def main() -> None:
    """Make the report and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report, shot = Path(folder, "report"), Path(folder, "shot.png")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        analysis = [sys.executable, "-m", "analysis", given.sweep, "--output", report]
        subprocess.run(analysis, env=environment, check=True, stdout=subprocess.DEVNULL)
        page = report / "report.html"
        page.write_text(page.read_text(encoding="utf-8").replace("</head>", f"{ABRIDGED}</head>"), encoding="utf-8")
        photograph(page, shot)
        given.picture.parent.mkdir(parents=True, exist_ok=True)
        size = save_small(cropped(Image.open(shot).convert("RGB")), given.picture)
    sys.stdout.write(f"{given.picture}: {size / 1000:.0f} kB\n")


def photograph(page: Path, shot: Path) -> None:
    """Write what the window shows of a page."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("no Chromium here: apt-get install chromium")
    options = [f"--window-size={WIDTH},{HEIGHT}", f"--force-device-scale-factor={SCALE}", "--hide-scrollbars"]
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", *options, f"--screenshot={shot}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)


def cropped(image: Image.Image) -> Image.Image:
    """The picture without what is empty at its bottom."""
    empty = Image.new("RGB", image.size, image.getpixel((0, image.height - 1)))
    _, _, _, bottom = ImageChops.difference(image, empty).getbbox() or (0, 0, 0, image.height)
    return image.crop((0, 0, image.width, min(bottom + MARGIN * SCALE, image.height)))


def save_small(image: Image.Image, target: Path) -> int:
    """Save a picture with as many colours as its size allows; returns the size in bytes."""
    for colours in COLOURS:
        image.quantize(colours, dither=Image.Dither.NONE).save(target, optimize=True)
        if (size := target.stat().st_size) <= LARGEST:
            return size
    sys.exit(f"{target}: {size} bytes, and no more than {LARGEST} are wanted; show less of the page")


if __name__ == "__main__":
    main()

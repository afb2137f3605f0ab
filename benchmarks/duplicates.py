"""Which planted copies the hashes of --mode=duplicates find, and how many matches are wrong.

    python benchmarks/duplicates.py --photos=DIR [--images=200] [--bits=6]

Of each photograph copies are written to a temporary folder: re-encoded at quality 40, at half the
size, cropped in several ways, mirrored, 20 % brighter, and as equal bytes. For each kind the line
has the share that is in the group of its original, and for all of them how many images are in the
group of another photograph. The crops of a tenth are among those that are looked for. In bits: how
far the two nearest photographs are apart, and at most a re-encoded copy from its original.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

import tf_simclr
from benchmarks.timing import flags, report
from tf_simclr import duplicates
from tf_simclr.duplicates.near import hamming

# Named by where the kept part begins and ends, as shares of width and height.
_CROPS = {
    "crop_10_around": (0.05, 0.05, 0.95, 0.95),
    "crop_10_left": (0.10, 0.0, 1.0, 1.0),
    "crop_5_around": (0.025, 0.025, 0.975, 0.975),
    "crop_5_right": (0.0, 0.0, 0.95, 1.0),
    "crop_15_around": (0.075, 0.075, 0.925, 0.925),
}


def _cropped(image, box):
    sides = (*image.size, *image.size)
    return image.crop(tuple(round(share * side) for share, side in zip(box, sides)))


def plant(photo: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the copies of NUMBER.jpeg as NUMBER__KIND.jpeg, which sort after it."""
    shutil.copyfile(photo, folder / f"{photo.stem}__bytes.jpeg")
    image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    copies = {
        "half": image.resize((max(image.width // 2, 1), max(image.height // 2, 1))),
        "mirrored": ImageOps.mirror(image),
        "brighter": ImageEnhance.Brightness(image).enhance(1.2),
        **{kind: _cropped(image, box) for kind, box in _CROPS.items()},
    }
    image.save(folder / f"{photo.stem}__quality_40.jpeg", quality=40)
    for kind, copy in copies.items():
        copy.save(folder / f"{photo.stem}__{kind}.jpeg", quality=90)


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--bits", type=int, default=6)
    args, _ = parser.parse_known_args()
    if not args.photos:
        parser.error("--photos is needed: a folder of JPEG files")
    endings = (".jpg", ".jpeg")
    photos = sorted(p for p in pathlib.Path(args.photos).iterdir() if p.suffix.lower() in endings)
    with tempfile.TemporaryDirectory() as folder:
        for number, photo in enumerate(photos[: args.images]):
            named = pathlib.Path(folder) / f"{number}.jpeg"
            shutil.copyfile(photo, named)
            plant(named, pathlib.Path(folder))
        source = tf_simclr.open_source("folder", folder)
        began = time.perf_counter()
        hashes = duplicates.hashes_of(source)
        groups = duplicates.groups_of(duplicates.Finder(hashes, args.bits))
        seconds = time.perf_counter() - began
        names = [pathlib.Path(name).stem for name in source.names(np.arange(source.num_examples))]
    of, _, kinds = zip(*(name.partition("__") for name in names))
    of, kinds = np.array(of), np.array(kinds)
    kept = of[groups.kept]
    alone = groups.kept == np.arange(len(names))
    originals = {name: row for row, name in enumerate(names) if "__" not in name}
    rows = np.array(list(originals.values()))
    apart = hamming(hashes.hashes[rows][:, np.newaxis], hashes.hashes[rows])
    apart[np.diag_indices(len(rows))] = 64

    def bits_from_original(kind):
        copies = [row for row in range(len(names)) if kinds[row] == kind]
        return hamming(hashes.hashes[copies], hashes.hashes[[originals[of[row]] for row in copies]])

    found = {
        str(kind): float(np.mean((kept == of)[kinds == kind] & ~alone[kinds == kind]))
        for kind in np.unique(kinds)
        if kind
    }
    report(
        benchmark="duplicates",
        bits=args.bits,
        photographs=int(np.sum(kinds == "")),
        images=len(names),
        wrong=int(np.sum(kept != of)),
        seconds=seconds,
        nearest_photographs_bits=int(apart.min()),
        reencoded_bits=int(bits_from_original("quality_40").max()),
        crop_10_around_by_whole_hash=float(
            np.mean(bits_from_original("crop_10_around") <= args.bits)
        ),
        **found,
    )


if __name__ == "__main__":
    main()

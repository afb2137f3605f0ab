"""Lists the image files below a folder: millions of them, with many threads.

A listing can be kept as bytes; while no folder changes, the files need not be listed again.
"""

from __future__ import annotations

import collections
import io
import os
import time
from collections.abc import Iterable
from concurrent import futures
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr.data.bad_images import listed
from tf_simclr.errors import UserError

EXTENSIONS = ("jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp")
# Folders that a NAS, an operating system or an archive program makes: thumbnails, deleted files,
# old versions. In lower case. Names with a dot in front are passed over anyway.
SYSTEM_FOLDERS = {
    *(b"@eadir", b"@tmp", b"#recycle", b"#snapshot"),  # Synology.
    *(b"@recycle", b"@recently-snapshot", b"~snapshot"),  # QNAP, NetApp.
    *(b"$recycle.bin", b"system volume information", b"__macosx", b"lost+found", b"__pycache__"),
}
_THREADS = 16  # Listing waits for the disk, or for a network's answer.
_SETTLED_NS = 2_000_000_000
_VERSION = 2
_MOST_ENDINGS = 50  # Per folder: names such as photo.3fa9c1d2 must not become a table of their own.
_LONGEST_ENDING = 8
_NO_ENDING = b""


class Listing(NamedTuple):
    """The images directly in one folder, by name."""

    folder: bytes  # Relative to the root, b"" for the root itself.
    changed: int  # When the folder last changed, in ns; -1: unknown, or too recent to be reliable.
    names: bytes  # Paths relative to the root, one after another.
    lengths: np.ndarray  # int64 [n], of each path.
    sizes: np.ndarray  # int64 [n], in bytes; 0: empty or unreadable, -1: unknown.
    skipped: dict[bytes, int]  # {b".webp": how many files, b"@eadir/": how many system folders}


class Contents(NamedTuple):
    """What is directly in one folder."""

    folders: list[bytes]  # Names.
    images: list[tuple[bytes, int]]  # (name, size).
    skipped: dict[bytes, int]  # As `Listing.skipped`.


class Scan:
    """Lists single folders; skips links that lead out of the root, and collects their paths."""

    def __init__(self, root: bytes, follow_links: bool):
        self.root = None if follow_links or b"://" in root else os.path.realpath(root)
        self.outside: set[bytes] = set()

    def __call__(self, folder: bytes) -> Contents:
        """Lists one folder.

        Raises:
          UserError: it cannot be read.
        """
        folders, images = [], []
        skipped: collections.Counter[bytes] = collections.Counter()
        entries = _scan_remote if b"://" in folder else self._scan_local
        try:
            for name, is_folder, size in entries(folder):
                if is_folder and name.lower() in SYSTEM_FOLDERS:
                    skipped[name.lower() + b"/"] += 1
                elif is_folder:
                    folders.append(name)
                elif size is not None:
                    images.append((name, size))
                else:
                    ending = _ending(name)
                    known = ending in skipped or len(skipped) < _MOST_ENDINGS
                    skipped[ending if known else _NO_ENDING] += 1
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"the folder {os.fsdecode(folder)!r} cannot be read: {error}"
            ) from error
        return Contents(folders, images, dict(skipped))

    def _scan_local(self, folder):
        """Yields (name, is a folder, size); size None for a file that is not an image."""
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                is_folder = entry.is_dir()
                if not is_folder and not _is_image(entry.name):
                    yield entry.name, False, None
                elif not (entry.is_symlink() and self._leads_out(entry.path)):
                    yield entry.name, is_folder, 0 if is_folder else _size(entry)

    def passed_over(self) -> str:
        """A sentence on the links passed over, with a space before it; "" where there were none."""
        if self.root is None or not self.outside:
            return ""
        names = [os.fsdecode(path) for path in sorted(self.outside)]
        return (
            f" Passed over {len(names)} link(s) that lead out of {os.fsdecode(self.root)!r}: "
            f"{listed(names)}; --follow_links follows them."
        )

    def _leads_out(self, path):
        if self.root is None or _is_below(os.path.realpath(path), self.root):
            return False
        self.outside.add(path)
        return True


def skipped_in(parts: Iterable[Listing]) -> str:
    """What was skipped in some folders, such as ".webp 72, .txt 3, @eadir/ 1"; "" for nothing."""
    total: collections.Counter[bytes] = collections.Counter()
    for part in parts:
        total.update(part.skipped)
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return listed([f"{os.fsdecode(name) or 'no ending'} {count}" for name, count in ordered])


def _is_below(path, folder):
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def to_bytes(scan: Scan, root: bytes, parts: list[Listing]) -> bytes | None:
    """The result of `list_tree` as bytes for `from_bytes`; None if a change could go unnoticed.

    A change could go unnoticed in a remote folder, in one that changed just now, and in an empty
    file or a broken link, which can be repaired without a change to its folder.
    """
    if any(part.changed < 0 or not part.sizes.all() for part in parts):
        return None
    skipped = [(i, *item) for i, part in enumerate(parts) for item in part.skipped.items()]
    file = io.BytesIO()
    np.savez(
        file,
        about=_about(scan, root),
        outside=_joined(sorted(scan.outside)),
        folders=_joined([part.folder for part in parts]),
        changed=np.array([part.changed for part in parts], np.int64),
        counts=np.array([len(part.sizes) for part in parts], np.int64),
        names=np.frombuffer(b"".join(part.names for part in parts), np.uint8),
        lengths=np.concatenate([part.lengths for part in parts]),
        sizes=np.concatenate([part.sizes for part in parts]),
        skipped_where=np.array([where for where, _, _ in skipped], np.int64),
        skipped_names=_joined([name for _, name, _ in skipped]),
        skipped_counts=np.array([count for _, _, count in skipped], np.int64),
    )
    return file.getvalue()


def from_bytes(contents: bytes, scan: Scan, root: bytes) -> list[Listing] | None:
    """What `list_tree` would return, and adds the skipped links to `scan`; None if not certain.

    A file that was overwritten in place goes unnoticed, as its folder does not change.
    """
    try:
        with np.load(io.BytesIO(contents), allow_pickle=False) as arrays:
            saved = dict(arrays)
        if saved["about"].tobytes() != _about(scan, root).tobytes():
            return None
        names, folders = saved["names"].tobytes(), _split(saved["folders"])
        starts = np.concatenate([[0], np.cumsum(saved["lengths"])])
        if not _stays_inside(saved["names"], starts) or any(map(_leaves, folders)):
            return None
        bounds = np.concatenate([[0], np.cumsum(saved["counts"])])
        skipped: list[dict[bytes, int]] = [{} for _ in folders]
        kept = (saved["skipped_where"], _split(saved["skipped_names"]), saved["skipped_counts"])
        for where, name, count in zip(*kept):
            skipped[where][name] = int(count)
        parts = []
        for i, folder in enumerate(folders):
            first, last = bounds[i], bounds[i + 1]
            here = os.path.join(root, folder) if folder else root
            if saved["changed"][i] != _last_change(here):
                return None
            piece = names[starts[first] : starts[last]]
            lengths, sizes = (saved[name][first:last] for name in ("lengths", "sizes"))
            changed = int(saved["changed"][i])
            parts.append(Listing(folder, changed, piece, lengths, sizes, skipped[i]))
        scan.outside.update(_split(saved["outside"]))
        return parts
    except Exception:  # Whatever the damage, the folder is listed again.
        return None


def _stays_inside(names, starts):
    """Whether no path of many is absolute or has a part that begins with a dot."""
    first = names[starts[:-1]]
    return not (np.isin(first, [ord("."), ord("/")]).any() or b"/." in names.tobytes())


def _leaves(folder):
    return folder.startswith((b".", b"/")) or b"/." in folder


def _about(scan, root):
    return np.frombuffer(repr((_VERSION, root, scan.root)).encode(), np.uint8)


def _joined(names):
    return np.frombuffer(b"".join(name + b"\0" for name in names), np.uint8)  # No path has a 0.


def _split(joined):
    return joined.tobytes().split(b"\0")[:-1]


def list_tree(scan: Scan, root: bytes) -> list[Listing]:
    """The listings of a folder and all folders below it, in the order of their names."""
    done, last_report = [], time.monotonic()
    waiting: list[tuple[bytes, frozenset]] = [(b"", frozenset())]
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        while waiting:
            results = pool.map(lambda folder: _list_folder(scan, root, *folder), waiting)
            waiting = []
            for listing, folders, above in results:
                done.append(listing)
                waiting += [(name, above) for name in folders]
                if time.monotonic() - last_report > 10:
                    last_report = time.monotonic()
                    count = sum(len(listing.sizes) for listing in done)
                    logging.info("Listing %s: %d images so far ...", os.fsdecode(root), count)
    return sorted(done, key=lambda listing: listing.folder.split(b"/"))


def _list_folder(scan, root, relative, above):
    """(its listing, its sub-folders, the real paths of itself and of all folders above)."""
    here = os.path.join(root, relative) if relative else root
    real = here if b"://" in here else os.path.realpath(here)
    if real in above:  # A link to a folder it lies in: a loop.
        none = np.zeros(0, np.int64)
        return Listing(relative, -1, b"", none, none, {}), [], above
    changed = _last_change(here)
    prefix = relative + b"/" if relative else b""
    contents = scan(here)
    images = sorted(contents.images)
    names = [prefix + name for name, _ in images]
    lengths = np.array([len(name) for name in names], np.int64)
    sizes = np.array([size for _, size in images], np.int64)
    listing = Listing(relative, changed, b"".join(names), lengths, sizes, contents.skipped)
    return listing, [prefix + name for name in contents.folders], above | {real}


def _last_change(folder):
    """When a name in a folder was last added or removed, in ns; -1: unknown, or just now."""
    if b"://" in folder:
        return -1
    try:
        changed = os.stat(folder).st_mtime_ns
    except OSError:
        return -1
    # File-system timestamps are coarse; a second change can get the same one.
    return changed if time.time_ns() - changed > _SETTLED_NS else -1


def _scan_remote(folder):
    # An image is recognised by its name only, as each question about a file takes a request.
    for entry in tf.io.gfile.listdir(folder):
        name = tf.compat.as_bytes(entry).rstrip(b"/")
        if name.startswith(b".") or not name:
            continue
        if _is_image(name):
            yield name, False, -1
        elif tf.io.gfile.isdir(os.path.join(folder, name)):
            yield name, True, 0
        else:
            yield name, False, None


def _size(entry):
    try:
        return entry.stat().st_size
    except OSError:  # A broken link.
        return 0


def _is_image(name):
    _, dot, extension = name.rpartition(b".")
    return bool(dot) and extension.lower() in _EXTENSIONS


def _ending(name):
    """The file name extension, b".webp" for b"a.WEBP"; b"" if it is unlikely to be one."""
    stem, dot, extension = name.rpartition(b".")
    usual = stem and extension.isalnum() and not extension.isdigit()
    return dot + extension.lower() if usual and len(extension) <= _LONGEST_ENDING else _NO_ENDING


_EXTENSIONS = frozenset(map(os.fsencode, EXTENSIONS))

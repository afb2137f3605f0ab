"""What was found, as files: duplicates.csv, duplicates.json and exclude.jsonl."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import json
from typing import Any

import numpy as np

from tf_simclr.data.exclusion import key_of, to_lines
from tf_simclr.duplicates.groups import KINDS, Groups
from tf_simclr.duplicates.leaks import Leak
from tf_simclr.errors import printable

COLUMNS = ("group", "kind", "path", "of", "kept", "distance")


@dataclasses.dataclass(frozen=True)
class Findings:
    """Copies, leaks and outliers of a data set.

    Attributes:
      source: the images.
      groups: their copies.
      bad: int64, images that cannot be read.
      evaluated: the evaluation set; None: there was none.
      leaks, leaked: as `leaks_of` returns them.
      outliers: (row, distance), furthest first; None without an encoder.
      encoder: where the encoder is from; "": hashes only.
      typical: of `Neighborhood`; 0 without an encoder.
    """

    source: Any
    groups: Groups
    bad: np.ndarray
    evaluated: Any = None
    leaks: list[Leak] = dataclasses.field(default_factory=list)
    leaked: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    outliers: list[tuple[int, float]] | None = None
    encoder: str = ""
    typical: float = 0.0

    def members(self) -> dict[int, list[int]]:
        """The groups of two or more images: {image kept: all its images, itself first}."""
        rows = np.flatnonzero(self.groups.kept != np.arange(len(self.groups.kept)))
        found: dict[int, list[int]] = {}
        for row in rows.tolist():
            kept = int(self.groups.kept[row])
            found.setdefault(kept, [kept]).append(row)
        return dict(sorted(found.items()))

    def facts(self) -> dict[str, Any]:
        """Counts, for duplicates.json and for people."""
        groups = self.members()
        kinds = collections.Counter(self.groups.kind.tolist())
        labels = self.source.labels
        facts: dict[str, Any] = {
            "data_set": printable(self.source.name),
            "split": self.source.split,
            "images": self.source.num_examples,
            "bad_images": len(self.bad),
            "encoder": printable(self.encoder) or None,
            "groups": len(groups),
            "copies": {kind: kinds.get(i, 0) for i, kind in enumerate(KINDS)},
            "groups_across_classes": None
            if labels is None
            else sum(len(np.unique(labels[rows])) > 1 for rows in groups.values()),
        }
        if self.evaluated is not None:
            of = collections.Counter(leak.kind for leak in self.leaks)
            facts["evaluation_set"] = f"{printable(self.evaluated.name)}, {self.evaluated.split}"
            facts["evaluation_images"] = self.evaluated.num_examples
            facts["leaks"] = {kind: of.get(kind, 0) for kind in KINDS}
            facts["leaked_training_images"] = len(self.leaked)
        if self.outliers is not None:
            facts["typical_distance"] = round(self.typical, 6)
            facts["outliers"] = [
                {"path": printable(self.source.describe(row)), "distance": round(distance, 6)}
                for row, distance in self.outliers
            ]
        return facts

    def as_json(self) -> str:
        """`facts` as JSON, in ASCII."""
        return json.dumps(self.facts(), indent=1, allow_nan=False) + "\n"

    def as_csv(self) -> str:
        """One line for each image of a group, and one for each leak; names on one line each."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        groups = self.groups
        for number, rows in enumerate(self.members().values(), 1):
            names = dict(zip(rows, map(printable, self.source.names(np.array(rows)))))
            for row in rows:
                kind, kept = int(groups.kind[row]), names[rows[0]]
                if kind < 0:
                    writer.writerow([number, "kept", names[row], "", "", ""])
                    continue
                of, distance = names[int(groups.of[row])], f"{groups.distance[row]:.6g}"
                writer.writerow([number, KINDS[kind], names[row], of, kept, distance])
        for leak in self.leaks:
            path = printable(self.evaluated.describe(leak.row))
            of = printable(self.source.describe(leak.of))
            writer.writerow(["leak", leak.kind, path, of, "", f"{leak.distance:.6g}"])
        return file.getvalue()

    def exclude_list(self) -> str:
        """What --exclude_list takes: all but the first image of each group, and what leaks."""
        groups, leaked = self.groups, set(self.leaked.tolist())
        copies = np.flatnonzero(groups.kind >= 0).tolist()
        entries = []
        for row in sorted({*copies, *leaked}):
            entry: dict[str, Any] = {"path": self._key(row)}
            if groups.kind[row] >= 0:
                entry["kind"] = KINDS[groups.kind[row]]
                entry["kept"] = self._key(int(groups.kept[row]))
            if row in leaked:
                entry["leaks"] = True
            entries.append(entry)
        return to_lines(entries)

    def _key(self, row):
        return key_of(self.source, self.source.describe(row))

"""Exact search and faiss: recall@10, queries/s and memory, on a table of vectors in clusters.

    python benchmarks/search.py [--vectors=100000] [--width=512] [--queries=100]

Each backend runs in a process of its own, so that its peak memory is its own. A search of "exact"
reads the table from disk each time; faiss reads its index, which is made once ("faiss_index_s").
"one" is the time of a single query, from the table or index on disk to the answer.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np

from benchmarks.timing import flags, in_turns, report

K = 10
ROWS = 8192


def make(folder: str, vectors: int, width: int) -> None:
    """A table of vectors around vectors / 100 centres."""
    from tf_simclr.embeddings import Rows, table

    facts = {"version": table.VERSION, "kind": "parquet", "encoder": "none", "source": "none"}
    facts.update(D=width, N=vectors, rows_per_part=ROWS, image_size=1, channels=1)
    os.makedirs(folder)
    table.write_facts(folder, facts)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=[max(vectors // 100, 1), width]).astype(np.float32)
    for number in range(table.num_parts(facts)):
        first, last = table.rows_of(facts, number)
        of = rng.integers(0, len(centres), last - first)
        h = centres[of] + rng.normal(size=[last - first, width]).astype(np.float32)
        paths = [f"/photos/{row}.jpg" for row in range(first, last)]
        rows = Rows(h, paths, np.ones([last - first, 2], np.int32))
        table.write_part(folder, facts, number, rows, bad=[], stamp=None)


def run_alone(backend: str, folder: str, kept: str, queries: int, turns: int) -> None:
    """In a process of its own: prints its times, its memory and what it found."""
    from tf_simclr.embeddings import open_table
    from tf_simclr.search import BACKENDS

    table = open_table(folder)
    rng = np.random.default_rng(1)
    h = next(table.parts())[1].h
    h = h[rng.permutation(len(h))[:queries]] + rng.normal(size=[queries, h.shape[1]])
    h = h.astype(np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def seconds(count):
        start = time.perf_counter()
        rows, _ = BACKENDS[backend](h[:count], table, K, kept)
        return time.perf_counter() - start, rows

    first, rows = seconds(queries)
    timed = {"all": lambda: seconds(queries)[0], "one": lambda: seconds(1)[0]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"first": first, **in_turns(timed, turns), "before": before, "peak": peak}))
    np.save(os.path.join(kept, f"{backend}.npy"), rows)


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--alone", nargs=3, help="for the processes that this one starts")
    arguments = parser.parse_args()
    if arguments.alone:
        run_alone(*arguments.alone, arguments.queries, arguments.runs)
        return
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder, kept = os.path.join(scratch, "table"), os.path.join(scratch, "kept")
        os.makedirs(kept)
        make(folder, arguments.vectors, arguments.width)
        found = {}
        for backend in ("exact", "faiss"):
            command = [sys.executable, __file__, "--alone", backend, folder, kept]
            command += [f"--queries={arguments.queries}", f"--runs={arguments.runs}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                figures[f"{backend}_error"] = done.stderr.strip().splitlines()[-1]
                continue
            got = json.loads(done.stdout.strip().splitlines()[-1])
            found[backend] = np.load(os.path.join(kept, f"{backend}.npy"))
            figures[f"{backend}_queries_per_s"] = arguments.queries / got["all"]
            figures[f"{backend}_one_s"] = got["one"]
            figures[f"{backend}_mib"] = (got["peak"] - got["before"]) / 1024
            if backend == "faiss":
                figures["faiss_index_s"] = got["first"] - got["all"]
        if len(found) == 2:
            shared = [len(set(a) & set(b)) for a, b in zip(found["exact"], found["faiss"])]
            figures["faiss_recall_at_10"] = float(np.mean(shared)) / K
    sizes = {"vectors": arguments.vectors, "width": arguments.width, "queries": arguments.queries}
    report(benchmark="search", **sizes, **figures)


if __name__ == "__main__":
    main()

"""A workdir with everything that the report can show."""

from __future__ import annotations

import json

import numpy as np

from tf_simclr.report import view_grid


def fill(folder):
    (folder / "flags.resolved").write_text("--dataset=<b>mine</b>\n--encoder=resnet18\n")
    lines = [
        {
            **{"step": s, "loss": 5.0 - s, "contrastive_top1": 0.1 * s},
            **{"chance_level": 6.236, "untrained_level": 6.789},
        }
        for s in (1, 2, 3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [
        {"features": name, "labels_per_class": count, "mean": 0.5, "std": 0.01, "draws": 3}
        for name in ("trained encoder", "<i>pixels</i>")
        for count in (1, "all")
    ]
    result = {"linear_eval": {"few_label": rows}, "knn_eval": {"k": 5, "top1": {"trained": 0.75}}}
    (folder / "result.json").write_text(json.dumps(result))
    rng = np.random.default_rng(0)
    view_grid(str(folder / "views.png"), rng.random([3, 2, 16, 16, 3]))
    np.savez(
        folder / "embeddings.npz",
        trained=rng.normal(size=(40, 5)).astype(np.float32),
        pixels=rng.normal(size=(40, 9)).astype(np.float32),
        labels=np.arange(40) % 2,
        class_names=np.array(["<script>", "b"]),
    )

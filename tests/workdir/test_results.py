"""The numbers of each mode, and whose encoder they are of."""

from __future__ import annotations

from tf_simclr.workdir import Workdir, read_results, results_of_encoder


def test_numbers_of_another_encoder_are_kept_apart(tmp_path):
    workdir = Workdir(str(tmp_path))
    workdir.keep_result("finetune", {"top1": 0.5})
    workdir.keep_result("knn_eval", {"k": 3, "init_from": "other/run"})
    assert workdir.results() == {"finetune": {"top1": 0.5}}
    assert results_of_encoder(str(tmp_path), "other/run") == {"knn_eval": {"k": 3}}
    assert set(read_results(str(tmp_path))) == {"finetune", "knn_eval"}

"""Files that an earlier version or the other stack wrote: they work here as they did there."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from tf_simclr import flag_defs, tasks
from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.data.draws import ViewOptions, draw_views, example_indices
from tf_simclr.errors import UserError
from tf_simclr.export import load_encoder

GOLDEN = pathlib.Path(__file__).parent / "golden"
# The command that wrote it; steps are logged one by one here, which alters nothing in the run.
COMMAND = """
--dataset=digits --image_size=8 --encoder=resnet18 --width_multiplier=0.03125 --nouse_blur
--flip_probability=0 --num_proj_layers=2 --proj_out_dim=16 --temperature=0.5
--train_batch_size=64 --train_steps=6 --warmup_epochs=0.1 --learning_rate=0.1
""".split()
LOGGED = ["--checkpoint_steps=3", "--log_steps=1"]


def run(workdir, *arguments):
    values = flags.FlagValues()
    flag_defs.define_flags(values)
    flag_defs.parse(["tf_simclr", f"--workdir={workdir}", *arguments], values)
    config = flag_defs.config_from_flags(values)
    tasks.run(config, tf.distribute.OneDeviceStrategy("/cpu:0"))


@pytest.fixture
def workdir(tmp_path):
    return copy_of("digits_run", tmp_path)


def copy_of(name, folder):
    shutil.copytree(GOLDEN / name, folder / "run")
    return folder / "run"


@pytest.mark.parametrize(
    ("name", "command"),
    [("digits_run", COMMAND), ("digits_run", []), ("current_run", [])],
    ids=["same command", "workdir alone", "of the current stack"],
)
def test_a_run_resumes_as_its_writer_went_on(name, command, tmp_path):
    workdir = copy_of(name, tmp_path)
    run(workdir, "--mode=pretrain", *LOGGED, *command)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4, 5, 6]
    golden = json.loads((GOLDEN / "losses_from_step_4.json").read_text())
    # Step 4 shows that weights, statistics and images are the old run's, step 5 that its momentum
    # is; later steps of so small a network amplify what processors round differently.
    assert lines[1]["loss"] == pytest.approx(golden["4"], rel=1e-4)
    assert lines[2]["loss"] == pytest.approx(golden["5"], rel=1e-2)
    assert (workdir / "encoder" / "saved_model.pb").exists()


@pytest.mark.parametrize("gone", ["/gone/encoder", "gone/encoder"])
def test_a_resumed_run_needs_its_init_from_no_more(gone, workdir):
    resolved = workdir / "flags.resolved"
    resolved.write_text(resolved.read_text().replace("--init_from=", f"--init_from={gone}"))
    run(workdir, "--mode=pretrain", *LOGGED)
    assert (workdir / "encoder" / "saved_model.pb").exists()


def test_other_settings_are_refused_by_name_and_change_nothing(workdir):
    before = {p: p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file()}
    with pytest.raises(UserError, match="temperature was 0.5, is 0.2") as error:
        run(workdir, "--mode=pretrain", *COMMAND, "--temperature=0.2")
    assert "weight_decay" not in str(error.value)
    assert {p: p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file()} == before


def test_the_encoder_of_ad45116_is_evaluated_at_its_own_settings(workdir, capsys):
    run(workdir, "--mode=knn_eval", "--nobaselines")
    assert load_encoder_from(str(workdir)).input_shape[-1] == 1
    assert "of digits" in capsys.readouterr().out


@pytest.mark.parametrize("stack", ["classic", "current"])
def test_exports_of_both_stacks_give_the_same_features_here(stack):
    folder = str(GOLDEN / f"export_{stack}")
    images = np.linspace(0, 1, 2 * 6 * 6 * 3, dtype=np.float32).reshape([2, 6, 6, 3])
    expected = json.loads((GOLDEN / f"export_{stack}" / "h.json").read_text())
    layer = load_encoder(folder)
    h5 = tf.keras.models.load_model(f"{folder}/encoder.h5", compile=False)
    for encoder in (load_encoder_from(folder), layer, h5):
        np.testing.assert_allclose(encoder(images, training=False), expected, atol=1e-6)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(images, training=True) ** 2)
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert len(gradients) == 4 and all(np.any(g) for g in gradients[:2])


def digest_of(tensors):
    digest = hashlib.sha256()
    for tensor in tensors:
        value = tensor.numpy()
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    return digest.hexdigest()[:16]


def test_both_stacks_draw_the_same_bits():
    """The digests were the same on both, on 2026-11-28."""
    draws = draw_views(ViewOptions(), channels=3, batch_size=64, seed=7, step=12345)
    assert digest_of(draws[name] for name in sorted(draws)) == "58d383d4c41a1883"
    assert digest_of([example_indices(1297, 64, seed=7, step=12345)]) == "e6d732b98ebe15ef"

"""Every mistake a user is likely to make, through the binary: one clear message, exit code 2, and
nothing that was there before is touched."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from tests.small_runs import SMALL, contents, run, tiny_encoder, write_images
from tf_simclr import flag_defs, main
from tf_simclr.modes import MODES
from tf_simclr.tasks import build


def binary(*arguments):
    """The exit code of the binary, in this process."""
    values = flags.FlagValues()
    flag_defs.define_flags(values)
    (mode,) = [a.partition("=")[2] for a in arguments if a.startswith("--mode=")] or ["pretrain"]
    unused = MODES[mode].unused if mode in MODES else ()
    small = {k: v for k, v in SMALL.items() if k not in unused}
    small = [f"--{k}={v}" for k, v in {**small, "strategy": "one_device"}.items()]
    argv = ["tf_simclr", *small, *arguments]
    try:
        return main._main(main._parse(argv, values), values)
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "encoder_of", tiny_encoder)
        yield


@pytest.fixture(scope="module")
def place(_tiny, tmp_path_factory):
    """A folder with a finished run, a labelled and an unlabelled folder of images, and bad ones."""
    place = tmp_path_factory.mktemp("bad")
    run(place / "run", train_steps=2, warmup_epochs=0.0)
    write_images(place / "flat")
    write_images(place / "broken")
    (place / "broken" / "no_image.jpg").write_bytes(b"this is no image")
    (place / "empty").mkdir()
    (place / "other_weights").mkdir()
    run(place / "wide", train_steps=1, warmup_epochs=0.0, width_multiplier=0.25)
    saved = place / "wide" / "flags.resolved"
    saved.write_text(saved.read_text().replace("multiplier=0.25", "multiplier=0.125"))
    return place


FOLDER = ["--dataset=folder", "--image_size=16", "--train_batch_size=4", "--channels=3"]
FINISHED = ["--train_steps=2", "--warmup_epochs=0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*FOLDER, "--data_dir=empty"], "no image in"),
        ([*FOLDER, "--data_dir=missing"], "data_dir='missing' is not a folder"),
        ([*FOLDER], "--dataset=folder needs --data_dir"),
        ([*FOLDER, "--data_dir=broken", "--train_steps=9"], "1 of 13 files cannot be decoded"),
        (["--train_batch_size=2000"], "--train_batch_size=2000 is larger than the data set"),
        (["--strategy=two"], "unknown --strategy 'two'"),
        (["--train_batch_size=33"], "--train_batch_size=33 is not divisible by the 4 replicas"),
        (["--dataset=digitz"], "unknown data set 'digitz': did you mean 'digits'"),
        (["--encoder=resnet19"], "unknown encoder 'resnet19': did you mean 'resnet18'"),
        (["--mode=trian"], "unknown --mode 'trian': did you mean"),
        (["--temprature=1"], "Unknown command line flag 'temprature'. Did you mean: temperature"),
        (["--train_steps=ten"], "invalid literal"),
        (["--temperature=0"], "--temperature must be positive; received 0.0"),
        (["--temperature=-1"], "--temperature must be positive; received -1.0"),
        ([*FOLDER, "--data_dir=flat", "--mode=knn_eval", "--eval_split=train"], "no labels"),
        ([*FOLDER, "--data_dir=flat", "--lineareval_while_pretraining"], "no labels"),
        (["--workdir=run", *FINISHED, "--temperature=0.5"], "holds another run: --temperature was"),
        (["--workdir=wide", "--train_steps=1", "--warmup_epochs=0"], "does not fit; nothing was"),
        (["--init_from=wide", *FINISHED], "the encoder of --init_from=wide does not fit"),
        (["--init_from=missing", *FINISHED], "no encoder at 'missing'"),
        (["--mode=finetune"], "--mode=finetune needs --init_from"),
        (["--mode=finetune", "--nouse_blur"], "does not use --use_blur; received False. Leave"),
        (["--mode=knn_eval", "--workdir=empty"], "no encoder at 'empty'"),
        (["--workdir="], "--mode=pretrain needs --workdir, the folder"),
        (["--workdir=~nobody_here/x"], "~nobody_here names no home folder"),
        (["--warmup_epochs=-0.5"], "--warmup_epochs must be at least 0, or -1"),
        (
            ["--mode=linear_eval", "--workdir=run", "--labels_per_class=1,5000"],
            "--labels_per_class=1,5000 cannot be met: class '",
        ),
        (["stray"], "'stray' is not a flag"),
        (["--flagfile=missing.flags"], "missing.flags"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_clear_message_and_nothing_touched(arguments, message, place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    if "replicas" in message:
        arguments = [*arguments, "--strategy=mirrored"]
    before = contents(place)
    workdir = [] if any(a.startswith("--workdir") for a in arguments) else ["--workdir=new"]
    assert binary(*workdir, *arguments) == 2
    said = capfd.readouterr().err
    assert said.count("error: ") == 1 and message in said
    assert "Traceback" not in said
    now = contents(place)
    new = [name for name in now if name.startswith("new/")]
    assert not any("checkpoints" in name or "encoder" in name for name in new)
    for name in new:
        (place / name).unlink()
    assert {name: now[name] for name in before} == before
    assert now.keys() - new == before.keys()


def test_bad_images_are_skipped_and_listed(place, monkeypatch, caplog):
    monkeypatch.chdir(place)
    extra = ["--data_dir=broken", "--skip_bad_images", *FINISHED, "--workdir=skipping"]
    assert binary(*FOLDER, *extra) == 0
    assert "Left out 1 of 13 images, which cannot be decoded: broken/no_image.jpg" in caplog.text


def test_a_loss_that_is_no_number(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    steep = ["--optimizer=momentum", "--weight_decay=0", "--learning_rate=1e25"]
    steep += ["--learning_rate_scaling=none", "--warmup_epochs=0.1", "--train_steps=40"]
    assert binary("--workdir=steep", *steep, "--checkpoint_steps=1", "--on_trouble=warn") == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert "NaN or infinite" in said and "is kept: steep/checkpoints/ckpt-" in said
    step = int(said.split("steep/checkpoints/ckpt-")[1].split(".")[0])
    reader = tf.train.load_checkpoint(f"steep/checkpoints/ckpt-{step}")
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("encoder")]
    assert names and all(np.isfinite(reader.get_tensor(name)).all() for name in names)

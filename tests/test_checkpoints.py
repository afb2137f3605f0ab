"""Checkpoints: bit-identical, strict, whole at any moment; and encoders loaded from them."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import mirrored
from tf_simclr.checkpoints import RunCheckpoints, load_encoder_from, restore, variable_paths
from tf_simclr.errors import UserError
from tf_simclr.optim.lamb import LAMB

IMAGES = np.random.default_rng(0).random([8, 9, 9, 3]).astype(np.float32)


def small_encoder(width=4, name="small"):
    """Branches of equal shapes, so that a mix-up of layers would show."""
    layers = tf.keras.layers
    inputs = tf.keras.Input([None, None, 3])
    x = layers.Conv2D(width, 3, use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_bn")(x)
    branches = []
    for branch in "ab":
        y = layers.Conv2D(width, 3, padding="same", name=f"{branch}_conv")(x)
        branches.append(layers.BatchNormalization(name=f"{branch}_bn")(y))
    x = layers.Activation("relu", name="block_group1")(layers.Subtract(name="sub")(branches))
    h = layers.GlobalAveragePooling2D(name="final_avg_pool", dtype="float32")(x)
    return tf.keras.Model(inputs, h, name=name)


def small_head():
    head = tf.keras.layers.Dense(3, dtype="float32", name="head")
    head.build([None, 4])
    return head


def warming_up():
    schedule = tf.keras.optimizers.schedules.CosineDecay(0.1, 100)
    return tf.keras.optimizers.SGD(schedule, momentum=0.9)


OPTIMIZERS = {
    "sgd": warming_up,
    "adamw": lambda: tf.keras.optimizers.AdamW(1e-2),
    "lamb": lambda: LAMB(1e-2),
}


def make_parts(optimizer="sgd"):
    return {
        "encoder": small_encoder(),
        "head": small_head(),
        "optimizer": OPTIMIZERS[optimizer](),
    }


def learn(parts, steps=1):
    variables = parts["encoder"].trainable_variables + parts["head"].trainable_variables
    for _ in range(steps):
        with tf.GradientTape() as tape:
            h = parts["encoder"](IMAGES, training=True)
            loss = tf.reduce_mean(tf.square(parts["head"](h) - 1.0))
        parts["optimizer"].apply_gradients(zip(tape.gradient(loss, variables), variables))


def state(parts):
    paths = variable_paths(tf.train.Checkpoint(**parts))
    return {name: variable.numpy() for name, variable in paths.items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def manifest_of(encoder):
    return {"encoder": tf.keras.saving.serialize_keras_object(encoder)}


@pytest.fixture
def saved(tmp_path):
    """(folder with a checkpoint of step 3, the parts in it)."""
    parts = make_parts()
    run = RunCheckpoints(tmp_path / "c", manifest=manifest_of(parts["encoder"]), **parts)
    learn(parts, 3)
    run.save(3)
    return tmp_path / "c", parts


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_as_if_never_interrupted(optimizer, tmp_path):
    parts = make_parts(optimizer)
    run = RunCheckpoints(tmp_path, **parts)
    assert run.restore_latest() is None
    learn(parts, 2)
    run.save(2)
    before = state(parts)
    learn(parts, 2)

    again = make_parts(optimizer)  # Its optimiser has no slot variables yet.
    assert RunCheckpoints(tmp_path, **again).restore_latest() == 2
    assert_same(state(again), before)
    learn(again, 2)
    assert_same(state(again), state(parts))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_names_are_those_tensorflow_writes(optimizer, tmp_path):
    parts = make_parts(optimizer)
    parts["odd"] = tf.train.Checkpoint(**{"a.b": tf.Variable(1.0), "c/d": [tf.Variable(2.0)]})
    learn(parts)
    root = tf.train.Checkpoint(**parts)
    written = dict(tf.train.list_variables(root.write(str(tmp_path / "x"))))
    del written["_CHECKPOINTABLE_OBJECT_GRAPH"]
    paths = variable_paths(root)
    assert {name: variable.shape for name, variable in paths.items()} == written


def test_tensorflow_alone_can_read_a_checkpoint(saved):
    folder, parts = saved
    fresh = make_parts()
    fresh["optimizer"].build(
        fresh["encoder"].trainable_variables + fresh["head"].trainable_variables
    )
    status = tf.train.Checkpoint(**fresh).read(str(folder / "ckpt-3"))
    status.assert_consumed().assert_existing_objects_matched()
    assert_same(state(fresh), state(parts))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replicas_save_and_restore(optimizer, tmp_path):
    strategy = mirrored(2)
    with strategy.scope():
        parts = make_parts(optimizer)
    run = RunCheckpoints(tmp_path, **parts)
    strategy.run(learn, args=(parts,))
    run.save(1)

    with strategy.scope():
        again = make_parts(optimizer)
    assert RunCheckpoints(tmp_path, **again).restore_latest() == 1
    names = variable_paths(tf.train.Checkpoint(**parts))
    for name, variable in variable_paths(tf.train.Checkpoint(**again)).items():
        assert len(variable.values) == 2, name
        for restored, original in zip(variable.values, names[name].values):
            np.testing.assert_array_equal(restored, original, err_msg=name)
    strategy.run(learn, args=(again,))
    strategy.run(learn, args=(parts,))
    assert_same(state(again), state(parts))

    alone = make_parts(optimizer)
    RunCheckpoints(tmp_path, **alone).restore_latest()
    assert set(state(alone)) == set(state(again))


def test_an_optimizer_trains_the_parts_before_it():
    parts = {"encoder": small_encoder(), "optimizer": warming_up()}
    parts.update(head=small_head(), head_optimizer=warming_up())
    RunCheckpoints("nowhere", **parts)
    slots = [
        [v.shape for v in parts[name].variables if v.shape.rank]
        for name in ("optimizer", "head_optimizer")
    ]
    assert slots[0] == [v.shape for v in parts["encoder"].trainable_variables]
    assert slots[1] == [v.shape for v in parts["head"].trainable_variables]


def test_whatever_does_not_fit_is_named_and_nothing_changes(saved):
    folder, _ = saved
    probe = tf.keras.layers.Dense(2, name="probe")
    probe.build([None, 4])
    wrong = {"encoder": small_encoder(width=5), "probe": probe}
    before = state(wrong)
    with pytest.raises(UserError) as error:
        restore(folder / "ckpt-3", **wrong)
    text = str(error.value)
    assert (
        "encoder/layer_with_weights-0/kernel: checkpoint [3, 3, 3, 4] float32, "
        "model [3, 3, 3, 5] float32 (stem/kernel:0)"
    ) in text
    assert "2 in the model but not in the checkpoint:\n  probe/bias" in text
    assert "head/kernel: checkpoint [4, 3] float32" in text
    assert_same(state(wrong), before)


def test_a_run_with_the_lamb_of_tensorflow_addons_is_refused(tmp_path, caplog):
    tfa = pytest.importorskip("tensorflow_addons")
    old = {**make_parts("lamb"), "optimizer": tfa.optimizers.LAMB(1e-2)}
    learn(old, 2)
    RunCheckpoints(tmp_path, manifest=manifest_of(old["encoder"]), **old).save(2)
    names = [name for name, _ in tf.train.list_variables(str(tmp_path / "ckpt-2"))]
    trained = old["encoder"].trainable_variables + old["head"].trainable_variables
    assert sum("/.OPTIMIZER_SLOT/" in name for name in names) == 2 * len(trained)

    new = make_parts("lamb")
    run = RunCheckpoints(tmp_path, **new)
    before = state(new)
    with pytest.raises(UserError, match="does not fit; nothing was changed") as error:
        run.restore_latest()
    text = str(error.value)
    assert "optimizer/_iterations: model [] int64" in text
    assert "model [3, 3, 3, 4] float32 (m/stem/kernel:0)" in text
    assert "kernel/.OPTIMIZER_SLOT/optimizer/m: checkpoint [3, 3, 3, 4] float32" in text
    assert text.splitlines()[-1].startswith("An earlier version of tf_simclr began this run")
    assert "pass --allow_changes" in text
    assert_same(state(new), before)

    with caplog.at_level("WARNING"):
        assert run.restore_latest(allow_misfits=True) == 2
    assert "28 are left as initialised: optimizer/_iterations, " in caplog.text
    for name, value in state(new).items():
        expected = before if name.startswith("optimizer/") else state(old)
        np.testing.assert_array_equal(value, expected[name], err_msg=name)

    encoder = load_encoder_from(tmp_path)  # Not a matter of the optimiser.
    np.testing.assert_array_equal(encoder(IMAGES), old["encoder"](IMAGES, training=False))


def test_long_lists_are_cut(tmp_path):
    many = {"many": [tf.Variable(float(i)) for i in range(30)]}
    RunCheckpoints(tmp_path, **{"many": tf.train.Checkpoint(**many)}).save(1)
    with pytest.raises(UserError, match=r"30 in the checkpoint but(.*\n){21}  and 10 more"):
        restore(tmp_path / "ckpt-1", one=tf.train.Checkpoint(v=tf.Variable(1.0)))


def test_another_dtype_does_not_fit(tmp_path):
    RunCheckpoints(tmp_path, part=tf.train.Checkpoint(v=tf.Variable(1.0))).save(1)
    with pytest.raises(UserError, match=r"part/v: checkpoint \[\] float32, model \[\] float64"):
        restore(tmp_path / "ckpt-1", part=tf.train.Checkpoint(v=tf.Variable(1.0, dtype="float64")))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_ignored_parts_need_not_fit(optimizer, tmp_path):
    parts = make_parts(optimizer)
    run = RunCheckpoints(tmp_path, **parts)
    learn(parts)
    run.save(1)
    encoder = small_encoder()
    with pytest.raises(UserError, match="optimizer"):
        restore(tmp_path / "ckpt-1", ignore=["head"], encoder=encoder)
    wide = tf.keras.layers.Dense(9, name="head")
    wide.build([None, 4])
    report = restore(
        tmp_path / "ckpt-1", ignore=["head", "optimizer", "new"], encoder=encoder, head=wide
    )
    assert len(report.matched) == len(encoder.variables)
    assert len(report.mismatched) == 2 and report.missing == ()
    assert {name.split("/")[0] for name in report.mismatched} == {"head"}
    assert any("optimizer" in name for name in report.unexpected)
    np.testing.assert_array_equal(encoder(IMAGES), parts["encoder"](IMAGES))


@pytest.mark.parametrize("name", ["ckpt-3.index", "ckpt-3.data-00000-of-00001"])
@pytest.mark.parametrize("harm", ["cut", "empty", "flipped", "gone"])
def test_a_damaged_file_is_named_and_nothing_changes(name, harm, saved):
    folder, _ = saved
    file = folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    harmed = {"cut": content[: len(content) // 2], "empty": b"", "flipped": content}
    file.unlink() if harm == "gone" else file.write_bytes(harmed[harm])
    parts = make_parts()
    run = RunCheckpoints(folder, **parts)
    before = state(parts)
    if name.endswith("index") and harm == "gone":
        assert run.restore_latest() is None  # Without its index it is no checkpoint.
        with pytest.raises(UserError, match="ckpt-3.index does not exist"):
            restore(folder / "ckpt-3", **parts)
    else:
        with pytest.raises(UserError, match=rf"no checkpoint in .*{name[:12]}.*(damaged|missing)"):
            run.restore_latest()
    assert_same(state(parts), before)


@pytest.mark.parametrize("name", ["ckpt-9.index", "ckpt-9.data-00000-of-00001"])
@pytest.mark.parametrize("harm", ["cut", "empty", "flipped", "gone"])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(name, harm, saved, caplog):
    folder, parts = saved
    before = state(parts)
    run = RunCheckpoints(
        folder, manifest=json.loads((folder / "manifest.json").read_text()), **parts
    )
    for variable in parts["encoder"].trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    run.save(9)
    file = folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    harmed = {"cut": content[: len(content) // 2], "empty": b"", "flipped": content}
    file.unlink() if harm == "gone" else file.write_bytes(harmed[harm])
    left = contents(folder)
    with caplog.at_level("WARNING"):
        assert run.restore_latest() == 3
    assert_same(state(parts), before)
    told = "Going back to the checkpoint of step 3" in caplog.text
    assert told == (not (name.endswith("index") and harm == "gone"))  # Without it, it is none.
    assert contents(folder) == left
    encoder = load_encoder_from(folder)
    np.testing.assert_array_equal(encoder.get_weights()[0], parts["encoder"].get_weights()[0])


def test_what_is_no_number_is_not_saved(saved):
    folder, parts = saved
    left = contents(folder)
    parts["head"].bias.assign([1.0, np.nan, 1.0])
    with pytest.raises(UserError, match="head/bias is NaN or infinite after step 5.*ckpt-3"):
        RunCheckpoints(folder, **parts).save(5)
    assert contents(folder) == left


def test_misfits_are_left_where_that_is_allowed(tmp_path, caplog):
    old = RunCheckpoints(tmp_path, encoder=small_encoder(), head=small_head())
    old.save(4)
    wide = tf.keras.layers.Dense(5, dtype="float32", name="head")
    wide.build([None, 4])
    initial = wide.get_weights()
    new = RunCheckpoints(tmp_path, encoder=small_encoder(), head=wide)
    with pytest.raises(UserError, match="does not fit"):
        new.restore_latest()
    with caplog.at_level("WARNING"):
        assert new.restore_latest(allow_misfits=True) == 4
    assert "2 are left as initialised: head/bias, head/kernel" in caplog.text
    for a, b in zip(wide.get_weights(), initial):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(new.parts["encoder"].get_weights(), old.parts["encoder"].get_weights()):
        np.testing.assert_array_equal(a, b)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_newest_are_kept(tmp_path):
    run = RunCheckpoints(tmp_path, keep=2, part=tf.train.Checkpoint(v=tf.Variable(1.0)))
    for step in (1, 9, 10, 100):
        run.save(step)
    assert run.latest_step() == 100
    assert sorted(files_in(tmp_path)) == [
        *["ckpt-10.data-00000-of-00001", "ckpt-10.index"],
        *["ckpt-100.data-00000-of-00001", "ckpt-100.index", "manifest.json"],
    ]
    more = RunCheckpoints(tmp_path, keep=5, part=tf.train.Checkpoint(v=tf.Variable(1.0)))
    for step in (101, 102, 103, 104):
        more.save(step)
    assert len(files_in(tmp_path)) == 2 * 5 + 1 and (tmp_path / "ckpt-100.index").exists()
    with pytest.raises(UserError, match="keep must be at least 1; received 0"):
        RunCheckpoints(tmp_path, keep=0)


class Killed(BaseException):
    """Not an Exception, so that nothing tidies up, as after SIGKILL."""


@pytest.mark.parametrize("same_step", [False, True])
@pytest.mark.parametrize("function", ["rename", "remove"])
@pytest.mark.parametrize("moment", range(4))
def test_killed_at_any_moment_whole_checkpoints_remain(
    same_step, function, moment, tmp_path, monkeypatch
):
    variable = tf.Variable(np.zeros(1000))
    part = tf.train.Checkpoint(v=variable)
    run = RunCheckpoints(tmp_path, keep=2, manifest={"run": 1}, part=part)
    saved = {}
    for saved_step in (1, 7) if same_step else (1, 2):
        variable.assign(np.full(1000, saved_step))
        run.save(saved_step)
        saved[saved_step] = [saved_step]
    original, calls = getattr(tf.io.gfile, function), []

    def dying(*args, **kwargs):
        if len(calls) == moment:
            raise Killed
        calls.append(args)
        return original(*args, **kwargs)

    variable.assign(np.full(1000, 70))
    saved.setdefault(7, []).append(70)
    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, function, dying)
        try:
            run.save(7)
        except Killed:
            pass
    left = sorted(int(path.stem[5:]) for path in tmp_path.glob("ckpt-*.index"))
    assert left and run.latest_step() == left[-1]
    for step in left:
        restore(tmp_path / f"ckpt-{step}", part=part)
        assert any(np.array_equal(variable, np.full(1000, value)) for value in saved[step])
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"run": 1}

    run.save(8)
    names = files_in(tmp_path)
    assert len(names) == 5 and not any(name.startswith("tmp") for name in names)


def test_a_failed_save_leaves_the_older_ones(saved, monkeypatch):
    folder, parts = saved
    before = files_in(folder)

    def full(self, path):
        (folder / f"{os.path.basename(path)}.data-00000-of-00001").write_bytes(b"half")
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.train.Checkpoint, "write", full)
    with pytest.raises(UserError, match="step 4 cannot be written to .*No space left"):
        RunCheckpoints(folder, **parts).save(4)
    assert files_in(folder) == before


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    run = RunCheckpoints(tmp_path / "file" / "c", part=tf.train.Checkpoint(v=tf.Variable(1.0)))
    assert run.latest_step() is None
    with pytest.raises(UserError, match="cannot be written to .*file/c"):
        run.save(1)


def test_an_encoder_from_whatever_holds_one(saved, tmp_path):
    folder, parts = saved
    expected = parts["encoder"](IMAGES, training=False)
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    folder.rename(workdir / "checkpoints")
    (workdir / "encoder").mkdir()
    small_encoder().save(workdir / "encoder" / "encoder.keras")  # Older than the checkpoint.
    exported = tmp_path / "other" / "encoder"
    exported.mkdir(parents=True)
    parts["encoder"].save(exported / "encoder.keras")
    for path in (
        workdir,
        f"{workdir}/",
        workdir / "checkpoints",
        workdir / "checkpoints" / "ckpt-3",
        workdir / "checkpoints" / "ckpt-3.index",
        tmp_path / "other",
        exported,
        exported / "encoder.keras",
    ):
        encoder = load_encoder_from(path)
        np.testing.assert_array_equal(encoder(IMAGES, training=False), expected)
        assert len(encoder.trainable_variables) == len(parts["encoder"].trainable_variables)


def test_an_encoder_of_any_precision_and_strategy_loads_plain(tmp_path):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        with mirrored(2).scope():
            encoder = small_encoder()
            for layer in encoder.layers:
                if isinstance(layer, tf.keras.layers.BatchNormalization):
                    layer.synchronized, layer.fused = True, False
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    encoder.get_layer("stem").trainable = False
    RunCheckpoints(tmp_path, manifest=manifest_of(encoder), encoder=encoder).save(1)
    loaded = load_encoder_from(tmp_path)
    for a, b in zip(encoder.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert all(layer.compute_dtype == "float32" for layer in loaded.layers)
    assert not any(getattr(layer, "synchronized", False) for layer in loaded.layers)
    assert loaded.get_layer("stem").trainable


def test_no_encoder_there(saved, tmp_path):
    folder, _ = saved
    with pytest.raises(UserError, match=r"no encoder at '.*nowhere'.*a folder with checkpoints/"):
        load_encoder_from(tmp_path / "nowhere")
    (tmp_path / "a.keras").write_bytes(b"no zip")
    with pytest.raises(UserError, match="a.keras cannot be loaded"):
        load_encoder_from(tmp_path / "a.keras")
    for content in ("{", "[]", "{}", '{"encoder": {"class_name": "Nothing", "config": {}}}', None):
        manifest = folder / "manifest.json"
        manifest.unlink() if content is None else manifest.write_text(content)
        with pytest.raises(UserError, match="cannot be rebuilt from .*manifest.json"):
            load_encoder_from(folder)


def test_code_in_a_keras_file_is_not_run(tmp_path):
    inputs = tf.keras.Input([4, 4, 3])
    h = tf.keras.layers.Lambda(lambda x: tf.reduce_mean(x, [1, 2]))(inputs)
    tf.keras.Model(inputs, h).save(tmp_path / "evil.keras")
    with pytest.raises(UserError, match="evil.keras cannot be loaded.*[Ll]ambda"):
        load_encoder_from(tmp_path / "evil.keras")


def test_only_the_chief_leaves_files(tmp_path, monkeypatch):
    class NotChief:
        class extended:
            should_checkpoint = False

    monkeypatch.setattr("tf_simclr.checkpoints.run.strategy_of", lambda variables: NotChief)
    RunCheckpoints(tmp_path / "c", part=tf.train.Checkpoint(v=tf.Variable(1.0))).save(1)
    assert not (tmp_path / "c").exists()


ODD_NAMES = (
    *(
        "lr=[1e-3,2]",
        "back\\slash",
        "a*b?",
        "[!a]",
        "{a,b} 100% #1",
        "e\u0301 \u00e9 日本",
        "it's ~",
    ),
    *("$HOME", "x" * 200),
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_folder_of_any_name_holds_a_run(name, tmp_path):
    directory = tmp_path / name / "checkpoints"
    parts = make_parts()
    learn(parts)
    manifest = {"encoder": tf.keras.saving.serialize_keras_object(parts["encoder"])}
    RunCheckpoints(directory, manifest=manifest, **parts).save(3)
    others = make_parts()
    assert RunCheckpoints(directory, **others).restore_latest() == 3
    assert_same(state(parts), state(others))
    for path in (tmp_path / name, directory, directory / "ckpt-3"):
        loaded = load_encoder_from(path)
        np.testing.assert_array_equal(loaded(IMAGES), parts["encoder"](IMAGES, training=False))


def test_a_pattern_in_the_name_reads_no_other_folder(tmp_path):
    """As a pattern, "run[12]" matches "run1" and not itself."""
    for name, value in (("run1", 1.0), ("run[12]", 2.0)):
        RunCheckpoints(tmp_path / name, v=tf.Variable(value)).save(1)
    found = tf.Variable(0.0)
    restore(tmp_path / "run[12]" / "ckpt-1", v=found)
    assert found.numpy() == 2.0


@pytest.mark.parametrize("name", ["lr=[1e-3,2]", "back\\slash"])
def test_a_pattern_in_the_name_on_other_storage(name, tmp_path):
    RunCheckpoints(f"file://{tmp_path}/{name}", v=tf.Variable(5.0)).save(1)
    found = tf.Variable(0.0)
    restore(f"file://{tmp_path}/{name}/ckpt-1", v=found)
    assert found.numpy() == 5.0


@pytest.mark.parametrize("name", ["lr=[1e-3,2]", "plain"])
def test_a_damaged_file_is_named_as_it_is_called(name, tmp_path):
    checkpoints = RunCheckpoints(tmp_path / name, v=tf.Variable(1.0))
    checkpoints.save(1)
    data = tmp_path / name / "ckpt-1.data-00000-of-00001"
    data.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged") as error:
        checkpoints.restore_latest()
    assert str(data) in str(error.value)


@pytest.mark.parametrize("error", [tf.errors.PermissionDeniedError, tf.errors.UnavailableError])
@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_a_file_out_of_reach_is_not_called_damaged(error, suffix, tmp_path, monkeypatch):
    checkpoints = RunCheckpoints(tmp_path, v=tf.Variable(1.0))
    checkpoints.save(1)
    checkpoints.save(2)
    whole = {path: path.read_bytes() for path in tmp_path.glob("ckpt-2*")}
    (tmp_path / f"ckpt-2{suffix}").write_bytes(b"")  # What reading it comes to.

    def refuse(path, *_, **__):
        raise error(None, None, f"{path}; not now")

    monkeypatch.setattr(tf.io.gfile, "GFile", refuse)
    with pytest.raises(UserError, match=f"ckpt-2{suffix} cannot be read: .*not now") as raised:
        checkpoints.restore_latest()
    assert "damaged" not in str(raised.value) and "remove" not in str(raised.value)
    for path, content in whole.items():
        path.write_bytes(content)
    assert checkpoints.restore_latest() == 2

"""What comes from outside does not run, does not fill memory, and is shown as it is."""

from __future__ import annotations

import ast
import copy
import io
import json
import logging
import os
import pathlib
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr import main
from tf_simclr.checkpoints import RunCheckpoints, load_encoder_from
from tf_simclr.checkpoints.safe_config import check_config
from tf_simclr.config import Config
from tf_simclr.data.sources import open_source
from tf_simclr.errors import UserError, printable
from tf_simclr.export.card import markdown
from tf_simclr.flagfile import from_flagfile, to_flagfile
from tf_simclr.report import pictures, write_report
from tf_simclr.tasks import doctor, evaluate

PACKAGE = pathlib.Path(__file__).parents[1] / "tf_simclr"


# Code in models.


def safe(call: ast.Call, name: str, value: bool) -> bool:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    return isinstance(given.get(name), ast.Constant) and given[name].value is value


def dangers(tree: ast.AST) -> set[str]:
    """What in a module could run code that is read from somewhere."""
    unpickling = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal"}
    unpickling |= {"shelve"}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in unpickling}
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in unpickling:
            found.add(node.module)
        elif isinstance(node, ast.Call):
            target = ast.unparse(node.func)
            name = target.split(".")[-1]
            given = {keyword.arg for keyword in node.keywords}
            if target in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
                found.add(target)
            elif target in ("yaml.load", "yaml.unsafe_load"):
                found.add(target)
            elif target in ("np.load", "numpy.load") and not safe(node, "allow_pickle", False):
                found.add(target)
            elif name == "load_model" and not safe(node, "safe_mode", True):
                found.add(name)
            elif name == "deserialize_keras_object" and "safe_mode" in given:
                # Its default is True, and where Keras is loading already, Keras' own mode holds.
                found |= set() if safe(node, "safe_mode", True) else {name}
            elif "shell" in given and not safe(node, "shell", False):
                found.add(target)
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_nothing_read_is_run(path):
    assert not dangers(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(x)",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "tf.keras.models.load_model(x)",
        "deserialize_keras_object(x, safe_mode=False)",
        "subprocess.run(x, shell=True)",
        "yaml.load(x)",
    ],
)
def test_what_would_run_is_found(line):
    assert dangers(ast.parse(line))


def system(module="os", name="system"):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def lambda_layer(function):
    settings = {"name": "evil", "function": function, "function_type": "function"}
    settings.update(module="os", output_shape=None, output_shape_module=None, arguments={})
    settings["output_shape_type"] = "raw"
    return {"module": "keras.layers", "class_name": "Lambda", "config": settings}


def operation(symbol):
    module = "keras.src.layers.core.tf_op_layer"
    return {"module": module, "class_name": "TFOpLambda", "config": {"function": symbol}}


def without(layer, key):
    return {name: value for name, value in layer.items() if name != key}


# (the layer, what it is called with; {path} is what must not appear.)
ATTACKS = {
    "a function": (lambda_layer(system()), "touch {path}"),
    "a function, the old format": (without(lambda_layer(system()), "module"), "touch {path}"),
    "a builtin": (lambda_layer(system("builtins", "eval")), "open({path!r}, 'w')"),
    "an operation": (operation("io.write_file"), "{path}"),
    "a module": ({"module": "evil_module", "class_name": "Evil", "config": {}}, None),
}


def evil(attack, path):
    """The config of a model that calls a layer with a string, which Keras allows."""
    layer, text = copy.deepcopy(ATTACKS[attack])
    if text is None:
        return layer
    called = ["_CONSTANT_VALUE", -1, text.format(path=str(path)), {}]
    if "operation" in attack:
        called[3]["contents"] = "code"
    layer.update(name="evil", registered_name=None, inbound_nodes=[called])
    layer["config"]["name"] = "evil"
    inputs = tf.keras.Input([4, 4, 3], name="images")
    config = tf.keras.saving.serialize_keras_object(tf.keras.Model(inputs, inputs))
    config["config"]["layers"].append(layer)
    config["config"]["output_layers"] = [["evil", 0, 0]]
    return config


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A path that an attack would write to."""
    path = tmp_path / "was_run"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "evil_module.py").write_text(f"open({str(path)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    return path


@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_a_manifest_is_not_run(attack, trap, tmp_path):
    part = tf.train.Checkpoint(v=tf.Variable(1.0))
    RunCheckpoints(tmp_path / "c", manifest={"encoder": evil(attack, trap)}, part=part).save(1)
    with pytest.raises(UserError, match="manifest.json: .*which could run any code"):
        load_encoder_from(tmp_path / "c")
    assert not trap.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_a_keras_file_is_not_run(attack, trap, tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(evil(attack, trap)))
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(UserError, match="evil.keras cannot be loaded: .*which could run any code"):
        load_encoder_from(tmp_path / "evil.keras")
    assert not trap.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attacks_are_real(attack, trap):
    """Keras' safe mode alone would run them: else the tests above would show nothing."""
    with pytest.raises((AttributeError, TypeError, ValueError)):
        tf.keras.saving.deserialize_keras_object(evil(attack, trap), safe_mode=True)
    assert trap.exists()


def test_a_keras_file_is_a_zip_without_pickles(tmp_path):
    inputs = tf.keras.Input([4, 4, 3])
    outputs = tf.keras.layers.Lambda(lambda x: tf.reduce_mean(x, [1, 2]))(inputs)
    tf.keras.Model(inputs, outputs).save(tmp_path / "old.h5")
    (tmp_path / "old.h5").rename(tmp_path / "old.keras")  # Keras would read it, without safe mode.
    with pytest.raises(UserError, match="old.keras cannot be loaded: it is not a zip"):
        load_encoder_from(tmp_path / "old.keras")
    with zipfile.ZipFile(tmp_path / "npz.keras", "w") as archive:
        archive.writestr("model.weights.npz", b"")
    with pytest.raises(UserError, match="npz.keras cannot be loaded: .*npz"):
        load_encoder_from(tmp_path / "npz.keras")


def test_plain_models_are_safe():
    inputs = tf.keras.Input([8, 8, 3])
    x = tf.keras.layers.Conv2D(2, 3, activation="swish", kernel_regularizer="l2")(inputs * 2.0)
    x = tf.keras.layers.Activation(tf.nn.silu)(tf.nn.relu(x)[:, 1:])
    model = tf.keras.Model(inputs, tf.reduce_mean(x, [1, 2]))
    check_config(tf.keras.saving.serialize_keras_object(model))


@pytest.mark.parametrize(
    "named",
    [
        system("builtins", "eval"),
        system("keras.utils", "get_file"),
        {"module": "os", "class_name": "popen", "config": {}},
        {"module": "keras.src.utils.data_utils", "class_name": "os.popen", "config": {}},
        {"module": "keras.src.utils.data_utils", "class_name": "get_file", "config": {}},
        {"class_name": "__lambda__", "config": {"value": "code"}},
        {"class_name": ["Dense"], "config": None},
        operation("keras.models.load_model"),
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "x"}},
        operation("nn.fixed_unigram_candidate_sampler"),
        operation("compat.v1.nn.fixed_unigram_candidate_sampler"),
        operation("nn.all_candidate_sampler"),
    ],
    ids=str,
)
def test_only_layers_are_safe(named):
    layer = {"module": "keras.layers", "class_name": "Activation", "config": {"activation": named}}
    with pytest.raises(UserError, match="could run any code"):
        check_config([{"layers": (layer,)}])


def text_layer(kind, **settings):
    return tf.keras.saving.serialize_keras_object(getattr(tf.keras.layers, kind)(**settings))


@pytest.mark.parametrize("kind", ["StringLookup", "IntegerLookup", "TextVectorization"])
@pytest.mark.parametrize("setting", ["vocabulary", "idf_weights"])
def test_a_vocabulary_is_not_read_from_a_local_file(kind, setting, tmp_path):
    layer = text_layer(kind)
    check_config(layer)
    layer["config"][setting] = str(tmp_path / "secret.txt")
    nested = {"module": "keras", "class_name": "Sequential", "config": {"layers": [layer]}}
    for config in (layer, without(layer, "module"), nested):
        with pytest.raises(UserError, match=f"{kind}.*read a local file"):
            check_config(config)


def test_a_vocabulary_of_words_is_safe():
    check_config(text_layer("StringLookup", vocabulary=["cat", "dog"]))
    check_config(text_layer("IntegerLookup", vocabulary=[3, 5]))


# Images that ask for more than they hold.


def png(width, height, more=b""):
    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * (3 * 4 + 1) * 4))
    text = chunk(b"zTXt", b"bomb\0\0" + more) if more else b""
    return b"\x89PNG\r\n\x1a\n" + header + text + pixels + chunk(b"IEND", b"")


def gif(frames, side, screen=None, before=b""):
    """A GIF of equal frames, whose header may tell another size."""
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.new("L", (side, side)).save(file, "GIF")
    content = file.getvalue()
    first = 13 + 3 * 2 ** (content[10] % 8 + 1)
    head = content[:6] + struct.pack("<HH", screen or side, screen or side) + content[10:first]
    return head + before + content[first:-1] * frames + b";"


def bmp(width, height, bits=24, offset=54, header=40):
    sizes = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 200, 0, 0, offset) + sizes + bytes(146)


def jpeg(width, height):
    content = bytearray(tf.io.encode_jpeg(tf.zeros([16, 16, 3], tf.uint8)).numpy())
    place = content.find(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


BOMBS = {  # (contents, whether they are an image after all)
    "png of 10^18 pixels": (lambda: png(2**30, 2**30), False),
    "png beyond 64 bits": (lambda: png(2**32 - 1, 2**32 - 1), False),
    "png with a text of 1 GB": (lambda: png(4, 4, zlib.compress(bytes(10**9), 1)), True),
    "jpeg of 4 * 10^9 pixels": (lambda: jpeg(65_000, 65_000), False),
    "gif of 3000 frames": (lambda: gif(3000, 1000), True),
    "gif of 3000 frames that calls itself small": (lambda: gif(3000, 1000, 1), True),
    "gif of one giant frame": (lambda: gif(1, 20_000, 1), False),
    "gif without a frame": (lambda: gif(0, 16), False),
    "gif with a giant frame behind many comments": (
        lambda: gif(1, 20_000, 1, b"!\xfe\1\1\0" * 100),
        False,
    ),
    "gif with an unknown block": (lambda: gif(3000, 1000, 1, b"?"), False),
    "bmp of 10^18 pixels": (lambda: bmp(2**30, 2**30), False),
    "bmp of negative height": (lambda: bmp(10, -(2**31)), False),
    "bmp of negative width": (lambda: bmp(-10, 10), False),
    "bmp with nothing in it": (lambda: bmp(9000, 9000), False),
    "bmp with a far palette": (lambda: bmp(4, 4, 8, offset=2**31 - 1), False),
    "bmp with a farther palette": (lambda: bmp(4, 4, 8, offset=2**32 - 5), False),
    "bmp with a giant header": (lambda: bmp(4, 4, 8, header=2**32 - 20), False),
    "bmp with far pixels": (lambda: bmp(4, 4, offset=2**31 - 1), False),
}
DECODE = """
import pathlib, resource, sys
import tensorflow as tf
from tf_simclr.data.decoding import decode

def decoded(contents):
    images = tf.data.Dataset.from_tensors(contents).map(lambda c: tf.shape(decode(c, 3)))
    return len(list(images.ignore_errors()))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

decoded(tf.io.encode_png(tf.zeros([4, 4, 3], tf.uint8)).numpy())
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    contents, before = path.read_bytes(), peak()
    print(path.name, decoded(contents), peak() - before, sep=":")
"""


def test_bombs_take_little_memory(tmp_path):
    for name, (make, _) in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", DECODE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=PACKAGE.parent,
    )
    lines = [line.split(":") for line in done.stdout.splitlines()]
    assert {name: count == "1" for name, count, _ in lines} == {
        name: is_image for name, (_, is_image) in BOMBS.items()
    }
    assert not {name: grown for name, _, grown in lines if int(grown) > 120_000}  # KB.


# Text that does something where it is shown.

NASTY = "a\x1b[31m\r\nb\x7f\x9b\u202e\udcff"
SHOWN = r"a\x1b[31m\r\nb\x7f\x9b\u202e\udcff"


def test_printable():
    assert printable(NASTY) == SHOWN
    assert printable(7) == "7"
    assert printable("é ü 猫 ± C:\\x '\"") == "é ü 猫 ± C:\\x '\""


def test_errors_and_logs_are_printable(capsys):
    main._report(UserError("two lines:\n  \x1b[31m\udcff"))
    assert capsys.readouterr().err == "error: two lines:\n  \\x1b[31m\\udcff\n"
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s", ("\x1b[2J\udc80",), None)
    assert main._Formatter("%(message)s").format(record) == r"\x1b[2J\udc80"


def test_file_names_are_told_in_one_printable_line(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"a\x1b[31m\nerror: all is well\xff.png")
    open(path, "wb").close()
    with pytest.raises(UserError) as error:
        open_source("folder", str(tmp_path))
    assert r"a\x1b[31m\nerror: all is well\udcff.png" in str(error.value)
    assert str(error.value).isprintable()


def test_prints_are_printable(capsys):
    doctor._say("images", NASTY)
    evaluate.say(["kNN:", NASTY])
    assert capsys.readouterr().out == f"images      {SHOWN}\nkNN:\n{SHOWN}\n"


@pytest.mark.parametrize(
    "separator", ["\n", "\r", "\x0b", "\x1c", "\x85", "\u2028", "\x1b", "\udcff"]
)
def test_a_flag_cannot_hold_another(separator):
    with pytest.raises(UserError, match="--data_dir must be text without line breaks"):
        Config(workdir="w", data_dir=f"a{separator}--init_from=b")
    kept = Config(workdir="w", data_dir="/a --init_from=b é 猫")
    assert from_flagfile(to_flagfile(kept))["data_dir"] == kept.data_dir


HTML = "</script><script>alert('1')</script>\"&amp;"


def test_a_report_of_names_that_are_html(tmp_path):
    (tmp_path / "flags.resolved").write_bytes(f"--dataset={HTML}\xff\n--x\n".encode("latin-1"))
    row = {"features": HTML, "labels_per_class": HTML, "mean": 0.5, "std": 0.1}
    top1 = {HTML + "\udcff": 0.5}
    result = {"linear_eval": {"few_label": [row]}, "knn_eval": {"k": HTML, "top1": top1}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    page = pathlib.Path(write_report(str(tmp_path))).read_text("utf-8")
    assert "<script" not in page and "alert('" not in page and "</script" not in page
    assert page.count("&lt;/script&gt;") == 2 * 6


def test_a_card_of_names_that_are_markdown():
    facts = {"encoder": "# x\n# y", "embedding_dim": 1, f"_{HTML}_": "*b* `c` __d__ ~e~ x_y"}
    facts["trained_on"] = {
        "\x1b": "![a](http://b)\n\n# c \\ &lt;",
        "list": ["<b>", "a -> b [N, D]"],
    }
    text = markdown(json.dumps(facts)).split("## Use")[0]
    assert "# Encoder # x\\\\n# y\n" in text
    assert "<" not in text and "\x1b" not in text and r"![a\](http" in text
    assert r"\*b\* \`c\` \_\_d\_\_ \~e\~ x_y" in text
    assert "a -> b [N, D]" in text and "&amp;lt;" in text
    assert sum(line.startswith("#") for line in text.splitlines()) == 1


def test_class_names_are_drawn_as_they_are(monkeypatch):
    names = ["$\\frac{", "_hidden", "a\\b", "$x$", NASTY, "^_{", "%"]
    drawn = []
    png = pictures._png
    monkeypatch.setattr(pictures, "_png", lambda figure: drawn.append(figure) or png(figure))
    h = np.random.default_rng(0).normal(size=(28, 3)).astype(np.float32)
    assert pictures.map_of({"trained": h}, np.arange(28) % 7, names)[:4] == b"\x89PNG"
    texts = drawn[0].axes[-1].get_legend().get_texts()
    assert [text.get_text() for text in texts] == [*names[:4], SHOWN, *names[5:]]
    assert not any(text.get_parse_math() for text in texts)

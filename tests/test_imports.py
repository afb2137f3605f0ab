"""The rooms of the house: which module may import which, and where flags may be."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "tf_simclr"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A room imports itself, errors, stack, and the rooms listed: these and no others.
MAY_IMPORT = {
    "errors": set(),
    "stack": set(),
    "settings": set(),
    "modes": set(),
    "paths": set(),
    "recipes": set(),
    "config": {"config_rules", "settings", "modes", "paths"},
    "config_rules": {"modes", "paths"},
    "flagfile": {"config", "settings"},
    "inherited": {"flagfile"},
    "flag_defs": {"config", "settings", "modes", "inherited", "paths", "recipes", "storage"},
    "flag_help": {"config", "settings", "modes", "recipes"},
    "main": {"modes", "flag_defs", "flag_help", "tasks", "distribute"},
    "__main__": {"main"},
    "__init__": set(),
    "distribute": set(),
    "native": set(),
    "augment": {"native"},
    "losses": {"distribute"},
    "storage": set(),
    "models": {"losses", "augment", "distribute"},
    "data": {"augment", "native", "storage"},
    "optim": set(),
    "evaluation": set(),
    "checkpoints": {"models"},
    "export": {"models", "augment", "checkpoints", "storage"},
    "features": {"data", "models", "storage"},
    "embeddings": {"features", "data", "models", "storage"},
    "search": {"embeddings", "features", "data", "report", "storage"},
    "duplicates": {"data", "evaluation", "report"},
    "workdir": {"checkpoints", "storage"},
    "report": {"workdir", "storage"},
    "training": {
        *("workdir", "features", "checkpoints", "export", "report"),
        *("data", "models", "optim", "evaluation", "distribute"),
    },
    "tasks": {
        *("config", "flagfile", "modes"),
        *("training", "workdir", "features", "checkpoints", "export", "report"),
        *("embeddings", "search", "duplicates"),
        *("data", "models", "augment", "losses", "optim", "evaluation"),
        *("native", "distribute", "storage"),
    },
}


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: pathlib.Path) -> set[str]:
    """Full names of everything a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(path: pathlib.Path) -> set[str]:
    return {
        name.split(".")[1]
        for name in imported(path)
        if name.startswith("tf_simclr.") and not name.startswith("tf_simclr.__version__")
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    room = room_of(path)
    assert room in MAY_IMPORT, f"{room} has no rule"
    assert rooms_imported(path) <= MAY_IMPORT[room] | {room, "errors", "stack"}


def test_no_rule_is_stale():
    used = {room_of(path): set() for path in MODULES}
    for path in MODULES:
        used[room_of(path)] |= rooms_imported(path) - {room_of(path), "errors", "stack"}
    assert used == MAY_IMPORT


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_flags_stay_at_the_door(path):
    uses_flags = any(
        name == "absl.flags" or name.startswith("absl.flags.") for name in imported(path)
    )
    assert not uses_flags or room_of(path) in ("flag_defs", "main")


# What is read before TensorFlow is loaded: for --help, and for mistakes in a command.
STANDARD_LIBRARY_ONLY = (
    *("config", "config_rules", "errors", "flagfile", "flag_help", "modes", "paths", "recipes"),
    "settings",
)


def test_what_comes_before_tensorflow_needs_the_standard_library_only():
    script = f"""
import importlib, sys
sys.path.insert(0, {str(ROOT)!r})
for name in {STANDARD_LIBRARY_ONLY!r}:
    importlib.import_module("tf_simclr." + name)
"""
    # -S and -I: without site-packages, so that whatever is installed cannot be imported.
    alone = [sys.executable, "-S", "-I", "-c"]
    subprocess.run([*alone, script], check=True, timeout=120)
    refused = subprocess.run([*alone, script + "import absl"], capture_output=True, timeout=120)
    assert b"No module named 'absl'" in refused.stderr


def test_no_test_module_imports_another():
    tests = sorted((ROOT / "tests").rglob("*.py"))
    names = {path.stem for path in tests if path.name.startswith("test_")}
    assert pathlib.Path(__file__).stem in names
    users = {
        str(path.relative_to(ROOT)): sorted(taken)
        for path in tests
        if (taken := {part for name in imported(path) for part in name.split(".")} & names)
    }
    assert not users


def test_tensorflow_addons_is_for_tests_only():
    users = [path for path in MODULES for name in imported(path) if "tensorflow_addons" in name]
    assert not users


def test_no_kitchen_sink():
    assert not {path.stem for path in MODULES} & {"utils", "util", "common", "misc", "helpers"}


def test_modules_stay_small():
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert not {str(path): n for path, n in lengths.items() if n > 400}
    assert lengths[PACKAGE / "main.py"] <= 100


def test_importing_registers_no_flag_and_waits_for_tensorflow():
    script = """
import sys, tf_simclr
assert "tensorflow" not in sys.modules
import tensorflow
from absl import flags
before = set(flags.FLAGS)
for name in tf_simclr.__all__:
    getattr(tf_simclr, name)
new = set(flags.FLAGS) - before
assert not new, new
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=120)


def test_public_names_are_the_golden_list():
    import tf_simclr

    golden = (ROOT / "tests" / "golden" / "public_api.txt").read_text().split()
    assert sorted(tf_simclr.__all__) == golden
    for name in golden:
        assert getattr(tf_simclr, name).__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no_such_name"):
        tf_simclr.no_such_name  # noqa: B018

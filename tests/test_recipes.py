"""Recipes: the flagfiles that come with the package, found by name."""

from __future__ import annotations

import pathlib

import pytest
from absl import flags

from tf_simclr import flag_defs, recipes
from tf_simclr.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
DEMO = str(ROOT / "flags" / "digits_demo.flags")
NAMES = ["digits_demo", "digits_demo.flags", "flags/digits_demo.flags", "flags/digits_demo"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_flagfile_is_a_recipe():
    files = {path.stem: str(path) for path in (ROOT / "flags").glob("*.flags")}
    assert recipes.recipes() == files and "digits_demo" in files


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["--flagfile={}", "-flagfile={}", "--flagfile {}"])
def test_a_recipe_is_found_by_name(form, name):
    given = form.format(name).split()
    wanted = form.format(DEMO).split()
    argv = recipes.with_recipes(["program", "--mode=pretrain", *given, "--seed=1"])
    assert argv == ["program", "--mode=pretrain", *wanted, "--seed=1"]


def test_the_binary_reads_it():
    values = flags.FlagValues()
    flag_defs.define_flags(values)
    flag_defs.parse(["program", "--mode=pretrain", "--flagfile=digits_demo"], values)
    assert values.dataset == "digits"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_that_name_comes_first(name, tmp_path):
    (tmp_path / "flags").mkdir()
    (tmp_path / name).write_text("--seed=5\n")
    argv = ["program", f"--flagfile={name}"]
    assert recipes.with_recipes(argv) == argv


def test_a_folder_of_that_name_is_no_flagfile(tmp_path):
    (tmp_path / "digits_demo").mkdir()
    argv = recipes.with_recipes(["program", "--flagfile=digits_demo"])
    assert argv == ["program", f"--flagfile={DEMO}"]


def test_what_is_no_flagfile_stays():
    argv = ["--flagfile", "--workdir=digits_demo", "--flagfiles=digits_demo", "digits_demo", "--"]
    argv += ["--flagfile=digits_demo"]
    assert recipes.with_recipes(argv[1:]) == argv[1:]
    assert recipes.with_recipes(["program", "--flagfile="]) == ["program", "--flagfile="]
    assert recipes.with_recipes(["program", "--flagfile"]) == ["program", "--flagfile"]


@pytest.mark.parametrize("name", ["digit_demo", "my/digits_demo.flags", "/digits_demo", "a.flags"])
def test_an_unknown_name_is_refused_with_the_recipes(name):
    message = f"--flagfile={name} is neither a file nor a recipe.*digits_demo,"
    with pytest.raises(UserError, match=message):
        recipes.with_recipes(["program", f"--flagfile={name}"])

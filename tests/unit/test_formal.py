"""The models' mutants, the list that is run and the README are one; spin itself is not needed."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys

FORMAL = pathlib.Path(__file__).resolve().parents[2] / "formal"
MODELS = ("elect", "work")


def runs():
    spec = importlib.util.spec_from_file_location("formal_run", FORMAL / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module.RUNS


def in_models():
    return {
        (model, name)
        for model in MODELS
        for name in re.findall(r"(?:ifdef|ifndef|defined) (M_\w+)", (FORMAL / (model + ".pml")).read_text())
    }


def test_every_mutant_of_the_models_is_run_and_expected_to_be_rejected():
    # One of the models alone may use a name that the other has no guard for.
    assert {(run.model, run.name) for run in runs() if not run.holds} == in_models()


def test_the_readme_lists_the_mutants_with_their_models():
    listed = set()
    for name, where in re.findall(r"^``(M_\w+)`` +(work|elect|both) ", (FORMAL / "README.rst").read_text(), re.M):
        listed |= {(model, name) for model in MODELS if where in (model, "both")}
    assert listed == in_models()


def test_each_model_is_also_run_whole_and_no_name_twice():
    names = [(run.model, run.name) for run in runs()]
    assert len(names) == len(set(names))
    assert {run.model for run in runs() if run.holds} == set(MODELS)

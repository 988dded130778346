"""What the process that endpoints are forked from imports; see `process.py`.

Nothing of it is looked at again by the garbage collector, which would write to it, and have
every fork keep a copy of its own.
"""

import gc
import os

os.environ["OMP_NUM_THREADS"] = "1"  # read once, with the import; see plan.sklearn_environment

import joblib  # noqa: F401
import sklearn.ensemble
import sklearn.linear_model
import sklearn.neural_network
import sklearn.pipeline
import sklearn.preprocessing  # noqa: F401

import orchestrator.sandbox.serve  # noqa: F401

gc.collect()
gc.freeze()

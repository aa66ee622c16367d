"""Runs, artifacts and hyperparameters of machine learning experiments: `from t9k import em`."""

from t9k.em.artifact import Artifact, create_artifact, load_artifact
from t9k.em.params import Params
from t9k.em.remote import login, logout, upload
from t9k.em.run import Run, create_run, load_run

__all__ = [
    "Artifact",
    "Params",
    "Run",
    "create_artifact",
    "create_run",
    "load_artifact",
    "load_run",
    "login",
    "logout",
    "upload",
]

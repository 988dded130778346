"""The pipeline's files: what a stage writes and later ones read, in the order of dvc.yaml."""

from common import ROOT

# fetch
CANDIDATES = ROOT / "data" / "candidates.csv"
SOURCE = ROOT / "data" / "source.json"  # where the candidates come from, and their hash

# prepare: train.csv, test.csv, baseline.csv, examples.csv
PREPARED = ROOT / "data" / "prepared"

# train
MODELS = ROOT / "models"
JOBLIB = MODELS / "model_pulsar.joblib"
CARD = MODELS / "model.json"

# evaluate
EVALUATION = ROOT / "evaluation"
METRICS = EVALUATION / "metrics.json"
FOLDS = EVALUATION / "folds.json"
PLOTS = EVALUATION / "plots"
REPORT = EVALUATION / "report.html"

# package
INFERENCE = ROOT / "scripts" / "inference.py"  # goes into it
ARCHIVE = MODELS / "model.tar.gz"
RELEASED = MODELS / "released.json"  # the folds' scores of the model that was uploaded last

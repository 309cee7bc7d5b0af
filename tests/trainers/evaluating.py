"""Predictions and run records made up for tests of the evaluation."""

import json

import numpy as np
from scipy import special
from sklearn import metrics as sklearn_metrics

from trainers.data import open_data_set
from trainers.evaluation import evaluate, runs
from trainers.evaluation.metrics import metrics, thresholds
from trainers.evaluation.predictions import ModelPredictions, Predictions
from trainers.evaluation.report import metrics_json
from trainers.evaluation_flags import Options

OPTIONS = Options(batch_size=32, test_time_flips=False, num_resamples=100, prevalence=0.01)
IDENTITY = {"fingerprint": "f", "settings": {"patient_regex": "^(.+)_"}, "content_digest": "d"}
NO_LEAK = {"is_external": False, "data_differences": [], "train_patients": [], "validation_patients": []}

_NAMES = {"dataset": "tfds_malaria/by_patient/1.0.0", "source": "cell_images.zip"}


def make_predictions(seed=0, num_cells=600, num_patients=40):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num_cells)
    probabilities = special.expit(rng.normal(3 * (2 * labels - 1), 2))
    names = np.array([f"Cells/C{i}.png" for i in range(num_cells)])
    patient_ids = np.array([f"C{i}" for i in rng.integers(0, num_patients, num_cells)])
    return Predictions(labels, probabilities, names, patient_ids)


def run_record(**data):
    splits = {f"{name}_split": name for name in ("train", "validation", "test")}
    return {
        "model": "basic_cnn",
        "backend": "tensorflow",
        "status": "finished",
        "seed": 0,
        "flags": {"config": "by_patient", "epochs": 1, "batch_size": 8, "learning_rate": 0.001, **splits},
        "data": {
            **IDENTITY,
            "train_patients": ["C1"],
            "validation_patients": ["C2"],
            **dict.fromkeys(("num_train_cells", "num_validation_cells"), 8),
            **_NAMES,
            **data,
        },
        "versions": {"keras": "3"},
        "timings": {"seconds": 1.0},
    }


def fit(predictions):
    return thresholds.fit("validation", predictions.labels, predictions.probabilities, predictions.patient_ids)


def model_predictions(predictions, num_runs=1, fitted=None, leak=NO_LEAK):
    members = tuple(runs.Run(f"runs/{i}", run_record(), f"fold_{i}") for i in range(num_runs))
    run_index = np.arange(len(predictions.labels)) * num_runs // len(predictions.labels)
    fitted = fitted or (fit(make_predictions(9)),) * num_runs
    return ModelPredictions(runs.ModelRuns("basic_cnn", members), predictions, run_index, fitted, leak)


def build_entry(model):
    return metrics_json.build([model], OPTIONS)["models"][model.name]


def expected_calibration_error(labels, probabilities):
    """By the formula of Guo et al., 2017, over bins of the probability."""
    bins = metrics.assign_bins(probabilities)
    sums = [(probabilities - labels)[bins == number].sum() for number in range(metrics.NUM_BINS)]
    return np.abs(sums).sum() / len(labels)


def compute_metrics(labels, probabilities, weights=None):
    """All metrics by scikit-learn, with a whole number as the weight of each cell."""
    predictions, by_weight = probabilities >= 0.5, {"sample_weight": weights}
    precision = sklearn_metrics.precision_score(labels, predictions, zero_division=np.nan, **by_weight)
    return {
        "accuracy": sklearn_metrics.accuracy_score(labels, predictions, **by_weight),
        "sensitivity": sklearn_metrics.recall_score(labels, predictions, **by_weight),
        "specificity": sklearn_metrics.recall_score(labels, predictions, pos_label=0, **by_weight),
        "precision": None if np.isnan(precision) else precision,
        "f1": sklearn_metrics.f1_score(labels, predictions, **by_weight),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predictions, **by_weight),
        "auc": sklearn_metrics.roc_auc_score(labels, probabilities, **by_weight),
        "average_precision": sklearn_metrics.average_precision_score(labels, probabilities, **by_weight),
        "mcc": sklearn_metrics.matthews_corrcoef(labels, predictions, **by_weight),
        "brier": sklearn_metrics.brier_score_loss(labels, probabilities, **by_weight),
        "ece": expected_calibration_error(
            *(np.repeat(item, 1 if weights is None else weights.astype(int)) for item in (labels, probabilities))
        ),
    }


def evaluate_runs(data_dir, run_dirs, output_dir, config=None, split=None, options=OPTIONS):
    """Evaluates runs in this process: folder of the report, what the command prints, and `metrics.json`."""
    config, grouped = runs.group([str(path) for path in run_dirs], config, split)
    text = evaluate.evaluate(grouped, open_data_set(str(data_dir), config), options, str(output_dir))
    return output_dir, text, json.loads((output_dir / "metrics.json").read_text())

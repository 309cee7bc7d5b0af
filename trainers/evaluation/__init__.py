"""The evaluation of trained models: predictions in, metrics, plots and a report out."""

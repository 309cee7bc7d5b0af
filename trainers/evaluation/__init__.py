"""The verdict on trained models: predictions in, numbers, pictures and a report out."""

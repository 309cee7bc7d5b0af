"""Measured tables: preparing, reading, training and predicting, compared with what people would use instead."""

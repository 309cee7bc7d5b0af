"""Measured tables: every arrow of the way of the data, beside its peers."""

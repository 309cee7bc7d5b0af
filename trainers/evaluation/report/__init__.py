"""What people read: HTML report, plots, console table, model card."""

"""How benchmarks measure, whatever they measure."""

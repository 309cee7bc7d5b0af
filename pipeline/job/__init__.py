"""How a data set gets onto disk: plan, fill, finish. The only place that imports Beam."""

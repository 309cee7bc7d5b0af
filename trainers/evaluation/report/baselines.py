"""Figures that others published, to be shown beside ours."""

from typing import Any, NamedTuple


class Published(NamedTuple):
    """A published model on its own test split.

    Attributes:
      model: the name here of the same model.
      tn, fp, fn, tp: confusion counts of its test split.
    """

    model: str
    tn: int
    fp: int
    fn: int
    tp: int

    def table(self) -> dict[str, Any]:
        """Its class-weighted table, and what that hides, from the confusion counts."""
        tn, fp, fn, tp = self.tn, self.fp, self.fn, self.tp
        uninfected, parasitized, total = tn + fp, fn + tp, tn + fp + fn + tp

        def weighted(of_uninfected: float, of_parasitized: float) -> float:
            return (uninfected * of_uninfected + parasitized * of_parasitized) / total

        return {
            "accuracy": (tn + tp) / total,
            "precision": weighted(tn / (tn + fn), tp / (tp + fp)),
            "recall": weighted(tn / uninfected, tp / parasitized),
            "f1": weighted(2 * tn / (2 * tn + fn + fp), 2 * tp / (2 * tp + fp + fn)),
            "sensitivity": tp / parasitized,
            "specificity": tn / uninfected,
        }


ORIGINAL = (
    Published("basic_cnn", tn=3884, fp=191, fn=225, tp=3968),
    Published("vgg_frozen", tn=3871, fp=204, fn=312, tp=3881),
    Published("vgg_ft", tn=4004, fp=71, fn=260, tp=3933),
)
"""D. Sarkar, "Detecting Malaria with Deep Learning", 2019: 8,268 test cells, split by cell."""

BY_CELL_ACCURACY, BY_PATIENT_ACCURACY = 0.989, 0.951
"""One VGG-16 split both ways by the authors of the data: Rajaraman et al., J. Med. Imaging 5:034501, 2018."""

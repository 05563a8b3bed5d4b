"""`anysize-train untrained`: a checkpoint to train from scratch."""

from pathlib import Path

from anysize.console import print_json, say
from anysize_training.distill.data import read_documents
from anysize_training.distill.recipe import Data
from anysize_training.distill.untrained import Shape, write_untrained


def make_untrained(out: Path, text: Path, shape: Shape, *, rows: int | None, seed: int, as_json: bool) -> None:
    """Write an untrained model and say how to train it.

    Args:
        out: the folder to make.
        text: what its tokenizer learns on.
        shape: of the model.
        rows: of the text, the first that are used; all by default.
        seed: of its weights.
        as_json: print one JSON object instead.
    """
    parameters = write_untrained(out, read_documents(Data(source=str(text), rows=rows)), shape, seed=seed)
    if as_json:
        print_json({"out": str(out), "parameters": parameters, "layers": shape.layers, "vocabulary": shape.vocabulary})
    else:
        say(
            f"wrote {out}, {parameters:,} parameters; train it with: anysize-train distill --recipe scratch "
            f"--out runs/scratch --set teacher={out} --set data.source={text}"
        )

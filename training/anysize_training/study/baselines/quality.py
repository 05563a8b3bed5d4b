"""Scoring models that are no variants of a family, as the evaluator scores variants."""

from transformers import PreTrainedModel

from anysize_training.study.evaluate import Evaluator, Quality


class ModelEvaluator(Evaluator):
    """Scores any model of the teacher's architecture that has the teacher's vocabulary. See `Evaluator`."""

    def quality_of(self, model: PreTrainedModel, name: str) -> Quality:
        """Score one model.

        Args:
            model: with final norm and LM head of its own.
            name: for the progress bar.
        """
        return self._score(model, self._hidden(model, name))

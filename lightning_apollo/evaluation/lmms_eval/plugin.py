"""Entry point `lmms_eval.models` of pyproject.toml, loaded whenever lmms-eval starts."""

# pyright: reportMissingImports=false
# lmms-eval has an environment of its own: see docs/evaluation.md

from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Return the name of the model in `lmms-eval --model`, and the class behind it, which is imported when it is asked for."""
    return ModelManifest(
        model_id="lightning_apollo",
        chat_class_path="lightning_apollo.evaluation.lmms_eval.model.TrainedForLmmsEval",
    )

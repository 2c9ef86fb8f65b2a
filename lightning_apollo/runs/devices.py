"""Check of a recipe's devices against this machine."""

import torch

from lightning_apollo.recipe.schema import RecipeError
from lightning_apollo.training.config import TrainerConfig


def check_devices(trainer: TrainerConfig) -> None:
    """RecipeError for a GPU that is not there, for more of them than there are, and for a precision that they lack."""
    kind = trainer.accelerator
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if kind in ("gpu", "cuda", "mps") and not {"gpu": has_cuda or has_mps, "cuda": has_cuda, "mps": has_mps}[kind]:
        raise RecipeError(
            f"trainer.accelerator is {kind}, but torch finds no such GPU on this machine: set trainer.accelerator=cpu, or look "
            "at the driver and at torch with `lightning-apollo doctor`"
        )
    uses_cuda = kind in ("gpu", "cuda", "auto") and has_cuda
    if uses_cuda and trainer.devices != "auto" and int(trainer.devices) > torch.cuda.device_count():
        raise RecipeError(
            f"trainer.devices is {trainer.devices}, but this machine has {torch.cuda.device_count()} GPUs that this process may "
            "use (CUDA_VISIBLE_DEVICES): set trainer.devices to that, or auto"
        )
    if not uses_cuda and has_mps and kind != "cpu" and trainer.precision == "64-true":
        raise RecipeError("trainer.precision is 64-true, which Apple's GPUs do not have: set trainer.accelerator=cpu")

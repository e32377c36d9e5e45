"""lorahub: train, evaluate, compare, publish and serve LoRA adapters that classify claims.

Importing this package has no effects and loads no heavy library; the names below load their modules on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "train": ("lorahub.training.run", "train"),
    "Run": ("lorahub.training.run", "Run"),
    "Engine": ("lorahub.serving.engine.engine", "Engine"),
    "ClaimClassifier": ("lorahub.classifier", "ClaimClassifier"),
    "compare": ("lorahub.experiments.compare.run", "compare"),
    "LorahubError": ("lorahub.errors", "LorahubError"),
}
_HEAVY = ("lorahub.training", "lorahub.serving", "lorahub.classifier")

__all__ = ["ClaimClassifier", "Engine", "LorahubError", "Run", "__version__", "compare", "train"]

if TYPE_CHECKING:
    from lorahub.classifier import ClaimClassifier
    from lorahub.errors import LorahubError
    from lorahub.experiments.compare.run import compare
    from lorahub.serving.engine.engine import Engine
    from lorahub.training.run import Run, train


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lorahub' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    if module.startswith(_HEAVY):
        import_module("lorahub.errors").need("torch", extra="train")
    return getattr(import_module(module), attribute)

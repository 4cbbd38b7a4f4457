"""Agreement of the answers of workers elsewhere, without which they cannot be merged. The majority decides.

The first answer does not decide: it may be wrong, and all others would then be left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import TypeAlias, final

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_fed.wire import Share


@final
class Agreement:
    """Compares shares that have each been checked by itself."""

    def __init__(self) -> None:
        self._forms: dict[tuple[str, ...], dict[str, Hashable]] = {}  # by what it is of, and by worker

    def note(self, worker: str, share: Share, metrics: Mapping[str, Metric]) -> None:
        """Record a share.

        Args:
            worker: The worker's name.
            share: The share, with the states of the server's torchmetrics objects.
            metrics: The server's torchmetrics objects, by path.

        Raises:
            ValueError: If the share does not fit the server's objects, or contradicts itself.
        """
        forms: dict[tuple[str, ...], Hashable] = {}
        if share.loaders and not share.failures:
            forms["loaders",] = share.loaders
        forms |= {("reduction", name): part.reduction for name, part in share.logged.pooled.items()}
        for path, state in share.states.items():
            for name, value in state.states.items():
                shapes = dict.fromkeys(_shapes(metrics[path], name, value))
                if len(shapes) > 1:
                    told = " and ".join(str(list(shape)) for shape in shapes)
                    raise ValueError(f"the state {name!r} of its torchmetrics object {path!r} has the shapes {told}")
                for shape in shapes:
                    forms["state", path, name] = shape
        for key, form in forms.items():
            self._forms.setdefault(key, {})[worker] = form

    def odd(self) -> dict[str, str]:
        """Return the workers that deviate from the majority, or in a tie from the first, with the reason."""
        reasons: dict[str, str] = {}
        for key, forms in self._forms.items():
            counts = Counter(forms.values())
            usual = max(counts, key=lambda form: counts[form])
            other = next(worker for worker, form in forms.items() if form == usual)
            for worker, form in forms.items():
                if form != usual:
                    reasons.setdefault(worker, _sentence(key, form, other, usual))
        return reasons


def _sentence(key: tuple[str, ...], form: Hashable, other: str, usual: Hashable) -> str:
    if key[0] == "loaders":
        return f"it gives {form} loaders and worker {other!r} gives {usual}; let all workers give as many, or none"
    if key[0] == "reduction":
        return (
            f"it logs {key[1]!r} with reduce_fx={form!r}, and worker {other!r} with {usual!r}; give the same at every "
            "worker, or two names"
        )
    shape, theirs = ([*each] if isinstance(each, tuple) else each for each in (form, usual))
    return (
        f"the state {key[2]!r} of its torchmetrics object {key[1]!r} has the shape {shape}, and that of worker "
        f"{other!r} {theirs}"
    )


_Shape: TypeAlias = tuple[int, ...]


def _shapes(metric: Metric, name: str, value: Tensor | list[Tensor]) -> Iterator[_Shape]:
    """Yield the shapes that must be the same in all parts of a state, for these to be merged.

    Raises:
        ValueError: If it is of another kind than that of an object of the server's.
    """
    default: object = metric._defaults[name]
    is_list = isinstance(default, list)
    if isinstance(value, list) is not is_list:
        raise ValueError(f"the state {name!r} of its {type(metric).__name__} is of another kind than the server's")
    if isinstance(value, Tensor):
        assert isinstance(default, Tensor)
        if value.is_complex() != default.is_complex():
            raise ValueError(f"the state {name!r} of its {type(metric).__name__} is {value.dtype}")
        if default.numel() > 1:  # else it may be one that grows to the number of outputs
            yield tuple(default.shape)
        yield () if value.numel() == 1 else tuple(value.shape)
    elif metric._reductions[name] is dim_zero_cat:
        yield from (tuple(item.shape[1:]) for item in value if item.numel())

"""Call reward functions of users, with the signature of TRL or of verl."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Real
from typing import Any

import numpy as np

from depo.config.user_code import load_function
from depo.rewards.scorer import Scorer
from depo.types.errors import ConfigError
from depo.types.records import Float32Array, Prompt

logger = logging.getLogger(__name__)

TRL_SIGNATURE = "f(prompts, completions, **columns)"
VERL_SIGNATURE = "f(data_source, solution_str, ground_truth, extra_info=None)"


def load_user_scorer(reference: str) -> Scorer:
    """Import a user's function and return it as a scorer.

    Args:
        reference: `package.module:function` or `path/file.py:function`.

    Raises:
        ConfigError: It cannot be imported, is not a function, or has neither TRL's nor verl's
            signature.
    """
    function = load_function(reference, "reward.function")
    parameters = inspect.signature(function).parameters
    if {"data_source", "solution_str", "ground_truth"} <= parameters.keys():
        return VerlScorer(function)
    if "completions" in parameters:
        return TrlScorer(function)
    raise ConfigError(
        f"reward.function: got {reference!r} with parameters ({', '.join(parameters)}), expected "
        f"TRL's {TRL_SIGNATURE} or verl's {VERL_SIGNATURE}"
    )


class TrlScorer:
    """Call a function once per batch, with TRL's signature.

    It gets all prompts, completions and columns, and returns a number or None (unknown) for each.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        """Wrap `function`, plain or async."""
        self._function = function
        self._parameters = inspect.signature(function).parameters
        self._takes_any = any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in self._parameters.values()
        )

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Float32Array:
        """Return float32 [N], NaN where the function returned None or NaN.

        Raises:
            ValueError: The function needs a column that the data lacks, or did not return N
                numbers.
            RuntimeError: The function raised.
        """
        if not prompts:
            return np.empty(0, dtype=np.float32)
        arguments = self._arguments(prompts, responses)
        missing = [
            name
            for name, parameter in self._parameters.items()
            if _required(parameter) and name not in arguments
        ]
        if missing:
            raise ValueError(
                f"{_name(self._function)} needs {', '.join(missing)}, but the data has columns "
                f"{', '.join(sorted(arguments))}"
            )
        try:
            values = self._function(
                **{
                    name: value
                    for name, value in arguments.items()
                    if self._takes_any or name in self._parameters
                }
            )
            if inspect.isawaitable(values):
                values = _run(_gather([values]))[0]
            if isinstance(values, Exception):
                raise values
        except Exception as error:
            raise RuntimeError(
                f"{_name(self._function)} raised on a batch of {len(prompts)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not hasattr(values, "__len__") or len(values) != len(prompts):
            raise ValueError(
                f"{_name(self._function)}: got {values!r:.80}, expected a list of {len(prompts)} "
                f"numbers or None"
            )
        return np.array(
            [math.nan if value is None else _as_float(value, self._function) for value in values],
            dtype=np.float32,
        )

    def counters(self) -> dict[str, int]:
        """Return nothing: the function returns None for unknown rewards."""
        return {}

    def close(self) -> None:
        """Do nothing: the function runs in this process."""

    def _arguments(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[str, Any]:
        names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
        columns = {name: [prompt.columns.get(name) for prompt in prompts] for name in names}
        return {
            **columns,
            "prompts": [
                list(prompt.messages) if prompt.messages else prompt.text for prompt in prompts
            ],
            "completions": [
                _completion(prompt, response)
                for prompt, response in zip(prompts, responses, strict=True)
            ],
            "trainer_state": None,
            "log_extra": _ignore,
            "log_metric": _ignore,
        }


class VerlScorer:
    """Call a function once per response, with verl's signature.

    It returns a number or a mapping with `score`. Where it raises, the reward is unknown.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        """Wrap `function`, plain or async."""
        self._function = function
        parameters = inspect.signature(function).parameters
        self._takes_extra_info = "extra_info" in parameters or any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
        )
        self._errors = 0

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Float32Array:
        """Return float32 [N], NaN where the function raised or returned NaN.

        Raises:
            ValueError: The function returned neither a number nor a mapping with a number as
                `score`.
        """
        values = [
            self._call(prompt, response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        if any(inspect.isawaitable(value) for value in values):
            values = _run(_gather(values))
        return np.array([self._as_reward(value) for value in values], dtype=np.float32)

    def counters(self) -> dict[str, int]:
        """Return {"errors": number of samples on which the function raised} since the start."""
        return {"errors": self._errors}

    def close(self) -> None:
        """Do nothing: the function runs in this process."""

    def _call(self, prompt: Prompt, response: str) -> Any:
        extra = (
            {"extra_info": prompt.columns.get("extra_info") or {}} if self._takes_extra_info else {}
        )
        source = prompt.columns.get("data_source", prompt.source)
        try:
            return self._function(
                data_source=source, solution_str=response, ground_truth=prompt.answer, **extra
            )
        except Exception as error:  # any class: it is the user's code
            return error

    def _as_reward(self, value: Any) -> float:
        if isinstance(value, Exception):
            self._errors += 1
            if self._errors == 1:
                logger.warning(
                    "%s raised; such samples are unknown (NaN), further errors are only counted",
                    _name(self._function),
                    exc_info=value,
                )
            return math.nan
        if isinstance(value, Mapping):
            if "score" not in value:
                raise ValueError(
                    f"{_name(self._function)}: got a mapping with {', '.join(map(str, value))}, "
                    f"expected one with score"
                )
            value = value["score"]
        return _as_float(value, self._function)


def _required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind in (
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.KEYWORD_ONLY,
    )


def _completion(prompt: Prompt, response: str) -> str | list[dict[str, str]]:
    return [{"role": "assistant", "content": response}] if prompt.messages else response


def _ignore(*_: object, **__: object) -> None:
    """Stand in for TRL's logging callbacks."""


def _name(function: Callable[..., Any]) -> str:
    return f"reward function {getattr(function, '__qualname__', repr(function))}"


def _as_float(value: Any, function: Callable[..., Any]) -> float:
    number = value.item() if hasattr(value, "item") else value  # numpy and torch scalars
    if not isinstance(number, Real) or math.isinf(number):
        raise ValueError(
            f"{_name(function)}: got {value!r:.80}, expected a finite number, or None or NaN for "
            f"unknown"
        )
    return float(number)


async def _gather(values: Sequence[Any]) -> list[Any]:
    """Return the values, each awaitable replaced by its result or the exception it raised."""
    positions = [position for position, value in enumerate(values) if inspect.isawaitable(value)]
    results = await asyncio.gather(
        *(values[position] for position in positions), return_exceptions=True
    )
    result_at = dict(zip(positions, results, strict=True))
    return [result_at.get(position, value) for position, value in enumerate(values)]


def _run(coroutine: Coroutine[Any, Any, list[Any]]) -> list[Any]:
    """Run a coroutine to its end, in another thread if an event loop runs here (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, coroutine).result()

"""Configuration: what is written is read back, later layers win, and every mistake is named."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import tomli_w
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from depo.config import (
    EstimatorConfig,
    LossConfig,
    SelectorConfig,
    SourceConfig,
    TrainConfig,
    dump_config,
    load_config,
)
from depo.config.estimator import ESTIMATOR_PRESETS
from depo.config.load import KEYS, SECTIONS, differences
from depo.config.loss import LOSS_PRESETS
from depo.config.presets import SELECTOR_PRESETS
from depo.types.errors import ConfigError

SPECIAL: Mapping[str, Any] = {
    "run.device": st.sampled_from(["auto", "cpu", "cuda", "cuda:3"]),
    "loss.preset": st.sampled_from(sorted(LOSS_PRESETS)),
    "estimator.preset": st.sampled_from(sorted(ESTIMATOR_PRESETS)),
    "selection.preset": st.sampled_from(sorted(SELECTOR_PRESETS)),
    "selection.window": st.tuples(st.floats(0, 0.4), st.floats(0.5, 1)),
    "loss.std_ddof": st.sampled_from([0, 1]),
    "loss.mask": st.sampled_from(["", "dagrpo", "module:function"]),
    "loss.daro_max_weight": st.floats(1, 50),
}
toml_values = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
sources = st.builds(
    SourceConfig,
    task=st.text(max_size=8),
    knobs=st.dictionaries(st.text(max_size=5), toml_values, max_size=3),
    count=st.integers(1, 99) | st.just("all"),
    band=st.text(max_size=5),
)


def values_of(name: str, hint: Any) -> Any:
    """Return values that suit nearly every key of this type."""
    if name in SPECIAL:
        return SPECIAL[name]
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return st.one_of(*(values_of("", each) for each in get_args(hint)))
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        return (
            st.lists(sources, max_size=3).map(tuple)
            if element is SourceConfig
            else st.tuples(values_of("", element), values_of("", element))
        )
    if get_origin(hint) is Mapping:
        return st.dictionaries(st.text(max_size=5), st.floats(0, 0.2), max_size=5)
    return {
        int: st.integers(8, 64),
        float: st.floats(0.001, 0.5) | st.just(1),
        bool: st.booleans(),
        str: st.text(max_size=20),
    }[hint]


any_values = st.dictionaries(st.sampled_from(sorted(KEYS)), st.none(), max_size=12).flatmap(
    lambda chosen: st.fixed_dictionaries({name: values_of(name, KEYS[name]) for name in chosen})
)


def build(values: Mapping[str, Any]) -> TrainConfig:
    """Return the defaults with some keys replaced.

    Combinations that no run can have are passed over.
    """
    sections = {}
    for section, cls in SECTIONS.items():
        chosen = {
            name.partition(".")[2]: value
            for name, value in values.items()
            if name.startswith(section + ".")
        }
        try:
            sections[section] = (
                cls.from_preset(chosen.pop("preset", cls().preset), **chosen)
                if hasattr(cls, "from_preset")
                else cls(**chosen)
            )
        except ConfigError:
            assume(False)
    try:
        return TrainConfig(**sections)
    except ConfigError:
        assume(False)
        raise


def load(text: str, *overrides: str) -> TrainConfig:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "file.toml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)


def value_at(config: TrainConfig, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)


@given(values=any_values)
@settings(max_examples=60, deadline=None)
def test_what_is_dumped_loads_back_equal(values: dict[str, Any]) -> None:
    config = build(values)
    assert load(dump_config(config)) == config


@given(values=any_values)
@settings(max_examples=25, deadline=None)
def test_differences_are_the_keys_that_differ(values: dict[str, Any]) -> None:
    config = build(values)
    default = TrainConfig()
    found = differences(config, default)
    assert all(
        value_at(config, name) == ours != theirs == value_at(default, name)
        for name, (ours, theirs) in found.items()
    )
    assert all(
        value_at(config, name) == value_at(default, name) for name in KEYS if name not in found
    )


@given(values=any_values)
@settings(max_examples=25, deadline=None)
def test_the_command_line_says_what_the_file_says(values: dict[str, Any]) -> None:
    config = build(values)
    sources = {
        "data": {
            key: [asdict(each) for each in getattr(config.data, key)] for key in ("train", "eval")
        }
    }
    overrides: list[str] = []
    for name, value in values.items():
        if not name.startswith("data."):
            overrides += [f"--{name}", literal(value)]
    joined = [
        f"{option}={value}" for option, value in zip(overrides[::2], overrides[1::2], strict=True)
    ]
    assert (
        load(tomli_w.dumps(sources), *overrides) == load(tomli_w.dumps(sources), *joined) == config
    )


def literal(value: Any) -> str:
    """Return a value as a TOML literal on one line."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{literal(key)} = {literal(item)}" for key, item in value.items())
            + "}"
        )
    return tomli_w.dumps({"x": value}).partition(" = ")[2].replace("\n", "")


@pytest.mark.parametrize("text", ["7", "true", "1e-4", "a b", "x=y", "[1]", "models/tiny", ""])
def test_a_text_needs_no_quotes_on_the_command_line(text: str) -> None:
    assert (
        load("", "--policy.model", text).policy.model
        == load("", f"--policy.model={text}").policy.model
        == text
    )


def test_numbers_on_the_command_line() -> None:
    assert load("", "--optimizer.learning_rate", "1e-4").optimizer.learning_rate == 1e-4
    assert load("", "--optimizer.weight_decay", ".5").optimizer.weight_decay == 0.5
    assert load("", "--run.steps=1_000").run.steps == 1000


def test_an_empty_file_is_the_defaults_and_the_defaults_are_their_presets() -> None:
    assert load("") == TrainConfig()
    assert TrainConfig().loss == LossConfig.from_preset("dapo")
    assert TrainConfig().estimator == EstimatorConfig.from_preset("online")
    assert TrainConfig().selection == SelectorConfig.from_preset("depo")


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[2] / "configs").glob("*.toml")),
    ids=lambda path: path.name,
)
def test_shipped_configurations_load(path: Path) -> None:
    config = load_config(path)
    assert config.data.train and config.run.name


@pytest.mark.parametrize("preset", SELECTOR_PRESETS)
def test_a_preset_on_the_command_line_changes_a_resolved_configuration(preset: str) -> None:
    resolved = dump_config(load('[selection]\npreset = "depo_paper"\nscan_cap = 30'))
    assert load(resolved, "--selection.preset", preset).selection == SelectorConfig.from_preset(
        preset, scan_cap=30
    )


def test_a_preset_on_the_command_line_leaves_what_no_preset_at_hand_sets() -> None:
    text = "[selection]\ncandidates_per_draw = 3\nexplore_share = 0.1"
    assert load(text, "--selection.preset", "uniform").selection == SelectorConfig.from_preset(
        "uniform", candidates_per_draw=3
    )
    assert load(text, "--selection.preset", "dps").selection == SelectorConfig.from_preset("dps")


def test_later_layers_win() -> None:
    assert load("").loss == LossConfig() == LossConfig.from_preset("dapo")
    assert (
        load('[loss]\npreset = "grpo"').loss.clip_high
        == LOSS_PRESETS["grpo"]["clip_high"]
        != LossConfig().clip_high
    )
    assert load('[loss]\npreset = "grpo"\nclip_high = 0.3').loss.clip_high == 0.3
    assert (
        load('[loss]\npreset = "grpo"\nclip_high = 0.3', "--loss.clip_high", "0.4").loss.clip_high
        == 0.4
    )
    assert load(
        '[loss]\npreset = "grpo"\nclip_high = 0.3', "--loss.preset=dr_grpo"
    ).loss == LossConfig.from_preset("dr_grpo")
    assert load(
        '[loss]\npreset = "grpo"\nstd_ddof = 0', "--loss.preset=dr_grpo"
    ).loss == LossConfig.from_preset("dr_grpo", std_ddof=0)
    assert load(
        '[selection]\npreset = "uniform"', "--selection.preset", "depo_paper"
    ).selection == SelectorConfig.from_preset("depo_paper")


@pytest.mark.parametrize("name", sorted(KEYS))
def test_a_misspelt_key_is_named_with_the_right_one(name: str) -> None:
    section, _, key = name.partition(".")
    misspelt = key[:-2] + key[-1] + key[-2] if key[-1] != key[-2] else key + "x"
    for attempt in (
        lambda: load(f"[{section}]\n{misspelt} = 1"),
        lambda: load("", f"--{section}.{misspelt}=1"),
    ):
        with pytest.raises(
            ConfigError, match=f"unknown key {section}.{misspelt} .*did you mean {name}\\?"
        ):
            attempt()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[los]", r"unknown section \[los\] in .*file.toml; did you mean loss\?"),
        ("run = 1", r"run in .*file.toml: got 1, expected a section \[run\]"),
        ("a =", "file.toml: not valid TOML"),
        ('[run]\nsteps = "3"', "run.steps in .*file.toml: got '3', expected an integer"),
        ("[run]\nsteps = true", "run.steps .*got True, expected an integer"),
        ("[run]\nsteps = 3.0", "run.steps .*got 3.0, expected an integer"),
        ("[run]\nname = 3", "run.name .*got 3, expected a text"),
        (
            '[optimizer]\nlearning_rate = "1e-4"',
            "optimizer.learning_rate .*got '1e-4', expected a number",
        ),
        (
            "[optimizer]\nweight_decay = nan",
            "optimizer.weight_decay: got nan, expected a finite number",
        ),
        ("[estimator]\nenabled = 1", "estimator.enabled .*got 1, expected true or false"),
        (
            '[reward]\ntruncated = "no"',
            "reward.truncated .*got 'no', expected one of zero, score, unknown",
        ),
        (
            "[selection]\nwindow = [0.1]",
            r"selection.window .*got \[0.1\], expected a list of 2 numbers",
        ),
        (
            "[selection]\nwindow = [0.9, 0.1]",
            "selection.window: got .*expected 0 <= low < high <= 1",
        ),
        ("[selection]\nsource_floors = 1", "selection.source_floors .*got 1, expected a table"),
        ('[loss]\npreset = "ppo"', "loss.preset: got 'ppo', expected one of grpo, dr_grpo, dapo"),
        (
            "[loss]\noverlong_buffer = 65",
            "loss.overlong_buffer: got 65, expected at most rollout.max_new_tokens = 64",
        ),
        ("[data]\ntrain = 1", r"data.train .*got 1, expected tables \[\[data.train\]\]"),
        (
            "[[data.train]]\ncuont = 1",
            "unknown key data.train.cuont .*did you mean data.train.count",
        ),
        (
            "[[data.eval]]\ncount = -1",
            r"data.count: got -1, expected a value \[>= 1\] or 'all' \(in \[\[data.eval\]\]",
        ),
        ('[run]\ndevice = "tpu"', "run.device: got 'tpu', expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_every_mistake_in_a_file_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(text)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--run.steps"], "--run.steps: a value is missing, expected an integer"),
        (["--run.steps", "many"], "--run.steps: got 'many', expected an integer"),
        (["run.steps=3"], "unexpected 'run.steps=3' on the command line"),
        (["--data.train=[{cuont = 1}]"], "unknown key data.train.cuont on the command line"),
    ],
)
def test_every_mistake_on_the_command_line_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load("", *overrides)


RANGED = [
    (cls, item.name, item.metadata["help"][item.metadata["help"].rindex("[") :])
    for cls in (*SECTIONS.values(), SourceConfig)
    for item in fields(cls)
    if re.search(r"\[[\d>][^\[]*[])]$", item.metadata["help"]) and cls is not SelectorConfig
]
"""Every key whose help ends in a range, and that range; SelectorConfig, which checks itself, is
tested below.
"""


@pytest.mark.parametrize(
    ("cls", "name", "stated"), RANGED, ids=lambda value: getattr(value, "__name__", value)
)
def test_stated_ranges_are_held(cls: Any, name: str, stated: str) -> None:
    """The range is read from the help text with other means than the code's: by its words."""
    if stated.startswith("[>"):
        sign, bound = stated.strip("[]").split(" ")
        inside, outside = (
            ([float(bound)] if sign == ">=" else []),
            [float(bound) - 1] + ([float(bound)] if sign == ">" else []),
        )
    else:
        low, high = stated[1:-1].split("..")
        inside, outside = [float(low)], [float(low) - 0.5, float(high) + 0.5]
        (inside if stated.endswith("]") else outside).append(float(high))
    for value in inside:
        company = {"hidden_size": {"heads": 1}, "max_policy_lag": {"rollout_workers": 1}}.get(
            name, {}
        )
        assert getattr(cls(**company, **{name: value}), name) == value
    for value in [*outside, math.nan]:
        with pytest.raises(ConfigError, match=re.escape(name)):
            cls(**{name: value})


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("warmup_steps", 0, -1),
        ("window", (0.0, 1.0), (0.5, 0.5)),
        ("candidates_per_draw", 1, 0),
        ("explore_share", 0.5, 0.51),
        ("max_age", 1, 0),
        ("probe_rollouts", 1, 0),
        ("reprobe_share", 1.0, 1.1),
        ("source_floors", {"a": 0.5, "b": 0.5}, {"a": 0.6, "b": 0.6}),
        ("rule_options", {"decay": 0.5}, {"decay": math.nan}),
        ("scan_cap", 6, 0),
        ("belief", "beta", "gamma"),
        ("belief_options", {"discount": 0.9}, {"discount": math.inf}),
        ("tolerance", 0.0, -1e-9),
        ("replay_capacity", 1, 0),
        ("max_target_weight", 1.0, 0.9),
        ("backfill_rounds", 1, 0),
    ],
)
def test_ranges_of_the_selection_are_held(name: str, inside: Any, outside: Any) -> None:
    assert getattr(SelectorConfig(**{name: inside}), name) == inside
    with pytest.raises(ConfigError, match=f"selection.{name}"):
        SelectorConfig(**{name: outside})

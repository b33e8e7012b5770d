"""The page of optimizers says what the table says, and the command line names what there is."""

import optimizers_page

from unstick.cli.train import train
from unstick.data import NAMES
from unstick.training.initialization import SCHEMES
from unstick.training.networks import ACTIVATIONS
from unstick.training.optimizers import OPTIMIZERS
from unstick.training.recipe import Recipe
from unstick.training.schedules import SCHEDULES


def test_the_optimizers_page_is_up_to_date():
    written = optimizers_page.PAGE.read_text(encoding="utf-8")
    assert written == optimizers_page.page(), (
        "run `python tests/contracts/optimizers_page.py --write`"
    )


def test_every_optimizer_has_a_row_with_its_defaults():
    text = optimizers_page.page()

    for name, kind in OPTIMIZERS.items():
        assert f"| `{name}` | {kind.about.replace('|', chr(92) + '|')}" in text


def test_the_command_line_names_everything_there_is():
    """The help is written by hand, since importing the tables would import torch for --help."""
    help_of = {option.name: option.help for option in train.params}

    for option, names in (
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("data", NAMES),
        ("activation", ACTIVATIONS),
        ("scheme", SCHEMES),
    ):
        missing = [name for name in names if name not in help_of[option]]
        assert missing == [], option


def test_the_command_line_has_the_recipes_defaults():
    plain = Recipe()
    for option in train.params:
        if hasattr(plain, option.name) and option.name != "batch_size":
            default = option.default if option.default != () else None
            assert default in (getattr(plain, option.name), None) or "UNSET" in repr(default)

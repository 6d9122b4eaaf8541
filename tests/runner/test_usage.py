"""runner.usage: the help of ``twistd spoa``."""

from __future__ import annotations

from twisted.python.usage import Options as UsageOptions

from spoa_twisted.runner.usage import GROUPS, METAVARS, groups, usage
from spoa_twisted.tap import Options


class Others(Options):
    """The options of the agent, and some more."""

    optParameters = [["settings", None, None, "A file."], ["colour", None, 7, "A colour,\n  by its number."]]
    optFlags = [["quick", None, "Be quick."]]


def test_each_option_is_in_one_group() -> None:
    """The groups name no option that does not exist, nor one twice."""
    names = [name for group in GROUPS.values() for name in group]
    assert len(set(names)) == len(names)
    listed = [entry.name for _, entries in groups(Options()) for entry in entries]
    assert sorted(listed) == sorted([option.rstrip("=") for option in Options().longOpt])
    assert set(names) <= set(listed)


def test_the_values_of_options_have_names() -> None:
    """The options with a fixed list of values show it, and accept each of them."""
    for name, metavar in METAVARS.items():
        if metavar.startswith("{"):
            for value in metavar.strip("{}").split(","):
                options = Options()
                options.parseOptions([f"--{name}={value}"])
                assert options[name] == value


def test_an_option_without_a_group_is_shown() -> None:
    """It stands in the last group, before ``--help``."""
    *_, (title, entries) = groups(Others())
    assert title == "Other options"
    assert [
        (entry.name, entry.metavar, entry.default) for entry in entries if entry.name not in ("help", "version")
    ] == [
        ("quick", "", ""),
        ("settings", "FILE", ""),
        ("colour", "VALUE", "7"),
    ]
    assert "  --colour=VALUE          A colour, by its number. [default: 7]\n" in usage(Others(), 80)


def test_the_width() -> None:
    """No line is longer, and the default of an option is not apart from its name."""
    for width in (70, 80, 200):
        lines = usage(Options(), width).partition("\nexamples:")[0].splitlines()
        assert max(map(len, lines)) <= width
        assert not [line for line in lines if line.endswith("[default:")]
    assert isinstance(Options(), UsageOptions)


def test_the_examples_are_accepted() -> None:
    """The parser accepts each command line that the help shows."""
    lines = usage(Options(), 80).partition("\nexamples:\n")[2].splitlines()
    examples = [line.split(" spoa ")[1].split() for line in lines if line.startswith("  twist")]
    assert len(examples) == 4
    for example in examples:
        options = Options()
        # --check would load the handlers.
        options.parseOptions([word for word in example if word != "--check"])
        assert options["handlers"] == ["iprep"]

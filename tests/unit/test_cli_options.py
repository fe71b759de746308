"""The parsers' values, refusals and help."""

import argparse
import shlex
from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask import __version__
from cytomask.cli import options
from cytomask.cli.main import COMMANDS, main, make_parser
from cytomask.cli.options import MissingExtra, duration, moment, port, probability, require_extra
from cytomask.cli.reference import PAGE, reference


def test_a_moment_is_how_long_ago_or_a_date() -> None:
    now = datetime.now(UTC)
    assert abs(moment("2h") - (now - timedelta(hours=2))) < timedelta(minutes=1)
    assert moment("2026-11-25") == datetime(2026, 11, 25, tzinfo=UTC)
    assert moment("2026-11-25T14:30") == datetime(2026, 11, 25, 14, 30, tzinfo=UTC)
    assert moment("2026-11-25T14:30+02:00") == datetime(2026, 11, 25, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["99999999999d", "9" * 5000 + "s", "36501d", "1e18d", "-1h", "", "h", "yesterday", "2026-13-01"]
)
def test_an_absurd_time_is_refused_in_one_sentence(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["logs", f"--since={text}"])
    assert exit_.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("cytomask logs: error: argument --since: ")
    assert "give" in last
    assert len(last) < 250


@given(st.text())
def test_no_text_breaks_a_reader_of_values(text: str) -> None:
    for read in (duration, moment, port, probability, options.channel, options.count, options.seed):
        try:
            read(text)
        except argparse.ArgumentTypeError as error:
            assert str(error)


@pytest.mark.parametrize("text", ["-1", "1e3", "99999999999999999999"])
def test_an_invalid_seed_is_refused_before_any_page_is_read(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["finetune", "nowhere", f"--seed={text}"])
    assert exit_.value.code == 2
    assert "argument --seed: " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["65536", "-1", "99999999999999999999", "http"])
def test_an_invalid_port_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["up", f"--port={text}"])
    assert exit_.value.code == 2
    assert "whole number from 0 to 65535" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"cytomask {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_parser_of_its_own_with_examples(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(import_module(f"cytomask.cli.{name}").add_parser)
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    help_ = capsys.readouterr().out
    assert f"  cytomask {name}" in help_.partition("\nexamples:\n")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_one_that_its_parser_takes(name: str) -> None:
    for example in import_module(f"cytomask.cli.{name}").EXAMPLES:
        words = shlex.split(example, comments=True)
        redirected = min((words.index(each) for each in (">", "|") if each in words), default=len(words))
        program, command, *arguments = words[:redirected]
        assert program == "cytomask"
        assert make_parser([command]).parse_args([command, *arguments]).command == command


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n    {name} " not in listed] == []


def test_an_unknown_command_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["segmnt", "a.tif"])
    assert exit_.value.code == 2
    assert "'segment'" in capsys.readouterr().err


def test_a_missing_extra_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(options, "find_spec", lambda name: None if name == "ministack" else object())
    assert main(["up"]) == 2
    assert capsys.readouterr().err == (
        "this needs ministack, from the extra `local`: pip install 'cytomask[local]'\n"
    )
    assert main(["demo"]) == 2
    with pytest.raises(MissingExtra):
        require_extra("local", "yaml", "ministack")


def test_the_reference_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run python -m cytomask.cli.reference"

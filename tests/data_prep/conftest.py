"""What tests of data_prep share."""

import pytest

from data_prep.__main__ import main


@pytest.fixture
def refused(capsys):
    """Run the command, expect status 2 and one line on stderr, and return that line."""

    def run(*arguments) -> str:
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 2
        told = capsys.readouterr().err
        assert told.startswith("data_prep: ") and told.count("\n") == 1, told
        return told

    return run

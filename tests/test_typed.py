"""The typed program runs, so that it stays one a user could write; ``.ci/run`` checks its types."""

import typed


def test_the_typed_program_runs(capsys):
    typed.main()
    assert "tree" in capsys.readouterr().out

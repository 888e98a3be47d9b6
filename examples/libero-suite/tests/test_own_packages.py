import pytest

import checks
import fixtures
import vladoctor.checks
import vladoctor.fixtures


def test_ours_are_ours():
    with pytest.raises(ValueError, match="2 episodes"):
        checks.check_trials(2)
    assert len(fixtures.STATES) == 3
    assert vladoctor.checks is not checks
    assert vladoctor.fixtures is not fixtures

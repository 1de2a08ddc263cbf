from __future__ import annotations

from hfstrat.study.statistics import Difference
from hfstrat.study.verdicts import Verdict


def test_turned_says_the_same_of_the_other_one() -> None:
    verdict = Verdict("full", "head", Difference(0.02, 0.01, 0.03, 100, 0.001), 0.003)
    turned = verdict.turned()
    assert (turned.first, turned.second, turned.better) == ("head", "full", "second")
    assert (turned.difference.value, turned.difference.low, turned.difference.high) == (-0.02, -0.03, -0.01)
    assert turned.turned() == verdict


def test_nothing_has_no_sign_of_its_own() -> None:
    turned = Verdict("full", "head", Difference(0.0, 0.0, 0.0, 100, 1.0), 1.0).turned()
    assert "head - full = +0.000 [+0.000, +0.000]" in str(turned)

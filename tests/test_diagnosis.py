from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vladoctor.check import Abstention, Check, Clear, Problem, Severity, Stage, Verdict
from vladoctor.diagnosis import Diagnosis, Finding, causal_order, diagnose, diagnose_run, run_check
from vladoctor.facts import Facts
from vladoctor.profiles import load_profile
from vladoctor.records import Episode, Outcome

STAGES = {"VD101": Stage.RENDER, "VD201": Stage.IMAGE, "VD401": Stage.DECODE, "VD402": Stage.DECODE}


def nothing(facts: Any, limits: Mapping[str, float]) -> Iterator[Verdict]:
    yield from ()


def check(code: str) -> Check:
    explained_by = ("VD101", "VD201") if code == "VD401" else ()
    return Check(code, code.lower(), STAGES[code], nothing, symptom=code == "VD402", explained_by=explained_by)


def finding(code: str, severity: Severity = Severity.STOP, step: int = 0) -> Finding:
    return Finding(code, code.lower(), STAGES[code], severity, step, None, "m", "r", symptom=code == "VD402")


def order(*findings: Finding) -> list[tuple[str, str]]:
    return [(f.code, f.explained_by) for f in causal_order(findings, [check(code) for code in STAGES])]


def test_the_earliest_stage_leads_and_carries_its_consequences() -> None:
    found = finding("VD402", Severity.LOOK), finding("VD401"), finding("VD201", step=3)
    assert order(*found) == [("VD201", ""), ("VD401", "VD201"), ("VD402", "VD201")]


def test_two_independent_faults_are_two_roots() -> None:
    assert order(finding("VD201"), finding("VD101")) == [("VD101", ""), ("VD201", "")]


def test_a_symptom_leads_only_where_nothing_else_is_found() -> None:
    assert order(finding("VD402", Severity.LOOK)) == [("VD402", "")]


def test_a_mere_look_explains_nothing_graver_and_does_not_lead() -> None:
    found = finding("VD101", Severity.LOOK, step=-10), finding("VD401")
    assert order(*found) == [("VD401", ""), ("VD101", "")]


def test_consequences_stand_behind_the_last_root_of_their_cause() -> None:
    found = finding("VD201"), finding("VD201", step=5), finding("VD401")
    assert order(*found) == [("VD201", ""), ("VD201", ""), ("VD401", "VD201")]


class TestRunCheck:
    @staticmethod
    def run(*verdicts: Verdict | Exception) -> Any:
        def judge(facts: Any, limits: Mapping[str, float]) -> Iterator[Verdict]:
            for verdict in verdicts:
                if isinstance(verdict, Exception):
                    raise verdict
                yield verdict

        facts: Any = type("Facts", (), {"episode": Episode({}, {}, [], Outcome("horizon", False, 0))})()
        return run_check(Check("VD101", "x", Stage.RENDER, judge), facts, {})

    def test_any_problem_is_a_failure(self) -> None:
        result = self.run(Clear("fine"), Problem("m", "r", Severity.FIX, 2))
        assert (result.state, result.findings[0].first_step) == ("failed", 2)

    def test_a_problem_can_be_a_symptom_by_itself(self) -> None:
        result = self.run(Problem("m", "r", Severity.STOP), Problem("m", "r", Severity.LOOK, symptom=True))
        assert [finding.symptom for finding in result.findings] == [False, True]

    def test_nothing_said_is_no_pass(self) -> None:
        assert self.run().state == "abstained"
        assert self.run(Abstention("cannot tell")).state == "abstained"

    def test_a_crash_is_neither_a_pass_nor_a_finding(self) -> None:
        result = self.run(Problem("m", "r", Severity.STOP, 0), ValueError("boom"))
        assert (result.state, result.findings) == ("crashed", ())
        assert "boom" in result.error


class TestWholeRuns:
    @staticmethod
    def facts(count: int = 2) -> list[Facts]:
        outcome = Outcome("horizon", False, 0)
        return [Facts(Episode({}, {"episode": n}, (), outcome), load_profile("unknown")) for n in range(count)]

    @staticmethod
    def check(code: str, *, explained_by: tuple[str, ...] = (), severity: Severity = Severity.FIX) -> Check:
        def judge_run(runs: Sequence[Facts], limits: Mapping[str, float]) -> Iterator[Verdict]:
            yield Problem(f"{len(runs)} episodes, {limits['most']:.0f}", "r", severity)

        return Check(code, "n", Stage.SCORE, judge_run=judge_run, thresholds={"most": 1}, explained_by=explained_by)

    def test_a_check_of_runs_is_asked_once_and_not_about_episodes(self) -> None:
        check, runs = self.check("VD802"), self.facts(3)
        assert diagnose(runs[0], [check]).results == ()
        found = diagnose_run(runs, (), [check], {"VD802": {"most": 7}})
        assert [finding.message for finding in found.findings] == ["3 episodes, 7"]
        assert found.headline is found.findings[0]
        assert found.headline.whole_run
        assert found.headline.to_json()["scope"] == "run"

    def test_without_episodes_nothing_is_asked(self) -> None:
        assert diagnose_run((), (), [self.check("VD802")]).results == ()

    def test_what_an_episode_shows_explains_what_the_run_does(self) -> None:
        checks = [check("VD101"), self.check("VD803", explained_by=("VD101",)), self.check("VD602")]
        (facts,) = self.facts(1)
        episode = Diagnosis(facts.episode, (), (finding("VD101"),))
        found = diagnose_run([facts], [episode], checks)
        assert [(one.code, one.explained_by) for one in found.findings] == [("VD602", ""), ("VD803", "VD101")]
        only = diagnose_run([facts], [episode], checks[:2])
        assert only.headline is None
        assert [one.explained_by for one in only.findings] == ["VD101"]

    def test_a_mere_look_at_an_episode_does_not(self) -> None:
        (facts,) = self.facts(1)
        episode = Diagnosis(facts.episode, (), (finding("VD101", Severity.LOOK),))
        found = diagnose_run([facts], [episode], [self.check("VD803", explained_by=("VD101",))])
        assert found.headline is not None

    def test_a_crash_is_a_state(self) -> None:
        def judge_run(runs: Sequence[Facts], limits: Mapping[str, float]) -> Iterator[Verdict]:
            yield from ()
            raise KeyError("nothing")

        found = diagnose_run(self.facts(), (), [Check("VD803", "n", Stage.SCORE, judge_run=judge_run)])
        assert [result.code for result in found.crashed] == ["VD803"]

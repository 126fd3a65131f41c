"""Tests of sagas that read like sentences: given an app, when this happens, then that. See docs/testing-sagas.md."""

from __future__ import annotations

from minuet.testing.scenario.participants import Behaviour, Participant, ToldToFail, operator_retries, participant
from minuet.testing.scenario.sentences import Given, NothingAsked, When, given
from minuet.testing.scenario.then import Then
from minuet.testing.scenario.vocabulary import WrongSentence

__all__ = [
    "Behaviour",
    "Given",
    "NothingAsked",
    "Participant",
    "Then",
    "ToldToFail",
    "When",
    "WrongSentence",
    "given",
    "operator_retries",
    "participant",
]

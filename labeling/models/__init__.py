"""People and their preferences: what labelling keeps in the database.

Rules that must never break are constraints and triggers; see migrations/0002_rules.py for those that
Django cannot express.
"""

from labeling.models.content import Completion, Prompt, content_hash, split_of
from labeling.models.datasets import DatasetEntry, DatasetVersion
from labeling.models.projects import GuidelinesVersion, Membership, Project, User, random_pseudonym
from labeling.models.qualification import (
    QualificationAnswer,
    QualificationAttempt,
    QualificationDecision,
    QualificationQuestion,
)
from labeling.models.work import Assignment, Candidate, Comparison, Edit, Judgment, Preference

__all__ = [
    "Assignment",
    "Candidate",
    "Comparison",
    "Completion",
    "DatasetEntry",
    "DatasetVersion",
    "Edit",
    "GuidelinesVersion",
    "Judgment",
    "Membership",
    "Preference",
    "Project",
    "Prompt",
    "QualificationAnswer",
    "QualificationAttempt",
    "QualificationDecision",
    "QualificationQuestion",
    "User",
    "content_hash",
    "random_pseudonym",
    "split_of",
]

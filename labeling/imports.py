"""Prompts and comparisons in, from JSON lines: by the batch, in one transaction, and never twice.

A prompt is known by its content, a comparison by its prompt, its completions and what was said of them;
what is there already is left alone. A line that cannot be read stops the import, or is left out where
`skip_bad` asks for it; either way the report names the file, the line, the field and the reason.
"""

import hashlib
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.utils import timezone

from labeling.answers import ALL_BAD, ALL_GOOD, PREFERRED, TIE, build_preferences
from labeling.models import (
    Assignment,
    Candidate,
    Comparison,
    Completion,
    Judgment,
    Preference,
    Project,
    Prompt,
    QualificationQuestion,
    User,
)
from labeling.models.content import clean_text
from labeling.models.projects import MAX_CANDIDATES, MIN_CANDIDATES
from labeling.projects import imported_member
from labeling.qualification import add_questions, build_question
from labeling.selection import same_text

BATCH_ROWS = 1000
MAX_LINE_BYTES = 16 * 2**20
MAX_PROBLEMS = 100
MAX_TAGS = 50
LOCK_NAMESPACE = 7_302
UNKNOWN_AUTHOR = "imported"


class Problem(NamedTuple):
    """What is wrong with one line."""

    file: str
    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.file else f"line {self.line}"
        return f"{place}: {self.field} {self.reason}"


@dataclass
class ImportReport:
    """What an import did. Only the first MAX_PROBLEMS problems are kept; `bad` counts them all."""

    prompts_added: int = 0
    comparisons_added: int = 0
    judgments_added: int = 0
    questions_added: int = 0
    present: int = 0  # lines that said nothing new
    bad: int = 0
    problems: list[Problem] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)  # of what was sent, in its order; only if asked for

    def add_problem(self, problem: Problem) -> None:
        self.bad += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


class ImportRefused(Exception):
    """Nothing was imported; `report.problems` say why."""

    def __init__(self, report: ImportReport) -> None:
        self.report = report
        super().__init__("\n".join(str(problem) for problem in report.problems))


def import_prompts(file: Path | str | BinaryIO, project: Project, skip_bad: bool = False) -> ImportReport:
    """Import lines of {prompt: text or messages, id?, tags?}. Raises ImportRefused."""
    return _run(_read_lines(file), project, skip_bad, _parse_prompt, _store_prompt_drafts, file_name(file))


def import_comparisons(file: Path | str | BinaryIO, project: Project, skip_bad: bool = False) -> ImportReport:
    """Import comparisons, judged or still to be judged. Raises ImportRefused.

    A line is one of {prompt, chosen, rejected, strength?, chosen_author?, rejected_author?},
    {prompt, response_a, response_b, preferred?: a, b, tie, both_bad or both_good, model_a?, model_b?} and
    {prompt, completions: [{text, author}, ...], overlap?, priority?}. Judgments that came with the data
    are those of the project's imported member; what carries none is put before the annotators.
    """
    return _run(_read_lines(file), project, skip_bad, _parse_comparison, _store_comparisons, file_name(file))


def add_prompts(project: Project, rows: list[Any]) -> ImportReport:
    """As import_prompts, from a list in memory; the report carries the prompts' ids."""
    return _run(enumerate(rows), project, False, _parse_prompt, _store_prompt_drafts, keep_ids=True)


def add_comparisons(project: Project, rows: list[Any]) -> ImportReport:
    """As import_comparisons, from a list in memory; the report carries the comparisons' ids."""
    return _run(enumerate(rows), project, False, _parse_comparison, _store_comparisons, keep_ids=True)


def import_questions(file: Path | str | BinaryIO, project: Project, by: User | None = None) -> ImportReport:
    """Import questions of the qualification round, behind those that are there: lines of
    {prompt: text or messages, answers: [text, ...], right: ["a", "tie", ...], explanation}. Raises ImportRefused.
    """

    def store(
        project: Project, questions: list[QualificationQuestion], report: ImportReport, name: str
    ) -> list[int]:
        try:
            added = add_questions(project, questions, by)
        except ValidationError as error:
            report.add_problem(Problem(name, questions[-1].line, "line", f"is too many. {error.messages[0]}"))
            return []
        report.questions_added += added
        report.present += len(questions) - added
        return [question.pk for question in questions if question.pk]

    return _run(_read_lines(file), project, False, _parse_question, store, file_name(file))


def _parse_question(project: Project, row: dict[str, Any]) -> QualificationQuestion:
    fields = ("prompt", "answers", "right", "explanation")
    for name in fields:
        if name not in row:
            raise ValidationError({name: "is missing"})
    if unknown := set(row) - set(fields):
        raise ValidationError({min(unknown): "is not a field of a question"})
    return build_question(project, *(row[name] for name in fields))


def file_name(file: Path | str | BinaryIO) -> str:
    return Path(file).name if isinstance(file, str | Path) else Path(str(getattr(file, "name", ""))).name


def _run(
    rows: Iterable[tuple[int, Any]],
    project: Project,
    skip_bad: bool,
    parse: Any,
    store: Any,
    name: str = "",
    keep_ids: bool = False,
) -> ImportReport:
    report = ImportReport()
    with transaction.atomic():
        _one_at_a_time(project)
        drafts = _parsed(rows, project, parse, report, name, stop=not skip_bad)
        while batch := list(itertools.islice(drafts, BATCH_ROWS)):
            # Once there is a bad line that stops the import, the rest is only read for more of them.
            if skip_bad or not report.bad:
                ids = store(project, batch, report, name)
                report.ids.extend(ids if keep_ids else [])
        if report.bad and not skip_bad:
            raise ImportRefused(report)
    return report


def _one_at_a_time(project: Project) -> None:
    """Wait for another import into the same project, so that what is there already can be looked up."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [LOCK_NAMESPACE, project.pk % 2**31])


# Reading


class _BadLine(Exception):
    """In place of a row: the line is not a JSON object."""


def _read_lines(file: Path | str | BinaryIO) -> Iterator[tuple[int, Any]]:
    if isinstance(file, str | Path):
        with Path(file).open("rb") as opened:
            yield from _read_lines(opened)
        return
    file.seek(0)
    for number in itertools.count(1):
        line = file.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            yield number, _BadLine(f"is longer than {MAX_LINE_BYTES // 2**20} MiB")
        elif line.strip():
            yield number, _decode(line, first=number == 1)


def _decode(line: bytes, first: bool) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError:
        return _BadLine("is not UTF-8")
    except RecursionError:
        return _BadLine("nests too deep")
    except ValueError as error:
        return _BadLine(f"is not JSON: {error}")


def _parsed(
    rows: Iterable[tuple[int, Any]], project: Project, parse: Any, report: ImportReport, name: str, stop: bool
) -> Iterator[Any]:
    """Turn rows into drafts, noting what is wrong; with `stop`, enough problems end the reading."""
    for number, row in rows:
        try:
            if isinstance(row, _BadLine):
                raise ValidationError({"line": str(row)})
            if not isinstance(row, dict):
                raise ValidationError({"line": "is not a JSON object"})
            draft = parse(project, row)
            draft.line = number
            yield draft
        except ValidationError as error:
            _note(report, error, name, number)
            if stop and report.bad >= MAX_PROBLEMS:
                return


def _note(report: ImportReport, error: ValidationError, name: str, line: int) -> None:
    for where, reasons in error.message_dict.items():
        report.add_problem(Problem(name, line, where, reasons[0]))
        return


def _parse_prompt(project: Project, row: dict[str, Any]) -> Prompt:
    if "prompt" not in row:
        raise ValidationError({"prompt": "is missing"})
    return Prompt.build(project, row["prompt"], _clean_id(row.get("id")), _clean_tags(row.get("tags")))


def _clean_id(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValidationError({"id": "must be a text or a number"})
    return _clean_name(str(value), "id")


def _clean_tags(tags: Any) -> list[str]:
    if tags is None:
        return []
    if not isinstance(tags, list) or len(tags) > MAX_TAGS:
        raise ValidationError({"tags": f"must be a list of at most {MAX_TAGS} texts"})
    return [_clean_name(tag, "tags", 100) for tag in tags]


def _clean_name(text: Any, field: str, longest: int = 200) -> str:
    text = clean_text(text, field)
    if len(text) > longest:
        raise ValidationError({field: f"may have at most {longest} characters"})
    return text


@dataclass
class Draft:
    """A comparison read from a line. ranking: positions, best first; judged if there is a verdict."""

    prompt: Prompt
    completions: list[Completion]
    verdict: str = ""
    ranking: list[list[int]] | None = None
    strength: int | None = None
    overlap: int | None = None
    priority: int = 0
    line: int = 0

    @property
    def key(self) -> str:
        """The same for lines that say the same, in whichever order the completions stand."""
        names = [[completion.author, completion.text_hash] for completion in self.completions]
        groups = self.ranking or [list(range(len(names)))]
        said = [self.verdict, self.strength, [sorted(names[place] for place in group) for group in groups]]
        return hashlib.sha256(json.dumps([self.prompt.content_hash, *said]).encode()).hexdigest()


def _parse_comparison(project: Project, row: dict[str, Any]) -> Draft:
    source = row.get("source")
    tags = row.get("tags", [source[:100]] if isinstance(source, str) and source.strip() else None)
    prompt = _parse_prompt(project, row | {"id": None, "tags": tags})
    if "completions" in row:
        draft = _parse_open(prompt, row)
    elif "chosen" in row or "rejected" in row:
        draft = _parse_chosen(prompt, row)
    elif "response_a" in row or "response_b" in row:
        draft = _parse_a_and_b(prompt, row)
    else:
        raise ValidationError({"chosen": "is missing; so are response_a and completions"})
    if draft.verdict and len({(each.author, each.text_hash) for each in draft.completions}) < 2:
        raise ValidationError({"rejected": "is the same text by the same author as the chosen one"})
    if draft.ranking and len({each.text_hash for each in draft.completions}) < 2:
        raise ValidationError(
            {"rejected": "is the same text as the chosen one; only a tie can be said of the two"}
        )
    return draft


def _parse_open(prompt: Prompt, row: dict[str, Any]) -> Draft:
    given = row["completions"]
    if not isinstance(given, list) or not MIN_CANDIDATES <= len(given) <= MAX_CANDIDATES:
        raise ValidationError({"completions": f"must be a list of {MIN_CANDIDATES} to {MAX_CANDIDATES}"})
    for each in given:
        if not isinstance(each, dict) or "text" not in each:
            raise ValidationError({"completions": "must each have a text and may have an author"})
    completions = [_completion(prompt, each, "text", "author") for each in given]
    if len({same_text(completion.text) for completion in completions}) < len(completions):
        raise ValidationError({"completions": "must differ; equal texts teach nothing"})
    overlap = _clean_number(row, "overlap", 1, 100)
    priority = _clean_number(row, "priority", -32_768, 32_767) or 0
    return Draft(prompt, completions, overlap=overlap, priority=priority)


def _parse_chosen(prompt: Prompt, row: dict[str, Any]) -> Draft:
    completions = [
        _completion(prompt, row, "chosen", "chosen_author"),
        _completion(prompt, row, "rejected", "rejected_author"),
    ]
    tie, both_bad, both_good = (_clean_flag(row, name) for name in ("tie", "both_bad", "both_good"))
    if both_bad and both_good:
        raise ValidationError({"both_good": "cannot be said of what is both_bad"})
    verdict = ALL_BAD if both_bad else ALL_GOOD if both_good else TIE if tie else PREFERRED
    if tie:
        return Draft(prompt, completions, verdict)
    strength = _clean_number(row, "strength", 1, 3)
    return Draft(prompt, completions, verdict, [[0], [1]], strength)


def _parse_a_and_b(prompt: Prompt, row: dict[str, Any]) -> Draft:
    completions = [
        _completion(prompt, row, "response_a", "model_a"),
        _completion(prompt, row, "response_b", "model_b"),
    ]
    preferred = row.get("preferred")
    if preferred is None:
        return Draft(prompt, completions)
    level = {"tie": TIE, "both_bad": ALL_BAD, "both_good": ALL_GOOD}
    if preferred not in ("a", "b", *level):
        raise ValidationError({"preferred": "must be a, b, tie, both_bad or both_good"})
    if preferred in level:
        return Draft(prompt, completions, level[preferred])
    ranking = [[0], [1]] if preferred == "a" else [[1], [0]]
    return Draft(prompt, completions, PREFERRED, ranking, _clean_number(row, "strength", 1, 3))


def _completion(prompt: Prompt, row: dict[str, Any], text_field: str, author_field: str) -> Completion:
    if text_field not in row:
        raise ValidationError({text_field: "is missing"})
    author = row.get(author_field)
    author = _clean_name(author, author_field) if author not in (None, "") else UNKNOWN_AUTHOR
    return Completion.build(prompt, row[text_field], author, text_field)


def _clean_flag(row: dict[str, Any], name: str) -> bool:
    value = row.get(name, False)
    if not isinstance(value, bool):
        raise ValidationError({name: "must be true or false"})
    return value


def _clean_number(row: dict[str, Any], name: str, least: int, most: int) -> int | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValidationError({name: f"must be a whole number from {least} to {most}"})
    return value


# Storing


def _store_prompt_drafts(
    project: Project, prompts: list[Prompt], report: ImportReport, name: str
) -> list[int]:
    _refuse_taken_ids(project, prompts, report, name)
    before = report.prompts_added
    stored = _store_prompts(project, prompts, report)
    report.present += len(prompts) - (report.prompts_added - before)
    return [stored[prompt.content_hash] for prompt in prompts]


def _refuse_taken_ids(project: Project, prompts: list[Prompt], report: ImportReport, name: str) -> None:
    """Take out the prompts whose id already names another prompt, here or earlier in the batch."""
    wanted = {prompt.external_id for prompt in prompts if prompt.external_id}
    rows = Prompt.objects.filter(project=project, external_id__in=wanted)
    owners = dict(rows.values_list("external_id", "content_hash"))
    for prompt in list(prompts):
        fingerprint = prompt.content_hash
        if prompt.external_id and owners.setdefault(prompt.external_id, fingerprint) != fingerprint:
            prompts.remove(prompt)
            reason = f"{prompt.external_id} already names another prompt of this project"
            report.add_problem(Problem(name, prompt.line, "id", reason))


def _store_prompts(project: Project, prompts: Iterable[Prompt], report: ImportReport) -> dict[str, int]:
    """Store those that are new. Returns the id of each by its content hash."""
    fresh = {prompt.content_hash: prompt for prompt in reversed(list(prompts))}
    stored = _prompt_ids(project, fresh)
    missing = [prompt for fingerprint, prompt in fresh.items() if fingerprint not in stored]
    missing.reverse()
    Prompt.objects.bulk_create(missing, ignore_conflicts=True)
    report.prompts_added += len(missing)
    return _prompt_ids(project, fresh) if missing else stored


def _prompt_ids(project: Project, fingerprints: Iterable[str]) -> dict[str, int]:
    rows = Prompt.objects.filter(project=project, content_hash__in=list(fingerprints))
    return dict(rows.values_list("content_hash", "id"))


def _store_comparisons(project: Project, drafts: list[Draft], report: ImportReport, name: str) -> list[int]:
    keys = [draft.key for draft in drafts]
    known = _comparison_ids(project, keys)
    fresh = {key: draft for key, draft in zip(keys, drafts, strict=True) if key not in known}
    report.present += len(drafts) - len(fresh)
    report.comparisons_added += len(fresh)
    prompt_ids = _store_prompts(project, [draft.prompt for draft in drafts], report)
    for draft in fresh.values():
        draft.prompt.pk = prompt_ids[draft.prompt.content_hash]
    _store_completions(list(fresh.values()))
    now = timezone.now()
    comparisons = Comparison.objects.bulk_create(
        Comparison(
            project=project,
            prompt_id=draft.prompt.pk,
            overlap=1 if draft.verdict else draft.overlap or project.overlap,
            priority=draft.priority,
            import_key=key,
            closed_at=now if draft.verdict else None,
        )
        for key, draft in fresh.items()
    )
    Candidate.objects.bulk_create(
        Candidate(comparison=comparison, completion_id=completion.pk, position=position)
        for comparison, draft in zip(comparisons, fresh.values(), strict=True)
        for position, completion in enumerate(draft.completions)
    )
    judged = [pair for pair in zip(comparisons, fresh.values(), strict=True) if pair[1].verdict]
    _store_judgments(project, judged)
    report.judgments_added += len(judged)
    known |= {comparison.import_key: comparison.pk for comparison in comparisons}
    return [known[key] for key in keys]


def _comparison_ids(project: Project, keys: list[str]) -> dict[str, int]:
    rows = Comparison.objects.filter(project=project, import_key__in=keys)
    return dict(rows.values_list("import_key", "id"))


def _store_completions(drafts: list[Draft]) -> None:
    """Store the completions that are new and give all of them the ids that they have."""
    completions = [completion for draft in drafts for completion in draft.completions]
    for draft in drafts:
        for completion in draft.completions:
            completion.prompt_id = draft.prompt.pk
    Completion.objects.bulk_create(completions, ignore_conflicts=True)
    rows = Completion.objects.filter(
        prompt_id__in={completion.prompt_id for completion in completions},
        text_hash__in={completion.text_hash for completion in completions},
    )
    ids = {
        (prompt, author, digest): pk
        for pk, prompt, author, digest in rows.values_list("id", "prompt_id", "author", "text_hash")
    }
    for completion in completions:
        completion.pk = ids[completion.prompt_id, completion.author, completion.text_hash]


def _store_judgments(project: Project, judged: list[tuple[Comparison, Draft]]) -> None:
    if not judged:
        return
    annotator = imported_member(project).user
    now = timezone.now()
    assignments = Assignment.objects.bulk_create(
        Assignment(
            comparison=comparison,
            annotator=annotator,
            slot=0,
            sides=list(range(len(draft.completions))),
            leased_until=now,
            outcome=Assignment.Outcome.JUDGED,
            outcome_at=now,
        )
        for comparison, draft in judged
    )
    judgments = Judgment.objects.bulk_create(
        _judgment(assignment, draft, annotator)
        for assignment, (_, draft) in zip(assignments, judged, strict=True)
    )
    Preference.objects.bulk_create(
        preference
        for judgment, (_, draft) in zip(judgments, judged, strict=True)
        for preference in build_preferences(
            judgment, project, draft.prompt.pk, [completion.pk for completion in draft.completions]
        )
    )


def _judgment(assignment: Assignment, draft: Draft, annotator: User) -> Judgment:
    return Judgment(
        assignment=assignment,
        comparison=assignment.comparison,
        annotator=annotator,
        verdict=draft.verdict,
        ranking=draft.ranking,
        strength=draft.strength,
        client_key=uuid.uuid4(),
    )

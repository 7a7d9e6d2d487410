from labeling.imports import ImportReport, import_comparisons
from labeling.management.commands._importing import ImportCommand


class Command(ImportCommand):
    help = (
        "Import comparisons, judged or not: lines of {prompt, chosen, rejected, strength?}, of {prompt, "
        "response_a, response_b, preferred, model_a?, model_b?} or of {prompt, completions: [{text, "
        "author}]}. Importing twice adds nothing."
    )
    act = staticmethod(import_comparisons)

    def summary(self, report: ImportReport) -> str:
        return (
            f"Comparisons added: {report.comparisons_added}, judgments: {report.judgments_added}, "
            f"prompts: {report.prompts_added}; there before: {report.present}; bad lines: {report.bad}."
        )

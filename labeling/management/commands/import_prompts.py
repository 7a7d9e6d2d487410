from labeling.imports import ImportReport, import_prompts
from labeling.management.commands._importing import ImportCommand


class Command(ImportCommand):
    help = "Import prompts: lines of {prompt: text or messages, id?, tags?}. Importing twice adds nothing."
    act = staticmethod(import_prompts)

    def summary(self, report: ImportReport) -> str:
        return (
            f"Prompts added: {report.prompts_added}; there before: {report.present}; bad lines: {report.bad}."
        )

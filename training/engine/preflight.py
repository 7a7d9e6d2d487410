"""What can be found wrong with models and data in seconds, from tokenizers, configs and rows, before any weights
are loaded. Each complaint names the setting, or the file and line.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from training.engine.config import FILE_FIELDS, EngineError, Settings, models_of
from training.engine.loading import check_context, context_of, end_tokens_of, load_tokenizer
from training.engine.records import PromptRecord, read_records


@dataclass(frozen=True)
class _Reader:
    """A model, as far as prompts must fit it."""

    source: str
    tokenizer: PreTrainedTokenizerBase
    context: int  # tokens

    def check(self, record: PromptRecord) -> None:
        """Raise ValueError for a prompt that the model could never read, however little is said after it."""
        text = record.text
        if len(text.encode()) <= self.context:
            return  # A token is a byte at the least, so nothing needs counting.
        count = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if count >= self.context:
            raise ValueError(
                f"prompt: has {count} tokens, but {self.source} reads no more than {self.context} at once"
            )


def check_inputs(config: Settings) -> None:
    """Raise EngineError for a model without a usable tokenizer, or rows that are none or do not fit."""
    readers = []
    for name, source in models_of(config).items():
        try:
            tokenizer = load_tokenizer(source)
            end_tokens_of(source, tokenizer)
            check_context(source, config)
        except EngineError as error:
            raise EngineError(f"{name}: {error}") from error
        if config.long_prompts == "refuse" and (context := context_of(source)):
            readers.append(_Reader(source, tokenizer, context))

    def check(record: PromptRecord) -> None:
        for reader in readers:
            reader.check(record)

    for name in FILE_FIELDS:
        if path := getattr(config, name, None):
            read_records(path, PromptRecord, check)

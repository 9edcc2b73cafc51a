"""Question-answer pairs made by a language model, each checked before it is kept: from a knowledge base, or from notes.

What was kept is on disk at once, so an interrupted run goes on where it stopped; the budget counts what all sittings cost.
"""

from finetune.synthesis.grounded import from_knowledge_base
from finetune.synthesis.notes import from_notes, read_notes
from finetune.synthesis.run import SynthesisOptions, SynthesisReport

__all__ = ["SynthesisOptions", "SynthesisReport", "from_knowledge_base", "from_notes", "read_notes"]

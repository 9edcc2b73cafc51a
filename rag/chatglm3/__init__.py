"""ChatGLM3 as a native `GlmForCausalLM`: fetch, convert, verify, tokenize, load, generate. No remote code.

What to read, in the order in which a model comes into use:

    pull.py          hub -> a folder in the official layout (resumable, checked)
    shape.py         the numbers of a model, read from an official or a native config.json
    names.py         official tensor names <-> native tensor names
    convert.py       official folder -> standard folder (AutoModelForCausalLM and AutoTokenizer load it)
    verify.py        the proof that a converted folder is right
    export.py        standard folder -> official layout, for llama.cpp and old tools
    import_adapter.py  old LoRA and P-tuning v2 checkpoints -> PEFT adapters
    chat.py          messages -> ids and loss mask, the one prompt encoder for training and answering
    base.py          which base an adapter belongs to; adapters.py: what an adapter folder says, whether it does anything
    memory.py        what will be needed and what the device has
    load.py          standard folder (+ adapters) -> a model on a device, with its memory plan said first
    engine/          many requests at once -> streamed tokens

Imports only `kb.errors` and `rag.types` of ours.
"""

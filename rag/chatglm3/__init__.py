"""ChatGLM3 as a native GlmForCausalLM: convert, verify, tokenize, load, generate. Imports only kb.errors."""

"""A question to an answer with citations; owns the ChatGLM3 model. Imports kb."""

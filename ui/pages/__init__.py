"""The pages: what a person sees. Logic is in `ui`, `rag` and `kb`; nothing here searches or writes prompts."""

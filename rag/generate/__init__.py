"""What writes answers: every module here has one kind of `rag.types.Generator`, or serves any of them.

openai_client.py   a model behind an OpenAI-compatible server (vLLM, llama.cpp, transformers serve, a commercial API)
openai_server.py   the other side: any generator as such a server
"""

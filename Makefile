# make demo | make test | make check | make ui | make bench | make test-gpu | make bench-gpu | make clean
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_KB ?= demo
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test check bench bench-gpu test-gpu ui clean browser python

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ...  需要 Python 3.11 以上"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "Python's venv is missing; on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.base: pyproject.toml constraints.txt | python
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ocr]'
	@# opencv wants the libraries of a desktop; where they are missing its headless build takes its place.
	@$(BIN)/python -c 'import cv2' 2>/dev/null || $(BIN)/python -m pip install -q -c constraints.txt \
	  --force-reinstall --no-deps opencv-python-headless
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ocr,test]'
	@# The kernels' tests run in Triton's interpreter where there is no GPU; where there is one, PyTorch has brought Triton.
	@$(BIN)/python -c 'import triton' 2>/dev/null || test "$$(uname -sm)" != 'Linux x86_64' || \
	  $(BIN)/python -m pip install -q triton==3.7.1
	@touch $@

demo: $(VENV)/.base
	@# --move: an earlier clone may have made the knowledge base of that name from the same documents elsewhere.
	$(BIN)/zhiwen index data/docs --kb $(DEMO_KB) --move
	@echo; echo '$$ zhiwen ask 入职满五年的员工年休假有几天？'
	@$(BIN)/zhiwen ask --kb $(DEMO_KB) 入职满五年的员工年休假有几天？
	@echo; echo '$$ zhiwen ask "How long is the dispenser covered by the warranty?"'
	@$(BIN)/zhiwen ask --kb $(DEMO_KB) "How long is the dispenser covered by the warranty?"
	@echo; echo '$$ zhiwen ask 光合作用的化学方程式是什么？'
	@$(BIN)/zhiwen ask --kb $(DEMO_KB) 光合作用的化学方程式是什么？
	@echo
	@echo '接下来 / Next:'
	@echo '  网页界面 / web pages:      make ui      ($(BIN)/zhiwen ui)'
	@echo '  自己的文档 / your own:     $(BIN)/zhiwen index 文件夹 && $(BIN)/zhiwen ask 问题'
	@echo '  换用 text2vec / text2vec:  HF_HUB_OFFLINE=0 $(BIN)/zhiwen models pull text2vec-base-chinese'
	@echo '                             $(BIN)/zhiwen index data/docs --kb demo-text2vec'
	@echo '  启用 ChatGLM3 / ChatGLM3:  HF_HUB_OFFLINE=0 $(BIN)/zhiwen models pull chatglm3-6b'
	@echo '                             见 / see docs/switch-models.md'

ui: $(VENV)/.base
	$(BIN)/zhiwen ui

test: $(VENV)/.test browser
	$(BIN)/python -m pytest -m "not gpu" -n 2

check: $(VENV)/.test
	$(BIN)/ruff format --check kb rag finetune ui tests data
	$(BIN)/ruff check kb rag finetune ui tests data
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow and not gpu and not browser" -n 2

test-gpu: $(VENV)/.test
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m pytest tests/test_rag_chatglm3_kernels.py tests/test_finetune_kernels.py tests/test_finetune_triton.py

# One after the other: two at once would measure each other. Those that need a GPU are apart.
GPU_BENCHES := decode training preference ppo two_gpus
BENCH_WORK ?= build/bench
DAY := $(shell date +%F)

bench: $(VENV)/.test
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ocr,test,bench]'
	@failed=''; for file in $$(ls tests/bench/*.py 2>/dev/null | grep -v -e '/_' $(GPU_BENCHES:%=-e '/%.py')); do \
	  echo "== $$file"; more=''; case $$file in *convert_big.py) more="--work $(BENCH_WORK)/convert";; esac; \
	  PYTHONPATH=. $(BIN)/python $$file $$more || failed="$$failed $$file"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# ChatGLM3-6B's shape with random weights (12.5 GB, written once); two_gpus needs two.
bench-gpu: $(VENV)/.test
	$(BIN)/python tests/bench/decode.py --work $(BENCH_WORK)
	@failed=''; for name in training preference two_gpus; do echo "== $$name"; \
	  $(BIN)/python -m tests.bench.$$name --folder $(BENCH_WORK)/big --out tests/bench/results/$$name-$(DAY).json || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }
	$(BIN)/python -m tests.bench.ppo --work $(BENCH_WORK) --out tests/bench/results/ppo-$(DAY).json

# Tests in a real browser need chromium and a Chinese font; where neither is nor may be installed they are skipped.
browser:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium fonts-wqy-microhei >/dev/null; } \
	    || echo 'chromium could not be installed: the browser tests are skipped'; \
	else echo 'chromium is not here: the browser tests are skipped (Debian: apt-get install chromium fonts-wqy-microhei)'; fi

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache *.egg-info

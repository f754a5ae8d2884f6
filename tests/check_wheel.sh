#!/usr/bin/env bash
# Install a wheel where only numpy is, then use it: `import depo` works, loads no torch, and samples. The wheel is below 5 MB.
set -euo pipefail
wheel=$(realpath "$1")
size=$(stat -c %s "$wheel")
test "$size" -lt 5000000 || { echo "$wheel: got $size bytes, expected below 5000000"; exit 1; }
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
"${PYTHON:-python3}" -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --disable-pip-version-check "$wheel"
readme=$(cd "$(dirname "$0")/.." && pwd)/README.md
cd "$room"
awk '/^```python$/ { block = 1; next } /^```$/ { if (block) exit } block' "$readme" > readme.py
PATH=/usr/bin:/bin "$room/venv/bin/python" readme.py | grep -q "groups informative"
PATH=/usr/bin:/bin "$room/venv/bin/python" - <<'PY'
import sys

import depo

assert "torch" not in sys.modules
sampler = depo.PromptSampler([f"prompt {i}" for i in range(100)], group_size=4, seed=1)
draws = sampler.sample(8, policy_version=0)
verdicts = sampler.observe(draws, [[0, 1, 0, 1]] * 8, policy_version=0)
assert len(draws) == 8 and all(verdict.informative for verdict in verdicts)
PY
PATH=/usr/bin:/bin "$room/venv/bin/depo" --version
echo "$(basename "$wheel"): $size bytes; imports and runs the README's first block with numpy alone"

"""The process that searches lines for patterns, as their reader sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from ablate.tasks import pattern_search

Found = Sequence[tuple[str | None, str | int]]  # (group, text), or (None, index of a pattern that took too long)


class PatternProcess:
    """Searches texts for patterns. The process starts with the first text."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = patterns
        self._process: subprocess.Popen[bytes] | None = None

    def search(self, texts: Sequence[str]) -> Sequence[Found]:
        """What each text holds. Raises `OSError` if the process has died or cannot be started."""
        requests = [texts]
        if self._process is None:
            requests.insert(0, self.patterns)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", pattern_search.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the driver
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        for request in requests:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer.endswith(b"\n"):
            raise BrokenPipeError
        found: Sequence[Found] = json.loads(answer)
        return found

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

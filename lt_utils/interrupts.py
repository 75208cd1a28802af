"""Ctrl-C, and the interrupt button of JupyterLab, at a moment when everything is whole."""

import signal
import threading
from typing import Self


class FinishStep:
    """Holds Ctrl-C back until the step that is running is complete, so that what is saved is whole.

    A second Ctrl-C interrupts at once: a step that hangs must not hold the learner.
    """

    def __enter__(self) -> Self:
        self.asked = False
        # Signals can be handled in the main thread only. A handler of None was not set by Python and could not be put
        # back; SIG_IGN means that Ctrl-C is not for this process (it runs in the background). Both stay as they are.
        main = threading.current_thread() is threading.main_thread()
        self.before = signal.getsignal(signal.SIGINT) if main else None
        self.held = self.before not in (None, signal.SIG_IGN)
        if self.held:
            signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt("stopped in the middle of a step; run again to go on from the last checkpoint")
        self.asked = True

    def __exit__(self, *_: object) -> None:
        if self.held:
            signal.signal(signal.SIGINT, self.before)

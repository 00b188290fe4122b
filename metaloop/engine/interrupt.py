"""Ctrl-C between steps instead of within one."""

import signal
import threading


class Interrupt:
    """While entered, a first Ctrl-C only sets `asked`; a second one is raised where it strikes."""

    asked = False

    def __enter__(self) -> "Interrupt":
        self.in_charge = threading.current_thread() is threading.main_thread()
        if self.in_charge:  # signals reach no other thread
            self.before = signal.signal(signal.SIGINT, self._hold) or signal.default_int_handler
        return self

    def __exit__(self, *_) -> None:
        if self.in_charge:
            signal.signal(signal.SIGINT, self.before)

    def _hold(self, number, frame) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self.before)

"""Ctrl-C, and SIGTERM, by which batch systems end a job, between steps instead of within one."""

import signal
import threading


class Interrupt:
    """While entered, a first Ctrl-C or SIGTERM only sets `asked`; a second one acts where it strikes.

    many: this is one of many processes, which stop at the same step or not at all. Each has `heard` one, such as the
    SIGTERM by which torchrun ends them, for itself; `asked` is what they have `agreed` on. None is raised where it
    strikes, not even after an error: torchrun kills whoever does not end in time.
    """

    def __init__(self, many: bool = False):
        self.many, self.heard, self.agreed = many, False, False
        self.signals = (signal.SIGINT, signal.SIGTERM)

    @property
    def asked(self) -> bool:
        return self.agreed if self.many else self.heard

    def __enter__(self) -> "Interrupt":
        self.in_charge = threading.current_thread() is threading.main_thread()
        if self.in_charge:  # signals reach no other thread
            self.before = {number: signal.signal(number, self._hold) for number in self.signals}
        return self

    def __exit__(self, error, *_) -> None:
        if self.in_charge and not (self.many and error):
            self._release()

    def _hold(self, number, frame) -> None:
        self.heard = True
        if not self.many:
            self._release()

    def _release(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python

"""Signals and runs that go nowhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from macejax.train.guard import NonFiniteError, check_finite, stop_on_signal


def test_the_error_names_the_frames():
    check_finite(4, 5, ["a.xyz:frame 1"])
    with pytest.raises(NonFiniteError, match=r"5 training steps in a row.*a.xyz:frame 1, a.xyz:frame 2\. Look"):
        check_finite(5, 5, ["a.xyz:frame 1", "a.xyz:frame 2"])
    with pytest.raises(NonFiniteError, match="frame 7 and 12 more"):
        check_finite(9, 5, [f"frame {i}" for i in range(20)])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_a_flag_and_the_handlers_come_back(number):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)]
    with stop_on_signal() as stop:
        assert stop() is None
        os.kill(os.getpid(), number)
        assert stop() == number.name
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == before
    with pytest.raises(KeyError), stop_on_signal():
        raise KeyError
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_the_second_signal_acts_at_once_with_the_original_handler():
    seen = []
    original = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == [] and stop() == "SIGTERM"
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, original)


@pytest.mark.multiprocess
def test_the_second_signal_kills_a_process_that_does_not_listen():
    script = (
        "import os, signal\n"
        "from macejax.train.guard import stop_on_signal\n"
        "with stop_on_signal() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print(stop(), flush=True); os.kill(os.getpid(), signal.SIGUSR1); print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "SIGTERM\n" and done.returncode == -signal.SIGUSR1, done.stderr


def test_outside_of_the_main_thread_there_is_no_handler():
    answers = []

    def work():
        with stop_on_signal() as stop:
            answers.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [None]

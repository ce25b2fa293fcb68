"""Send the state of the process to systemd (sd_notify(3))."""

import os
import socket

PATIENCE_S = 0.5  # callers are in the event loop; systemd's queue is short


def notify(state: str) -> None:
    """Send a state such as `READY=1` to the service manager.

    Does nothing if there is no service manager, or if it does not take the state.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            return  # systemd is busy or restarting; the next state will reach it


def watchdog_interval() -> float | None:
    """Return after how many seconds to feed the watchdog: half of WatchdogSec=.

    None if the unit has no watchdog, or it watches another process.
    """
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or int(microseconds) == 0:
        return None
    pid = os.environ.get("WATCHDOG_PID")
    if pid and pid != str(os.getpid()):
        return None
    return int(microseconds) / 1e6 / 2

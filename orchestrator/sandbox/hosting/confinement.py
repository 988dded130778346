"""What a model's process may do. A model is somebody else's code, and runs with this user's rights.

On Linux a process gives up, for itself and all that it starts, before it loads the model:

    files      Landlock: it reads the system's libraries, Python and its own model, and writes where
               it is told to; nothing else of this user's is there for it
    network    seccomp: no socket but the one it listens on, no connection to anything (SageMaker's
               network isolation); Landlock: none over TCP
    processes  Landlock: it signals and looks into none but its own
    privileges none are left to it, not even root's, and none can be gained by running a program
    limits     memory, the size of a file, no core dumps; the kernel ends it first when memory is out

No privilege is needed for this. Where the kernel has no Landlock (before 5.13, macOS) `in_force` says
what is missing.

Source: Linux's documentation, "Landlock: unprivileged access control" and "Seccomp BPF";
linux/landlock.h, linux/seccomp.h.
"""

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FILE_BYTES = 1 << 30  # of any file it writes: a log, a file of captured records
MEMORY_SHARE = 0.75  # of the machine's
OOM_SCORE = 500

# linux/landlock.h; the numbers of its system calls are the same everywhere.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO = 1 << 7, 1 << 8, 1 << 9, 1 << 10
TRUNCATE = 1 << 14
KNOWN_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # of file access, by the version of Landlock
BELOW_PATH, BY_PORT, CONNECT = 1, 2, 0b10  # kinds of rules; a right to a port
TCP, SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals
TCP_SINCE, SCOPES_SINCE = 4, 6

READ = EXECUTE | READ_FILE | READ_DIR
# A spool takes plain files only: whoever empties it must not be led elsewhere, or kept waiting.
SPOOL = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | MAKE_REG | REMOVE_FILE
WORK = SPOOL | READ | MAKE_DIR | REMOVE_DIR | MAKE_SOCK | MAKE_FIFO
ON_FILES = EXECUTE | READ_FILE | WRITE_FILE | TRUNCATE

SYSTEM = (
    "/usr", "/lib", "/lib64", "/bin", "/System", "/Library", "/proc", "/sys/devices/system", "/sys/fs/cgroup",
    "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/passwd",
    "/etc/group", "/etc/ssl", "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip

# System calls by machine: connect, socket, io_uring_setup; and linux/audit.h's number for it.
CALLS = {
    "x86_64": (0xC000003E, 42, 41, 425),
    "aarch64": (0xC00000B7, 203, 198, 425),
}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAPBSET_DROP = 38, 22, 24
SECCOMP_FILTER = 2
CAPABILITY_VERSION = 0x20080522  # linux/capability.h


def in_force() -> dict[str, bool]:
    """What a process can be kept from here, by kind."""
    version = _landlock_version()
    return {
        "files": version > 0,
        "network": version >= TCP_SINCE or (_is_linux() and platform.machine() in CALLS),
        "processes": version >= SCOPES_SINCE,
    }


def confine(
    rules: dict[str | Path, int], memory: int | None = None, file: int = FILE_BYTES,
    ports: tuple[int, ...] = (),
) -> None:  # fmt: skip
    """Give up all that is not allowed. `rules` are the rights below a path beside those to read what
    Python needs; `memory`, and how long a `file` may be, are in bytes; `ports` are those that it may
    connect to over TCP, from Linux 6.7 on no others."""
    _limit(memory or int(_machine_memory() * MEMORY_SHARE), file)
    if not _is_linux():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    _drop_capabilities(libc)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Where Python looks, but for the checkout: that has the user's data, too.
    python = {*sys.path, sys.prefix, sys.base_prefix, sys.exec_prefix} - {"", str(ROOT)}
    python = {os.path.realpath(path) for path in (*python, ROOT / "orchestrator")}
    readable = dict.fromkeys((*SYSTEM, *python), READ)
    _landlock(libc, {**readable, os.devnull: ON_FILES, **rules}, ports)
    if not ports:
        _no_network(libc)


def _is_linux() -> bool:
    return sys.platform == "linux"


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limit(memory: int, file: int) -> None:
    for kind, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_DATA, memory),
    ):
        _, hard = resource.getrlimit(kind)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS has them not all
            resource.setrlimit(kind, (limit, limit))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _drop_capabilities(libc) -> None:
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    libc.capset(struct.pack("Ii", CAPABILITY_VERSION, 0), bytes(24))


# -- Landlock -------------------------------------------------------------------------


def _landlock_version() -> int:
    """0 where there is none."""
    if not _is_linux():
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1))


def _landlock(libc, rules: dict[str | Path, int], ports: tuple[int, ...]) -> None:
    version = _landlock_version()
    if not version:
        return
    known = (1 << KNOWN_BITS.get(version, 16)) - 1
    attributes = struct.pack(
        "QQQ", known, TCP if version >= TCP_SINCE else 0, SCOPES if version >= SCOPES_SINCE else 0
    )
    size = 8 if version < TCP_SINCE else 16 if version < SCOPES_SINCE else 24
    ruleset = _checked(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), 0))
    for path, rights in rules.items():
        _allow(libc, ruleset, path, rights & known)
    for port in ports if version >= TCP_SINCE else ():
        rule = struct.pack("QQ", CONNECT, port)
        _checked(libc.syscall(ADD_RULE, ruleset, BY_PORT, rule, 0))
    _checked(libc.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _allow(libc, ruleset: int, path: str | Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= ON_FILES
    try:
        rule = struct.pack("=Qi", rights, place)
        _checked(libc.syscall(ADD_RULE, ruleset, BELOW_PATH, rule, 0))
    finally:
        os.close(place)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the process cannot be confined: {os.strerror(number)}")
    return result


# -- seccomp --------------------------------------------------------------------------


def _no_network(libc) -> None:
    """Sockets are refused but for those between a process's own parts, and connections to anything:
    a path is enough to reach another process's socket, which Landlock does not see to."""
    if platform.machine() not in CALLS:
        return
    architecture, connect, socket_, io_uring = CALLS[platform.machine()]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    allow, kill, refuse, absent = 0x7FFF0000, 0x80000000, 0x0005000D, 0x00050026
    program = [  # code, jump when true, jump when false, value; offsets of linux/seccomp.h
        (load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill),
        (load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (give, 0, 0, absent),
        (equal, 0, 1, io_uring), (give, 0, 0, absent),
        (equal, 0, 1, connect), (give, 0, 0, refuse),
        (equal, 0, 3, socket_), (load, 0, 0, 16), (equal, 1, 0, 1), (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]  # fmt: skip
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    _checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_FILTER, filter_, 0, 0))

"""Children for the tests of the relay: snippets of Python that run in front of a test's own script."""

from contract.model import FORKS

# `Child(serve)` forks; `serve` names what the child answers to, and the child's own end is at the script's end.
CHILDREN = (
    FORKS
    + """
import json, os, signal, socket, sys, time, traceback
import snapring

family = []

class Child:
    def __init__(self, make, *arguments):
        self.mine, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.mine.close()
            for other in family:  # so that each sees the end of the script
                other.answers.close()
                other.mine.close()
            try:
                answer_all(theirs, make(*arguments))
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        theirs.close()
        self.answers = self.mine.makefile("r")
        family.append(self)

    def ask(self, name, *arguments):
        self.mine.sendall(json.dumps([name, arguments]).encode() + b"\\n")
        return self.answer()

    def answer(self):
        text = self.answers.readline()
        if not text:
            raise SystemExit(f"child {self.pid} ended")
        return json.loads(text)

    def send(self, number):
        os.kill(self.pid, number)

    def stop(self):
        self.send(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)  # a signal acts later than it is sent

    def end(self):
        self.send(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.answers.close()
        self.mine.close()
        family.remove(self)

def end_all():
    for child in list(family):
        child.end()

def answer_all(theirs, abilities):
    for text in theirs.makefile("r"):
        name, arguments = json.loads(text)
        theirs.sendall(json.dumps(abilities[name](*arguments)).encode() + b"\\n")

def until(predicate, seconds=60.0, pause=0.0005):
    end = time.monotonic() + seconds
    while not (value := predicate()):
        if time.monotonic() > end:
            raise SystemExit(f"line {sys._getframe(1).f_lineno}: not within {seconds} s")
        time.sleep(pause)
    return value
"""
)

# A relay in a child, and writers that publish the moment of each publish, without a pause longer than a millisecond.
RELAYS = (
    CHILDREN
    + """
import struct, threading

MOMENT = struct.Struct("<qq")  # number of the publish, monotonic ns

def relay(endpoint, ranks, options=None):
    one = snapring.Relay("main", endpoint, ranks=ranks, schema=bytes, payload=MOMENT.size, cells=64, **(options or {}))
    return {
        "state": lambda: [one.is_owner, one.term],
        "endpoint": lambda: one.endpoint,
        "stats": one.stats,
        "error": lambda: one.last_error,
        "busy": burn,
        "close": one.close,
    }

def burn(seconds):
    sys.setswitchinterval(1000)  # nobody else gets the interpreter
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    sys.setswitchinterval(0.005)
    return True

def writers(endpoint, ranks, pause=0.001):
    insecure = endpoint.startswith("tcp")
    ones = [snapring.RemoteWriter(endpoint, rank, ranks, schema=bytes, payload=MOMENT.size, insecure=insecure)
            for rank in range(ranks)]
    counts = [0] * ranks

    def publish():
        while True:
            for rank, one in enumerate(ones):
                counts[rank] += 1
                one.publish(MOMENT.pack(counts[rank], time.monotonic_ns()))
            time.sleep(pause)

    threading.Thread(target=publish, daemon=True).start()
    return {
        "counts": lambda: counts,
        "connected": lambda: all(one.is_connected for one in ones),
        "stats": lambda: [one.stats() for one in ones],
    }

def newest(reader, rank):
    snap = reader.read(rank)
    return (0, 0) if snap is None else MOMENT.unpack(snap.value)

def check_history(reader, rank):
    '''One writer's publishes stay in order, whoever owned; a new owner repeats the newest one under its own epoch.'''
    rows = [MOMENT.unpack(value) for value in reader.history(rank, last=63)]
    if rows != sorted(rows):
        raise SystemExit(f"rank {rank}: {rows}")
"""
)

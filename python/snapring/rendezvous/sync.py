"""One value from rank 0 to all ranks: a port, an endpoint, a public key that nobody configured."""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar, cast

from snapring.errors import RendezvousFailed, RendezvousTimeout
from snapring.rendezvous import agreement
from snapring.rendezvous.entry import OwnEntry
from snapring.rendezvous.group import Group, check_name
from snapring.rendezvous.patience import Patience
from snapring.rendezvous.records import Answer, Member, Offer, Taken, Verdict, decode, pack, shown, unpack

__all__ = ["sync_from_leader"]

LINGER_S: Final = 60.0
"""How long entries outlast the deadline, so that whoever comes late reads why."""

FAREWELL_S: Final = 0.5
"""What a rank whose deadline has passed may still spend on learning and telling who is missing, seconds."""

LEADER: Final = 0

_LOG: Final = logging.getLogger("snapring.rendezvous")

T = TypeVar("T")


def sync_from_leader(
    value: T,
    group: Group,
    timeout: float,
    *,
    name: str = "value",
    verify: Callable[[T, float], bool] | None = None,
    elsewhere: Callable[[float], T | None] | None = None,
) -> T:
    """The leader's value, on every rank; rank 0 gives it, the others' own value counts for nothing.

    Every rank must call it, in any order, within ``timeout`` seconds of each other; a rank that restarts meanwhile just
    calls it again. It is all or nothing: nobody returns before all ranks have answered this very leader, and the leader
    returns when all have taken the value. With one rank the value comes back at once, without any communication.

    A rank that restarts *after* the sync cannot ask again; let it look for rank 0's row, see
    :func:`snapring.rendezvous.rows`.

    Args:
        value: bytes, or what JSON can carry unchanged; at most 64 KiB. All ranks give the same type.
        group: the ranks and their store.
        timeout: seconds, > 0, until this rank gives up; it ends within a second after that.
        name: tells several syncs of one job apart, 1 to 59 of ``[A-Za-z0-9._-]``.
        verify: followers call it with the leader's value and the seconds that are left, and fail where it is false or
            raises OSError: :func:`~snapring.rendezvous.listener_answers` fits. It should keep to that time.
        elsewhere: followers call it with the seconds that are left, first and again before each look for the leader,
            and return at once what it gives unless that is None; what it raises ends the call. For a value that
            somebody may also have left where no leader comes any more. It should return soon.

    A follower whose own value differs logs both at INFO under ``snapring.rendezvous``.

    Raises:
        RendezvousTimeout: not all ranks came in time; names the store, the ranks and the last error.
        RendezvousFailed: two leaders, two processes of one rank, other sizes, a value that ``verify`` refused.
        InvalidValue, PayloadTooLarge: the leader's value cannot travel.

    Threads may each call it with names of their own. A fork during the call leaves the child with nothing.

    >>> import tempfile, threading
    >>> from snapring.rendezvous import LocalGroup
    >>> path = tempfile.mkdtemp()
    >>> def rank(number: int) -> None:
    ...     group = LocalGroup(path, number, 2, job="launch-7")
    ...     mine = {"endpoint": "tcp://10.0.0.1:40123", "key": "a CURVE public key"} if number == 0 else {}
    ...     agreed = sync_from_leader(mine, group, timeout=30)
    ...     if number == 1:
    ...         print(agreed["endpoint"])
    >>> threads = [threading.Thread(target=rank, args=(number,)) for number in range(2)]
    >>> for thread in threads: thread.start()
    >>> for thread in threads: thread.join()
    tcp://10.0.0.1:40123
    """
    if group.size == 1:
        return value
    folder = check_name(f"sync.{name}", "the name of a sync")
    patience = Patience(timeout)
    entry = OwnEntry(group, folder, patience, ttl=timeout + LINGER_S)
    if group.rank == LEADER:
        _Leader(group, folder, patience, entry).lead(value)
        return value
    return cast("T", _Follower(group, folder, patience, entry).follow(value, verify, elsewhere))


class _Side:
    """What leader and follower share: who they are, where they look, how long they wait."""

    def __init__(self, group: Group, folder: str, patience: Patience, entry: OwnEntry) -> None:
        self.group, self.folder, self.patience, self.entry = group, folder, patience, entry
        self.me = Member.of(group)

    def where(self, rank: int) -> str:
        return f"entry {self.folder}/{rank} at {self.group.describe()}"

    def answers(self, entries: dict[int, bytes]) -> dict[int, Answer]:
        return {rank: decode(entry, Answer, self.where(rank)) for rank, entry in entries.items() if rank != LEADER}

    def entries(self) -> dict[int, bytes]:
        return self.patience.ask(lambda timeout: self.group.read_all(self.folder, timeout))

    def late(self, what: str) -> RendezvousTimeout:
        return RendezvousTimeout(
            f"rank {self.me.rank} of job {self.me.job!r} waited {self.patience.elapsed:.1f} s at"
            f" {self.group.describe()}: {what}; last error: {self.patience.last_error or 'none'}"
        )


class _Leader(_Side):
    """Rank 0: offers, waits until all have answered, agrees, waits until all have taken."""

    def lead(self, value: object) -> None:
        offer = Offer(self.me, *pack(value))
        self._tell(lambda: self.entry.claim(lambda _: offer))
        roster = self._gather(offer)
        agreed = Offer(self.me, offer.kind, offer.value, Verdict("", roster))
        self._tell(lambda: self.entry.write(agreed))
        self._confirm(roster)

    def _tell(self, write: Callable[[], None]) -> None:
        try:
            write()
        except RendezvousTimeout as error:
            raise self.late(
                "the store does not take the offer of the leader; start it, or correct its address"
            ) from error

    def _gather(self, offer: Offer) -> dict[int, str]:
        """Nonces of all followers once all have answered; what was seen last tells who is missing."""
        answers: dict[int, Answer] = {}
        absent = agreement.missing(self.me, answers)
        heard = 0
        try:
            while absent:
                answers = self._answers()
                if fault := agreement.disagreement(self.me, answers):
                    self._refuse(offer, fault, answers)
                    raise RendezvousFailed(fault)
                if len(roster := agreement.roster(self.me, answers)) > heard:
                    heard = len(roster)
                    self.patience.hurry()
                if absent := agreement.missing(self.me, answers):
                    self.patience.pause()
        except RendezvousTimeout as error:
            fault = f"{agreement.named(absent)} did not answer the leader; see why, or give a longer timeout"
            self._refuse(offer, fault, answers)
            raise self.late(fault) from error
        return agreement.roster(self.me, answers)

    def _confirm(self, roster: dict[int, str]) -> None:
        """Returns once all followers of the roster have taken the value."""
        absent = sorted(roster)
        try:
            while absent:
                taken = agreement.taken(roster, self.me, self._answers())
                if faults := [f"rank {rank} cannot use it: {took.fault}" for rank, took in taken.items() if took.fault]:
                    raise RendezvousFailed(f"the value of {self.me} failed: {'; '.join(faults)}")
                if absent := [rank for rank in sorted(roster) if rank not in taken]:
                    self.patience.pause()
        except RendezvousTimeout as error:
            raise self.late(f"{agreement.named(absent)} answered but did not take the value") from error

    def _answers(self) -> dict[int, Answer]:
        entries = self.entries()
        self.entry.check(entries.get(LEADER))
        return self.answers(entries)

    def _refuse(self, offer: Offer, fault: str, answers: dict[int, Answer]) -> None:
        """Tells those who answered, so that they need not wait; they end without it too."""
        verdict = Verdict(fault, agreement.roster(self.me, answers))
        with suppress(RendezvousFailed):
            self.entry.write(Offer(self.me, offer.kind, offer.value, verdict), Patience(FAREWELL_S))


class _Follower(_Side):
    """Any other rank: answers each offer it sees, takes the value once a verdict names it."""

    taken: Taken | None = None

    def follow(
        self,
        mine: object,
        verify: Callable[[T, float], bool] | None,
        elsewhere: Callable[[float], T | None] | None,
    ) -> object:
        self.patience.last_error = "no offer found"
        leader: Member | None = None
        is_joined = False
        try:
            while True:
                if elsewhere is not None and (value := elsewhere(self.patience.left)) is not None:
                    return value
                if not is_joined:
                    self.entry.claim(self._joined)
                    is_joined = True
                found = self.patience.ask(lambda timeout: self.group.read(self.folder, LEADER, timeout))
                if found is not None:
                    offer = decode(found, Offer, self.where(LEADER))
                    if self._heard(offer, leader):
                        return self._take(offer, mine, verify)
                    leader = self._answer(offer, leader)
                self.patience.pause()
        except RendezvousTimeout as error:
            raise self.late(self._absent(leader)) from error

    def _joined(self, before: bytes | None) -> Answer:
        """This process's first answer; it passes on what its rank took last, which the leader may not have seen yet."""
        self.taken = decode(before, Answer, self.where(self.me.rank)).taken if before is not None else None
        return Answer(self.me, taken=self.taken)

    def _heard(self, offer: Offer, leader: Member | None) -> bool:
        """Whether the leader agreed with this very process; raises when it has refused, or agreed with another one."""
        verdict = offer.verdict
        if agreement.usurped(self.me, offer, leader.nonce if leader else ""):
            raise RendezvousFailed(
                f"{offer.member} agreed with another process of rank {self.me.rank}; end one of them"
            )
        if verdict is None or verdict.roster.get(self.me.rank) != self.me.nonce:
            return False
        if verdict.fault:
            raise RendezvousFailed(f"{offer.member} at {self.group.describe()} gave up: {verdict.fault}")
        return True

    def _answer(self, offer: Offer, leader: Member | None) -> Member | None:
        """Answers an offer that is new and open; an old leader's, or one that came too late, is let be."""
        if offer.verdict is not None:
            ended = offer.verdict.fault or "it agreed without this process"
            self.patience.last_error = f"the leader found there, {offer.member}, has ended: {ended}"
        elif leader is None or leader.nonce != offer.member.nonce:
            self.entry.write(Answer(self.me, offer.member.nonce, self.taken))
            self.patience.last_error = f"{offer.member} has offered a value, but not heard from all ranks"
            self.patience.hurry()
            return offer.member
        return leader

    def _take(self, offer: Offer, mine: object, verify: Callable[[T, float], bool] | None) -> object:
        value = unpack(offer.kind, offer.value)
        fault = self._verified(cast("T", value), verify)
        self.taken = Taken(offer.member.nonce, self.me.nonce, fault)
        self.entry.write(Answer(self.me, offer.member.nonce, self.taken))
        if fault:
            raise RendezvousFailed(f"the value of {offer.member} failed: {fault}; see that it is reachable from here")
        if value != mine:
            _LOG.info("rank %d takes the leader's value: %s -> %s", self.me.rank, shown(mine), shown(value))
        return value

    def _verified(self, value: T, verify: Callable[[T, float], bool] | None) -> str:
        if verify is None:
            return ""
        try:
            good = verify(value, self.patience.left)
        except OSError as error:
            return f"{shown(value)}: {error}"
        return "" if good else f"nothing answers at {shown(value)}"

    def _absent(self, leader: Member | None) -> str:
        """Who is missing, as far as the store still tells within a moment."""
        who = f"its leader is {leader}" if leader else "the leader, rank 0, made no offer"
        try:
            entries = self.group.read_all(self.folder, FAREWELL_S)
        except RendezvousFailed:
            return f"{who}; which ranks are missing is unknown, as the store does not answer"
        absent = [rank for rank in range(self.me.size) if rank not in entries]
        return f"{who}; {agreement.named(absent) + ' never came' if absent else 'all ranks have left an entry'}"

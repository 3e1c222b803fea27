"""Who is missing, who disagrees, who was spoken to: the rules of a sync, as functions of the entries alone.

A sync has one entry per rank, and each is written by its rank only:

1. the leader offers a value under its nonce;
2. every follower answers with the nonce that it saw, and with a nonce of its own;
3. once *all* have answered to this very nonce, the leader adds its verdict, which lists the nonces that it heard;
4. a follower takes the value when it finds its own nonce there, and says so; the leader returns when all have.

So a value is taken only from a leader that was alive after the follower began (a stale job cannot know its nonce), and
two leaders cannot both agree: that would need a follower whose one entry names both.
"""

from collections.abc import Mapping

from snapring.rendezvous.records import Answer, Member, Offer, Taken

__all__ = ["disagreement", "missing", "named", "roster", "taken", "usurped"]


def missing(leader: Member, answers: Mapping[int, Answer]) -> list[int]:
    """Followers that have not yet answered this leader's offer, ascending."""
    heard = roster(leader, answers)
    return [rank for rank in range(1, leader.size) if rank not in heard]


def roster(leader: Member, answers: Mapping[int, Answer]) -> dict[int, str]:
    """Nonces of the followers that have answered this leader's offer."""
    return {rank: answer.member.nonce for rank, answer in answers.items() if answer.leader == leader.nonce}


def disagreement(leader: Member, answers: Mapping[int, Answer]) -> str:
    """Why this leader and a follower that answered it can never agree; empty when they can."""
    for rank, answer in sorted(answers.items()):
        follower = answer.member
        if answer.leader == leader.nonce and (follower.size, follower.rank) != (leader.size, rank):
            return f"{follower} answered, but the leader is {leader}; start all ranks with one size"
    return ""


def taken(agreed: Mapping[int, str], leader: Member, answers: Mapping[int, Answer]) -> dict[int, Taken]:
    """What the followers of the roster say that they took from this leader, by rank."""
    found = {rank: answer.taken for rank, answer in sorted(answers.items())}
    return {
        rank: took
        for rank, took in found.items()
        if took is not None and (took.leader, took.follower) == (leader.nonce, agreed.get(rank))
    }


def named(ranks: list[int]) -> str:
    """Ranks as messages name them: all of them up to a dozen, then the first ones and a count."""
    shown = ", ".join(map(str, ranks[:12]))
    more = f" and {len(ranks) - 12} more" if len(ranks) > 12 else ""  # noqa: PLR2004  a dozen, as above
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {shown}{more}"


def usurped(me: Member, offer: Offer, answered: str) -> bool:
    """Whether the leader that this follower answered has agreed with another process of the same rank."""
    verdict = offer.verdict
    return (
        verdict is not None
        and not verdict.fault
        and offer.member.nonce == answered
        and verdict.roster.get(me.rank) != me.nonce
    )

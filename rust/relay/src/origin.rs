//! Which of two values of a rank is the newer one, when they come from processes that may have restarted.
//!
//! Pure: the relay tells what it knows, and gets a verdict. An *incarnation* is one life of a sender: the wall clock of
//! its start and a random number.

use snapring_core::Origin;

/// What to do with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Publish it: newer, from the same incarnation.
    Newer,
    /// Publish it: from another incarnation, which takes over.
    Successor,
    /// Nothing new: the newest one, repeated.
    Repeat,
    /// Drop it: older than the newest one of the same incarnation.
    Older,
    /// Drop it: from an incarnation that a living one has replaced.
    Replaced,
}

/// Judges a value of `offered` against the `newest` one that the slot holds, if any.
///
/// `fresh_claim`: the relay has not published this rank since it claimed it; then the newest value, repeated, is
/// published once more, under the epoch of the new claim. `newest_connected`: the sender of the newest value is still
/// connected, or may be about to be.
///
/// The wall clock of a host may go back between two lives of a sender. So an incarnation that looks older is not
/// refused for ever, but only while the one that looks newer is there.
pub fn judge(newest: Option<Origin>, offered: Origin, fresh_claim: bool, newest_connected: bool) -> Verdict {
    let Some(newest) = newest else { return Verdict::Successor };
    if incarnation(newest) == incarnation(offered) {
        return match offered.version.cmp(&newest.version) {
            std::cmp::Ordering::Greater => Verdict::Newer,
            std::cmp::Ordering::Equal if fresh_claim => Verdict::Newer,
            std::cmp::Ordering::Equal => Verdict::Repeat,
            std::cmp::Ordering::Less => Verdict::Older,
        };
    }
    if incarnation(offered) > incarnation(newest) || !newest_connected { Verdict::Successor } else { Verdict::Replaced }
}

/// The part that names one life of a sender; ordered by its start.
pub fn incarnation(origin: Origin) -> (u64, u64) {
    (origin.start, origin.random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin(start: u64, version: u64) -> Origin {
        Origin { start, random: 1, version }
    }

    #[test]
    fn each_verdict_has_its_case() {
        let newest = Some(origin(10, 5));
        for (offered, fresh, connected, verdict) in [
            (origin(10, 6), false, true, Verdict::Newer),
            (origin(10, 9), false, false, Verdict::Newer),
            (origin(10, 5), false, true, Verdict::Repeat),
            (origin(10, 5), true, true, Verdict::Newer),
            (origin(10, 4), true, false, Verdict::Older),
            (origin(11, 1), false, true, Verdict::Successor),
            (origin(9, 99), false, true, Verdict::Replaced),
            (origin(9, 99), false, false, Verdict::Successor),
        ] {
            assert_eq!(judge(newest, offered, fresh, connected), verdict, "{offered:?} {fresh} {connected}");
        }
        assert_eq!(judge(None, origin(1, 1), false, false), Verdict::Successor);
    }

    proptest! {
        /// Whoever is connected: a verdict to publish never moves one life backward, and only leaves a later life for an
        /// earlier one when that is not connected.
        #[test]
        fn an_earlier_life_needs_the_later_one_gone(
            newest in (1u64..4, 1u64..4, 1u64..9), offered in (1u64..4, 1u64..4, 1u64..9), fresh: bool, connected: bool,
        ) {
            let origin = |(start, random, version)| Origin { start, random, version };
            let (newest, offered) = (origin(newest), origin(offered));
            if matches!(judge(Some(newest), offered, fresh, connected), Verdict::Newer | Verdict::Successor) {
                let same = incarnation(newest) == incarnation(offered);
                let forward = if same { offered.version >= newest.version } else { offered > newest || !connected };
                prop_assert!(forward);
            }
        }

        /// However the frames of any number of lives are shuffled and repeated: while nobody disconnects, the slot
        /// ends with the newest value of the newest life that was heard, and (incarnation, version) only grows.
        #[test]
        fn shuffled_frames_only_move_forward(
            frames in prop::collection::vec((1u64..5, 1u64..40), 1..400)
        ) {
            let mut newest = None;
            for &(start, version) in &frames {
                let offered = origin(start, version);
                if matches!(judge(newest, offered, false, true), Verdict::Newer | Verdict::Successor) {
                    if let Some(old) = newest {
                        prop_assert!(offered > old);
                    }
                    newest = Some(offered);
                }
            }
            let life = frames.iter().map(|frame| frame.0).max().unwrap();
            prop_assert_eq!(newest.map(|newest| newest.start), Some(life));
            let first = frames.iter().filter(|frame| frame.0 == life).map(|frame| frame.1).max();
            prop_assert_eq!(newest.map(|newest| newest.version), first);
        }
    }
}
